"""Files into the controller's own store and out of it, by the real wire: cuts, restarts, quotas, several of them."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller import deposits as served
from controller.archive import STRAY_S, Archive
from controller.deposits import FLUSH_S, PIECE_BYTES, SEGMENT_BYTES, Deposits
from controller.loops import Housekeeper
from controller.server import running
from controller.settings import Depositing, Keeping, Settings
from controller.store.tables import DEFAULT_TENANT
from controller.store.writer import Store
from mediactl import AsyncClient, Client, Credentials, MediactlError
from mediactl.channel import aio_channel
from mediactl.v1 import transfer_service_pb2 as pb
from mediactl.v1 import transfer_service_pb2_grpc
from presets.reasons import Reason
from tests.fakes.object_server import ObjectServer
from tests.fakes.postgres import Postgres
from tests.fakes.proxy import Proxy
from tests.fakes.running import QUICK, Desk, eventually, migrate, sqlite_desk

CONTENT = random.Random(5).randbytes(2 * SEGMENT_BYTES + PIECE_BYTES + 77)  # noqa: S311 - noise
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Source = Callable[[int], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Box:
    """A controller on TCP; `archive` is its own store, seen beside it."""

    address: str
    client: AsyncClient
    archive: Archive
    store: Store

    async def blobs(self) -> list[str]:
        return sorted([key async for page in self.archive.older("deposits/", _AGES_US) for key in page])


_AGES_US = 10**17
"""When everything that is there now is old."""


@asynccontextmanager
async def _box(data_dir: Path, url: str = "", **given: Any) -> AsyncIterator[Box]:
    data_dir.mkdir(exist_ok=True)
    url = url or (data_dir / "store").as_uri()
    facts: dict[str, Any] = {"socket": None, "listen": "127.0.0.1:0", "timers": QUICK, "log_transitions": False}
    async with running(Settings(data_dir=data_dir, store=url, **(facts | given))) as this:
        [address] = this.addresses
        async with AsyncClient(address, credentials=Credentials()) as client:
            yield Box(address, client, Archive(url), this.store)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with _box(tmp_path / "one") as box:
        yield box


def _from(content: bytes, *, piece: int = PIECE_BYTES, sent: list[int] | None = None) -> Source:
    """A source of it, which notes where it was begun from."""

    async def source(offset: int) -> AsyncIterator[bytes]:
        if sent is not None:
            sent.append(offset)
        while offset < len(content):
            yield content[offset : offset + piece]
            offset += piece

    return source


async def _begin(client: AsyncClient, content: bytes = CONTENT, name: str = "talk.wav") -> pb.Deposit:
    return await client.begin_upload(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


async def _read(client: AsyncClient, uri: str, **given: Any) -> bytes:
    return b"".join([piece.data async for piece in client.read_deposit(uri, **given)])


async def _refused(work: Any) -> MediactlError:
    with pytest.raises(MediactlError) as caught:
        await work
    return caught.value


async def test_the_whole_way(box: Box, tmp_path: Path) -> None:
    """A file comes back as it was, whole or a range of it, by either client; again it need not be sent."""
    file = tmp_path / "a talk?.wav"
    file.write_bytes(CONTENT)
    deposit = await box.client.upload(file)
    assert deposit.uri == f"controller://uploads/{deposit.upload_id}/a%20talk%3F.wav"
    assert (deposit.whole, deposit.size_bytes, deposit.sha256) == (True, len(CONTENT), SHA256)
    assert await _read(box.client, deposit.uri) == CONTENT
    for offset, length in ((0, 1), (SEGMENT_BYTES - 1, 2), (3, 2 * SEGMENT_BYTES), (len(CONTENT) - 1, 1), (7, 0)):
        expected = CONTENT[offset : offset + length] if length else CONTENT[offset:]
        assert await _read(box.client, deposit.uri, offset=offset, length=length) == expected
    pieces = [piece async for piece in box.client.read_deposit(deposit.uri)]
    assert max(len(piece.data) for piece in pieces) <= PIECE_BYTES

    def blocking() -> tuple[pb.Deposit, bytes]:
        with Client(box.address) as client:
            again = client.upload(file)
            return again, b"".join(piece.data for piece in client.read_deposit(again.uri))

    again, content = await asyncio.to_thread(blocking)
    assert (again.upload_id, content) == (deposit.upload_id, CONTENT)
    assert len(await box.blobs()) == 3
    await box.client.delete_deposit(deposit.uri)
    await box.client.delete_deposit(deposit.uri)
    assert await box.blobs() == []
    assert (await _refused(box.client.get_deposit(deposit.uri))).reason is Reason.DEPOSIT_NOT_FOUND


async def test_nothing_is_read_before_it_is_finished(box: Box) -> None:
    """All of it having arrived is not enough; and it is not finished before."""
    begun = await _begin(box.client)
    assert not begun.received_bytes
    early = await _refused(box.client.finish_upload(begun.upload_id))
    assert early.reason is Reason.INVALID_ARGUMENT
    assert f"0 of {len(CONTENT)} bytes" in early.message
    arrived = await box.client.extend_upload(begun, _from(CONTENT))
    assert (arrived.received_bytes, arrived.whole) == (len(CONTENT), False)
    for refused in (box.client.get_deposit(begun.uri), _read(box.client, begun.uri)):
        assert (await _refused(refused)).reason is Reason.DEPOSIT_NOT_FOUND
    finished = await box.client.finish_upload(begun.upload_id)
    assert (await box.client.finish_upload(begun.upload_id)) == finished
    assert await _read(box.client, begun.uri) == CONTENT


@pytest.mark.parametrize("seed", range(3))
async def test_a_link_that_breaks_again_and_again(box: Box, seed: int) -> None:
    """The file arrives whole, and no more is sent again than what was in memory."""
    dice = random.Random(seed)  # noqa: S311 - chance, no secret
    sent: list[int] = []
    async with Proxy(box.address) as proxy, AsyncClient(proxy.address) as client:
        begun = await _begin(client)
        proxy.delay_s = 0.002
        sending = asyncio.create_task(client.extend_upload(begun, _from(CONTENT, piece=64 * 1024, sent=sent)))
        for _ in range(4):
            goal = dice.randrange(len(CONTENT))

            def there(now: pb.Deposit, goal: int = goal) -> bool:
                return sending.done() or now.received_bytes >= goal

            await eventually(lambda: box.client.get_deposit(upload_id=begun.upload_id), there)
            proxy.cut()
            proxy.mend()
        await sending
    assert sent == sorted(sent)
    assert await _read(box.client, (await box.client.finish_upload(begun.upload_id)).uri) == CONTENT


async def test_a_download_that_breaks_goes_on(box: Box) -> None:
    """Behind what arrived, in the same version."""
    begun = await _begin(box.client)
    await box.client.extend_upload(begun, _from(CONTENT))
    uri = (await box.client.finish_upload(begun.upload_id)).uri
    async with Proxy(box.address) as proxy, AsyncClient(proxy.address) as client:
        got = bytearray()
        async for piece in client.read_deposit(uri):
            if len(got) < SEGMENT_BYTES <= len(got) + len(piece.data) or not got:
                proxy.cut()
                proxy.mend()
            got += piece.data
    assert proxy.accepted >= 2
    assert bytes(got) == CONTENT


async def test_a_call_that_is_cut_off_keeps_what_came(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is less than a segment."""
    begun = await _begin(box.client)
    arrived = asyncio.Event()
    take = served._Growing.take

    async def watched(self: Any, pieces: AsyncIterator[tuple[int, bytes]]) -> None:
        async def seen() -> AsyncIterator[tuple[int, bytes]]:
            async for offset, data in pieces:
                yield offset, data
                if offset:
                    arrived.set()

        await take(self, seen())

    monkeypatch.setattr(served._Growing, "take", watched)

    async def messages() -> AsyncIterator[pb.ExtendUploadRequest]:
        for offset in range(0, 3 * PIECE_BYTES, PIECE_BYTES):
            data = CONTENT[offset : offset + PIECE_BYTES]
            yield pb.ExtendUploadRequest(upload_id=begun.upload_id, offset=offset, data=data)
        await asyncio.Event().wait()

    async with aio_channel(box.address) as channel:
        call = transfer_service_pb2_grpc.TransferServiceStub(channel).ExtendUpload(messages())
        await arrived.wait()
        call.cancel()
        now = await eventually(
            lambda: box.client.get_deposit(upload_id=begun.upload_id), lambda now: now.received_bytes > 0
        )
    assert 0 < now.received_bytes <= 3 * PIECE_BYTES
    sent: list[int] = []
    await box.client.extend_upload(now, _from(CONTENT, sent=sent))
    assert sent == [now.received_bytes]
    await box.client.finish_upload(begun.upload_id)
    assert await _read(box.client, begun.uri) == CONTENT
    assert len(await box.blobs()) == 3


async def test_a_slow_file_is_durable_bit_by_bit(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before a segment is full."""
    monkeypatch.setattr(served, "FLUSH_S", 0.0)
    assert FLUSH_S <= 5
    begun = await _begin(box.client)

    async def source(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(CONTENT), PIECE_BYTES):
            now = await eventually(
                lambda: box.client.get_deposit(upload_id=begun.upload_id),
                lambda now, at=at: now.received_bytes == at,  # type: ignore[misc]
            )
            assert now.received_bytes == at
            yield CONTENT[at : at + PIECE_BYTES]

    await box.client.extend_upload(begun, source)
    await box.client.finish_upload(begun.upload_id)
    assert await _read(box.client, begun.uri) == CONTENT
    assert len(await box.blobs()) == 3


async def _extend(box: Box, *messages: pb.ExtendUploadRequest) -> pb.Deposit:
    async def said() -> AsyncIterator[pb.ExtendUploadRequest]:
        for message in messages:
            yield message

    async with aio_channel(box.address) as channel:
        return (await transfer_service_pb2_grpc.TransferServiceStub(channel).ExtendUpload(said())).deposit


async def test_repeats_and_gaps(box: Box) -> None:
    """What was received is skipped, wherever a piece begins; behind a gap nothing is taken; the answer says how far."""
    begun = await _begin(box.client, CONTENT[:1000])

    def piece(start: int, end: int) -> pb.ExtendUploadRequest:
        return pb.ExtendUploadRequest(upload_id=begun.upload_id, offset=start, data=CONTENT[start:end])

    assert (await _extend(box, piece(0, 300), piece(0, 300), piece(100, 400))).received_bytes == 400
    assert (await _extend(box, piece(500, 600))).received_bytes == 400
    assert (await _extend(box, piece(0, 200), piece(200, 450), piece(460, 470), piece(450, 460))).received_bytes == 450
    assert (await _extend(box, piece(450, 1000), piece(0, 1000), piece(1000, 1000))).received_bytes == 1000
    uri = (await box.client.finish_upload(begun.upload_id)).uri
    assert (await _extend(box, piece(0, 10))).whole
    assert await _read(box.client, uri) == CONTENT[:1000]


async def test_several_who_send_the_same_file(box: Box) -> None:
    """At once: it arrives, once."""
    begun = [await _begin(box.client) for _ in range(3)]
    assert len({one.upload_id for one in begun}) == 1
    await asyncio.gather(*(box.client.extend_upload(one, _from(CONTENT, piece=100_000)) for one in begun))
    uris = await asyncio.gather(*(box.client.finish_upload(one.upload_id) for one in begun))
    assert await _read(box.client, uris[0].uri) == CONTENT


async def test_what_was_announced_otherwise_is_dropped(box: Box) -> None:
    """And nothing of it stays; the words say what to do. A file that became shorter is told from one that broke off."""
    begun = await _begin(box.client)
    await box.client.extend_upload(begun, _from(CONTENT[:-1] + b"?"))
    told = await _refused(box.client.finish_upload(begun.upload_id))
    assert (told.reason, told.exit_code) == (Reason.UPLOAD_CORRUPT, 1)
    assert SHA256 in told.message
    assert (await _refused(box.client.get_deposit(upload_id=begun.upload_id))).reason is Reason.DEPOSIT_NOT_FOUND
    assert await box.blobs() == []
    shorter = await _refused(box.client.extend_upload(await _begin(box.client), _from(CONTENT[:-1])))
    assert shorter.reason is Reason.INPUT_CHANGED


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", {"name": "../x"}),
        ("name", {"name": "a/b"}),
        ("name", {"name": ".."}),
        ("name", {"name": "a\0b"}),
        ("name", {"name": "ä" * 128}),
        ("name", {"name": ""}),
        ("name", {"uri": "controller://results/f/x"}),
        ("uri", {"name": "", "uri": "controller://uploads/f/x", "attempt_id": "a"}),
        ("uri", {"name": "", "uri": "controller://results/../x", "attempt_id": "a"}),
        ("uri", {"name": "", "uri": "s3://bucket/x/y", "attempt_id": "a"}),
        ("attempt_id", {"name": "", "uri": "controller://results/f/x"}),
        ("attempt_id", {"attempt_id": "a"}),
        ("size_bytes", {"size_bytes": 0}),
        ("size_bytes", {"size_bytes": -1}),
        ("sha256", {"sha256": SHA256.upper()}),
        ("sha256", {"sha256": ""}),
    ],
)
async def test_what_cannot_be_begun(box: Box, field: str, wrong: dict[str, Any]) -> None:
    """Is refused with the field."""
    asked: dict[str, Any] = {"name": "talk.wav", "size_bytes": 5, "sha256": SHA256}
    error = await _refused(box.client.begin_upload(**(asked | wrong)))
    assert error.reason is Reason.INVALID_ARGUMENT
    assert field in [name for name, _ in error.fields]


async def test_an_attempt_that_nobody_knows(box: Box) -> None:
    """May deposit nothing."""
    uri = "controller://results/f/x"
    error = await _refused(box.client.begin_upload(uri=uri, attempt_id="a", size_bytes=5, sha256=SHA256))
    assert error.reason is Reason.PUBLISH_REFUSED


async def test_pieces_that_mean_nothing(box: Box) -> None:
    """End the call, with the field; what came before them counts."""
    begun = await _begin(box.client, CONTENT[:100])
    for field, message in (
        ("data", {"offset": 50, "data": b"x" * 51}),
        ("data", {"data": bytes(PIECE_BYTES + 1)}),
        ("offset", {"offset": -1}),
        ("upload_id", {"upload_id": ""}),
    ):
        good = pb.ExtendUploadRequest(upload_id=begun.upload_id, data=CONTENT[:50])
        bad = pb.ExtendUploadRequest(**({"upload_id": begun.upload_id} | message))
        with pytest.raises(Exception, match=field):
            await _extend(box, *([bad] if field == "upload_id" else [good, bad]))
    assert (await box.client.get_deposit(upload_id=begun.upload_id)).received_bytes == 50
    error = await _refused(_read(box.client, "controller://uploads/x/y", offset=-1))
    assert error.reason is Reason.DEPOSIT_NOT_FOUND


async def test_a_restart_in_the_middle(tmp_path: Path) -> None:
    """The controller's next life knows how far it is."""
    async with _box(tmp_path / "one") as first:
        begun = await _begin(first.client)
        await _some(first, begun, SEGMENT_BYTES + 1000)
    async with _box(tmp_path / "one") as second:
        again = await _begin(second.client)
        assert (again.upload_id, again.received_bytes) == (begun.upload_id, SEGMENT_BYTES + 1000)
        await second.client.extend_upload(again, _from(CONTENT))
        uri = (await second.client.finish_upload(begun.upload_id)).uri
        assert await _read(second.client, uri) == CONTENT


async def test_a_controller_that_stops_in_the_middle(tmp_path: Path) -> None:
    """Ends soon, and its next life goes on; nothing of the call is left behind."""
    arrived = asyncio.Event()

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(_box(tmp_path / "one"))
        begun = await _begin(first.client)

        async def messages() -> AsyncIterator[pb.ExtendUploadRequest]:
            for offset in range(0, SEGMENT_BYTES + 2 * PIECE_BYTES, PIECE_BYTES):
                data = CONTENT[offset : offset + PIECE_BYTES]
                yield pb.ExtendUploadRequest(upload_id=begun.upload_id, offset=offset, data=data)
            arrived.set()
            await asyncio.Event().wait()

        channel = await stack.enter_async_context(aio_channel(first.address))
        call = transfer_service_pb2_grpc.TransferServiceStub(channel).ExtendUpload(messages())
        await arrived.wait()
        await eventually(
            lambda: first.client.get_deposit(upload_id=begun.upload_id), lambda now: now.received_bytes > 0
        )
        assert not call.done()
    async with _box(tmp_path / "one") as second:
        again = await _begin(second.client)
        assert SEGMENT_BYTES <= again.received_bytes <= SEGMENT_BYTES + 2 * PIECE_BYTES
        await second.client.extend_upload(again, _from(CONTENT))
        uri = (await second.client.finish_upload(begun.upload_id)).uri
        assert await _read(second.client, uri) == CONTENT


async def test_a_file_that_cannot_be_read(box: Box) -> None:
    """The sender hears what it was; what came before counts."""

    async def source(offset: int) -> AsyncIterator[bytes]:
        async for data in _from(CONTENT[:PIECE_BYTES])(offset):
            yield data
        raise OSError(5, "Input/output error")

    begun = await _begin(box.client)
    with pytest.raises(OSError, match="Input/output"):
        await box.client.extend_upload(begun, source)
    assert (await box.client.get_deposit(upload_id=begun.upload_id)).received_bytes == PIECE_BYTES


async def test_an_unfinished_upload_goes_on_elsewhere(postgres: Postgres, tmp_path: Path) -> None:
    """At another controller of the same database, as the store is shared."""
    with postgres.database(postgres.template("migrated", migrate)) as database:
        shared = (tmp_path / "shared").as_uri()
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(_box(tmp_path / "one", shared, database=database))
            two = await stack.enter_async_context(_box(tmp_path / "two", shared, database=database))
            begun = await _begin(one.client)
            await _some(one, begun, SEGMENT_BYTES + 77)
            again = await _begin(two.client)
            assert (again.upload_id, again.received_bytes) == (begun.upload_id, SEGMENT_BYTES + 77)
            await two.client.extend_upload(again, _from(CONTENT))
            uri = (await one.client.finish_upload(begun.upload_id)).uri
            assert await _read(two.client, uri) == CONTENT


async def _some(box: Box, begun: pb.Deposit, end: int) -> None:
    pieces = range(0, end, PIECE_BYTES)
    await _extend(
        box,
        *(
            pb.ExtendUploadRequest(upload_id=begun.upload_id, offset=at, data=CONTENT[at : min(at + PIECE_BYTES, end)])
            for at in pieces
        ),
    )


async def test_a_directory_is_of_one_controller(postgres: Postgres, tmp_path: Path) -> None:
    """The other one says so; who knows both finds the right one."""
    with postgres.database(postgres.template("migrated", migrate)) as database:
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(_box(tmp_path / "one", database=database))
            two = await stack.enter_async_context(_box(tmp_path / "two", database=database))
            begun = await _begin(one.client)
            await one.client.extend_upload(begun, _from(CONTENT))
            for refused in (two.client.finish_upload(begun.upload_id), _extend_all(two.client, begun)):
                error = await _refused(refused)
                assert (error.reason, error.exit_code) == (Reason.DEPOSIT_ELSEWHERE, 4)
                assert "only the controller that has it" in error.message
            both = await stack.enter_async_context(AsyncClient(f"{two.address},{one.address}"))
            uri = (await both.finish_upload(begun.upload_id)).uri
            assert await _read(both, uri) == CONTENT
            assert (await _refused(_read(two.client, uri))).reason is Reason.DEPOSIT_ELSEWHERE
            # The same file for the other one is another deposit.
            assert (await _begin(two.client)).upload_id != begun.upload_id


async def _extend_all(client: AsyncClient, begun: pb.Deposit) -> pb.Deposit:
    return await client.extend_upload(begun, _from(CONTENT))


async def test_a_bucket(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As store of two lives of a controller."""
    bucket = object_server.make_bucket()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", object_server.access_key),
        ("AWS_SECRET_ACCESS_KEY", object_server.secret_key),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT", object_server.endpoint),
        ("AWS_ALLOW_HTTP", "true"),
    ):
        monkeypatch.setenv(name, value)
    url = f"s3://{bucket}/own"
    async with _box(tmp_path / "one", url) as first:
        begun = await _begin(first.client)
        await _some(first, begun, SEGMENT_BYTES + 99)
    async with _box(tmp_path / "one", url) as second:
        again = await _begin(second.client)
        assert (again.upload_id, again.received_bytes) == (begun.upload_id, SEGMENT_BYTES + 99)
        await second.client.extend_upload(again, _from(CONTENT))
        uri = (await second.client.finish_upload(begun.upload_id)).uri
        assert await _read(second.client, uri) == CONTENT
        await second.client.delete_deposit(uri)
        assert [key for key in object_server.keys(bucket) if "deposits/" in key] == []


async def test_room(tmp_path: Path) -> None:
    """What goes beyond the quota is refused, in figures, before it is sent; what is deleted makes room."""
    async with _box(tmp_path / "one", depositing=Depositing(quota_bytes=len(CONTENT) + 10)) as box:
        begun = await _begin(box.client)
        error = await _refused(_begin(box.client, b"eleven byte"))
        assert (error.reason, error.exit_code) == (Reason.QUOTA_EXCEEDED, 2)
        assert f"{len(CONTENT)} of {len(CONTENT) + 10} are taken" in error.message
        await box.client.delete_deposit(upload_id=begun.upload_id)
        assert not (await _begin(box.client, b"eleven byte")).whole


async def test_controllers_that_take_nothing(postgres: Postgres, tmp_path: Path) -> None:
    """By their quota, or for want of a store; they go on all the same."""
    async with _box(tmp_path / "one", depositing=Depositing(quota_bytes=0)) as box:
        error = await _refused(_begin(box.client))
        assert (error.reason, error.exit_code) == (Reason.DEPOSITS_OFF, 2)
        assert "--deposit-quota 0" in error.message
    with postgres.database(postgres.template("migrated", migrate)) as database:
        settings = Settings(data_dir=tmp_path / "two", socket=tmp_path / "c.sock", listen=None, database=database)
        async with running(settings) as this, AsyncClient(this.addresses[0]) as client:
            error = await _refused(_begin(client))
            assert error.reason is Reason.DEPOSITS_OFF
            assert "--store" in error.message
            deposits = Deposits(this.store, None, Depositing())
            await Housekeeper(this.store, None, Keeping(), deposits).keep()


async def test_what_has_had_its_time_is_deleted(tmp_path: Path) -> None:
    """From the database and from the store, by a clock of the test's own."""
    async with sqlite_desk() as desk:
        archive = Archive((tmp_path / "store").as_uri())
        deposits = Deposits(desk.store, archive, Depositing(lifetime_s=100))
        rows = [await _deposited(desk, deposits, content) for content in (CONTENT, b"other")]
        desk.wait(99)
        await deposits.sweep()
        assert b"".join([data async for data in deposits.read(rows[0])]) == CONTENT
        desk.wait(1)
        await deposits.sweep()
        assert not [key async for page in archive.older("deposits/", _AGES_US) for key in page]
        assert not [*(tmp_path / "store" / "deposits" / "default").iterdir()]
        with pytest.raises(MediactlError, match="expired"):
            await deposits.at(DEFAULT_TENANT, rows[0].path)


async def _deposited(desk: Desk, deposits: Deposits, content: bytes) -> Any:
    row = await deposits.begin(
        DEFAULT_TENANT,
        name="x",
        path="",
        attempt_id="",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )

    async def pieces() -> AsyncIterator[tuple[int, bytes]]:
        for at in range(0, len(content), PIECE_BYTES):
            yield at, content[at : at + PIECE_BYTES]

    await deposits.extend(DEFAULT_TENANT, row.id, pieces())
    told = [one async for one in deposits.finish(DEFAULT_TENANT, row.id, overwrite=False)]
    return told[-1]


async def test_strays(box: Box, tmp_path: Path) -> None:
    """What the database doesn't know is deleted once it is old enough, and what writing left; the rest stays."""
    begun = await _begin(box.client)
    await box.client.extend_upload(begun, _from(CONTENT))
    known = await box.blobs()
    await box.archive.write("deposits/default/unknown/00000000.5", b"stray")
    await box.archive.write("deposits/odd", b"stray")
    left = tmp_path / "one" / "store" / "deposits" / "default" / begun.upload_id / "00000000.9#1"
    left.write_bytes(b"left")
    os.utime(left, (1, 1))
    deposits = Deposits(box.store, box.archive, Depositing())
    now_us = time.time_ns() // 1000
    assert await deposits.remove_strays(now_us) == 1
    assert not left.exists()
    assert await deposits.remove_strays(now_us + int(STRAY_S * 1e6) + 1_000_000) == 2
    assert await box.blobs() == known
    assert await _read(box.client, (await box.client.finish_upload(begun.upload_id)).uri) == CONTENT


async def test_bytes_that_are_gone(box: Box) -> None:
    """A store that lost them is told from another controller's."""
    begun = await _begin(box.client)
    await box.client.extend_upload(begun, _from(CONTENT))
    uri = (await box.client.finish_upload(begun.upload_id)).uri
    await box.archive.delete((await box.blobs())[-1:])
    error = await _refused(_read(box.client, uri))
    assert (error.reason, error.exit_code) == (Reason.DEPOSIT_NOT_FOUND, 3)
    assert "gone from the controller's own store" in error.message
