"""What agents kept of failed attempts, fetched through a real controller from agents whose words a test decides."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from controller import reception
from controller.archive import Archive
from controller.core.liveness import Timers
from controller.deposits import Deposits
from controller.loops import Housekeeper
from controller.reception import WINDOW_BYTES
from controller.rpc import remains as rpc
from controller.server import running
from controller.settings import Depositing, Keeping, Settings
from mediactl import AsyncClient, Credentials, MediactlError
from mediactl.channel import aio_channel
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_service_pb2, job_service_pb2_grpc
from presets.reasons import Reason
from tests.fakes.agent_peer import AgentPeer
from tests.fakes.postgres import Postgres
from tests.fakes.running import QUICK, Controller, controller, migrate

SPEC: dict[str, Any] = {
    "inputs": [{"uri": "file:///media/talk.wav"}],
    "preset": "loudness_podcast",
    "outputs": [{"uri": "file:///media/out/"}],
    "maxAttempts": 1,
}
PIECE = 256 * 1024
ARCHIVE = os.urandom(5 * PIECE + 77)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as box:
        yield box


def _peer(box: Controller, agent_id: str = "a1", **given: Any) -> AgentPeer:
    return AgentPeer(box.channel, agent_id, **({"features": ("remains",)} | given))


async def _failed(box: Controller, agent: AgentPeer, *, kept_bytes: int = 4321) -> pb.Lease:
    await box.client.submit(SPEC)
    lease = await agent.lease()
    await agent.hold(lease.attempt_id)
    await agent.end(lease.attempt_id, reason=Reason.INPUT_CORRUPT, kept_bytes=kept_bytes)
    await agent.acknowledged(lease.attempt_id)
    return lease


async def _send(agent: AgentPeer, attempt_id: str, archive: bytes, *, piece: int = PIECE) -> None:
    """As a good agent does, as far as it is allowed to."""
    until = (await agent.collect(attempt_id)).until
    for offset in range(0, len(archive), piece):
        while offset >= until:
            until = (await agent.collect(attempt_id)).until
        await agent.say(remains=pb.Remains(attempt_id=attempt_id, offset=offset, data=archive[offset : offset + piece]))
    await agent.say(remains=pb.Remains(attempt_id=attempt_id, offset=len(archive), last=True))


async def _fetch(client: AsyncClient, job_id: str, attempt_id: str = "") -> bytes:
    return b"".join([piece.data async for piece in client.remains(job_id, attempt_id=attempt_id)])


async def _refused(client: AsyncClient, job_id: str, attempt_id: str = "") -> MediactlError:
    with pytest.raises(MediactlError) as caught:
        await _fetch(client, job_id, attempt_id)
    return caught.value


def _blobs(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "store").rglob("*") if path.is_file() and "remains" in path.parts)


async def test_the_whole_way(box: Controller, tmp_path: Path) -> None:
    """The job says how much is kept; the archive arrives as the agent sent it, and the second time without it."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        job = await box.client.get(lease.job_id)
        assert [attempt.kept_bytes for attempt in job.attempts] == [4321]
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        await _send(agent, lease.attempt_id, ARCHIVE)
        assert await fetching == ARCHIVE
    assert len(_blobs(tmp_path)) == 1
    pieces = [piece async for piece in box.client.remains(lease.job_id)]
    assert (pieces[0].job_id, pieces[0].attempt_id, pieces[0].agent_id) == (lease.job_id, lease.attempt_id, "a1")
    assert pieces[0].size_bytes == len(ARCHIVE)
    assert b"".join(piece.data for piece in pieces) == ARCHIVE
    assert max(len(piece.data) for piece in pieces) <= 1 << 20


async def test_many_who_ask_are_one_transfer(box: Controller) -> None:
    """All get the same, and the agent is asked for it once."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        fetching = [asyncio.create_task(_fetch(box.client, lease.job_id)) for _ in range(5)]
        await _send(agent, lease.attempt_id, ARCHIVE)
        assert await asyncio.gather(*fetching) == [ARCHIVE] * 5
        assert {frame.collect.attempt_id for frame in agent.unread("collect")} <= {lease.attempt_id}


async def test_a_large_archive_comes_in_windows(box: Controller) -> None:
    """The agent may never be further ahead of the store than the window."""
    archive = os.urandom(1 << 20) * 13
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        sending = asyncio.create_task(_send(agent, lease.attempt_id, archive, piece=1 << 20))
        assert await fetching == archive
        await sending
        # Heartbeats came through all the while.
        await agent.beats(1)


async def test_only_the_pieces_that_were_asked_for_count(box: Controller, tmp_path: Path) -> None:
    """Wrong offsets, repeats, other attempts, other agents' attempts and pieces beyond the window change nothing."""
    async with _peer(box) as agent, _peer(box, "a2") as other:
        # Nobody asked.
        await agent.say(remains=pb.Remains(attempt_id="unknown", data=b"x", last=True))
        # Which agent gets the job is the controller's to choose.
        await box.client.submit(SPEC)
        leases = [asyncio.create_task(one.lease()) for one in (agent, other)]
        await asyncio.wait(leases, return_when=asyncio.FIRST_COMPLETED)
        mine, stranger = (agent, other) if leases[0].done() else (other, agent)
        lease = next(task.result() for task in leases if task.done())
        for task in leases:
            task.cancel()
        of = lease.attempt_id
        await mine.hold(of)
        await mine.end(of, reason=Reason.INPUT_CORRUPT, kept_bytes=10)
        await mine.acknowledged(of)
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        await mine.collect(of)
        await stranger.say(remains=pb.Remains(attempt_id=of, data=b"forged", last=True))
        await stranger.say(remains=pb.Remains(attempt_id=of, missing="forged"))
        await stranger.beats(2)
        for wrong in (
            pb.Remains(attempt_id="unknown", data=b"x", last=True),
            pb.Remains(attempt_id=of, offset=7, data=b"late", last=True),
            pb.Remains(attempt_id=of, offset=WINDOW_BYTES, data=b"far", last=True),
            pb.Remains(attempt_id=of),
            pb.Remains(attempt_id=of, data=b"first"),
            pb.Remains(attempt_id=of, data=b"again"),
            pb.Remains(attempt_id=of, offset=5, data=b", last"),
            pb.Remains(attempt_id=of, offset=11, last=True),
            pb.Remains(attempt_id=of, offset=11, data=b"behind the end", last=True),
        ):
            await mine.say(remains=wrong)
        assert await fetching == b"first, last"
        assert len(_blobs(tmp_path)) == 1


@pytest.mark.parametrize(
    "piece", [{"offset": -1}, {"data": bytes((1 << 20) + 1)}, {"attempt_id": "x" * 200}], ids=["offset", "size", "id"]
)
async def test_what_means_nothing_ends_the_stream(box: Controller, piece: dict[str, Any]) -> None:
    """With the field that is wrong."""
    async with _peer(box) as agent:
        await agent.say(remains=pb.Remains(**piece))
        over = await agent.over()
        assert over is not None
        assert "remains" in (over.details() or "")


async def test_an_agent_that_keeps_it_no_longer(box: Controller) -> None:
    """The caller is told, and the job no longer says that something is kept."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        refused = asyncio.create_task(_refused(box.client, lease.job_id))
        await agent.collect(lease.attempt_id)
        await agent.say(remains=pb.Remains(attempt_id=lease.attempt_id, missing="dropped"))
        assert (await refused).reason is Reason.REMAINS_NOT_FOUND
        assert [one.kept_bytes for one in (await box.client.get(lease.job_id)).attempts] == [0]
        assert (await _refused(box.client, lease.job_id)).exit_code == 3


async def test_what_is_asked_for_in_vain(box: Controller) -> None:
    """Each case has a reason and words of its own."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent, kept_bytes=0)
        nothing = await _refused(box.client, lease.job_id)
        assert nothing.reason is Reason.REMAINS_NOT_FOUND
        assert "mediactl jobs logs" in nothing.message
        assert (await _refused(box.client, lease.job_id, "unknown")).reason is Reason.ATTEMPT_NOT_FOUND
        assert (await _refused(box.client, "0123456789abcdef")).reason is Reason.JOB_NOT_FOUND
        waiting = await box.client.submit(SPEC)
        await agent.lease()
        never = await _refused(box.client, waiting.id)
        assert (never.reason, "no attempt" in never.message) == (Reason.REMAINS_NOT_FOUND, True)


async def test_an_agent_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment's patience; and when it is back it delivers."""
    monkeypatch.setattr(rpc, "AWAY_S", 0.2)
    monkeypatch.setattr(rpc, "POLL_S", 0.1)
    async with controller(tmp_path, timers=Timers(heartbeat_s=0.1, unreachable_s=0.5, lost_s=60.0)) as box:
        async with _peer(box) as agent:
            lease = await _failed(box, agent)
        away = await _refused(box.client, lease.job_id)
        assert away.reason is Reason.REMAINS_UNAVAILABLE
        assert "agent box-a1, which keeps it, is not connected" in away.message
        assert away.exit_code == 6
        async with _peer(box) as agent:
            fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
            await _send(agent, lease.attempt_id, ARCHIVE)
            assert await fetching == ARCHIVE


async def test_a_cut_link_begins_anew_and_leaves_nothing_half_written(box: Controller, tmp_path: Path) -> None:
    """Whoever waits goes on waiting; the next stream of the agent is asked again, from the start."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        await agent.collect(lease.attempt_id)
        await agent.say(remains=pb.Remains(attempt_id=lease.attempt_id, data=b"the beginning of something else"))
    async with _peer(box) as agent:
        await _send(agent, lease.attempt_id, ARCHIVE)
        assert await fetching == ARCHIVE
    assert len(_blobs(tmp_path)) == 1


async def test_a_silent_agent_is_given_up(box: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked several times; the caller is not left waiting."""
    monkeypatch.setattr(reception, "ASK_S", 0.05)
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        refused = asyncio.create_task(_refused(box.client, lease.job_id))
        for _ in range(reception.TIMES_ASKED):
            await agent.collect(lease.attempt_id)
        assert (await refused).reason is Reason.REMAINS_UNAVAILABLE
        # It is still there, and may be asked for again.
        monkeypatch.undo()
        agent.forget()
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        await _send(agent, lease.attempt_id, ARCHIVE)
        assert await fetching == ARCHIVE


async def test_an_older_agent_is_not_asked(box: Controller) -> None:
    """It would not understand."""
    async with _peer(box, features=()) as agent:
        lease = await _failed(box, agent)
        assert (await _refused(box.client, lease.job_id)).reason is Reason.REMAINS_UNAVAILABLE
        assert agent.unread("collect") == []


async def test_no_more_is_taken_than_allowed(tmp_path: Path) -> None:
    """Of an archive that is larger nothing is left."""
    settings = Settings(
        data_dir=tmp_path,
        socket=tmp_path / "c.sock",
        listen=None,
        timers=QUICK,
        log_transitions=False,
        most_remains_bytes=2 * PIECE,
    )
    async with (
        running(settings) as this,
        AsyncClient(this.addresses[0], credentials=Credentials()) as client,
        aio_channel(this.addresses[0], None) as channel,
        _peer(box := Controller(this.addresses[0], client, channel, this.store)) as agent,
    ):
        lease = await _failed(box, agent)
        refused = asyncio.create_task(_refused(client, lease.job_id))
        await _send(agent, lease.attempt_id, ARCHIVE)
        assert (await refused).reason is Reason.REMAINS_UNAVAILABLE
        # The stream has not suffered.
        await agent.beats(2)
    assert _blobs(tmp_path) == []


async def test_a_fetch_that_broke_off_goes_on(box: Controller) -> None:
    """By the offset, from any controller; one behind the end gives nothing."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        await _send(agent, lease.attempt_id, ARCHIVE)
        await fetching
    stub: job_service_pb2_grpc.JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(box.channel)
    for offset in (0, 1000, len(ARCHIVE) - 1, len(ARCHIVE), len(ARCHIVE) + 5):
        call = stub.FetchRemains(job_service_pb2.FetchRemainsRequest(job_id=lease.job_id, offset=offset))
        assert b"".join([piece.data async for piece in call]) == ARCHIVE[offset:]
    with pytest.raises(Exception, match="offset"):
        async for _ in stub.FetchRemains(job_service_pb2.FetchRemainsRequest(job_id=lease.job_id, offset=-1)):
            pass


async def test_strays_are_found_and_nothing_else(box: Controller, tmp_path: Path) -> None:
    """A crash between the store and the database leaves a blob, or a part of one, that belongs to nobody."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        await _send(agent, lease.attempt_id, ARCHIVE)
        await fetching
    [mine] = _blobs(tmp_path)
    for name in ("stray.tar.gz", "unfinished.tar.gz#1"):
        (mine.parent / name).write_bytes(b"x")
    foreign = mine.parents[1] / "0123456789abcdef"
    foreign.mkdir()
    (mine.parents[2] / "README").write_bytes(b"somebody's")
    (foreign / "gone.tar.gz").write_bytes(b"x")
    archive = Archive((tmp_path / "store").as_uri())
    now_us = await box.store.read(box.store.database.now_us)
    assert await archive.remove_strays(box.store, now_us) == 0
    assert await archive.remove_strays(box.store, now_us + 2 * 3_600_000_000) == 4
    assert _blobs(tmp_path) == [mine]


async def test_by_way_of_another_controller(tmp_path: Path, postgres: Postgres) -> None:
    """The caller asks one controller, the agent is connected to the other; they share a database and a store."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres.database(postgres.template("migrated", migrate)))
        boxes = []
        for name in ("one", "two"):
            settings = Settings(
                data_dir=tmp_path / name,
                socket=tmp_path / f"{name}.sock",
                listen=None,
                database=url,
                store=(tmp_path / "store").as_uri(),
                log_transitions=False,
            )
            this = await stack.enter_async_context(running(settings))
            client = await stack.enter_async_context(AsyncClient(this.addresses[0], credentials=Credentials()))
            channel = await stack.enter_async_context(aio_channel(this.addresses[0], None))
            boxes.append(Controller(this.addresses[0], client, channel, this.store))
        here, there = boxes
        async with _peer(there) as agent:
            lease = await _failed(here, agent)
            fetching = asyncio.create_task(_fetch(here.client, lease.job_id))
            await _send(agent, lease.attempt_id, ARCHIVE)
            assert await fetching == ARCHIVE
        assert await _fetch(there.client, lease.job_id) == ARCHIVE
        assert len(_blobs(tmp_path)) == 1


async def test_it_goes_with_its_job(box: Controller, tmp_path: Path) -> None:
    """When the job is forgotten, the blob is."""
    async with _peer(box) as agent:
        lease = await _failed(box, agent)
        fetching = asyncio.create_task(_fetch(box.client, lease.job_id))
        await _send(agent, lease.attempt_id, ARCHIVE)
        await fetching
    archive = Archive((tmp_path / "store").as_uri())
    housekeeper = Housekeeper(box.store, archive, Keeping(1e-6, 1e-6), Deposits(box.store, archive, Depositing()))
    await housekeeper.keep()
    assert _blobs(tmp_path) == []
    assert (await _refused(box.client, lease.job_id)).reason is Reason.JOB_NOT_FOUND
