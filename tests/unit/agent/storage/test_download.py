"""Reading over a network, from a store that is scripted: what breaks, what changes, what is never kept."""

import asyncio
import errno
import hashlib
import itertools
import os
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.storage import download
from agent.storage.download import Found, Remote, Write
from agent.storage.faults import Fault, Kind
from agent.storage.patience import Patience
from agent.storage.values import Identity
from presets.problems import MediaFailure
from presets.reasons import Reason

URI = "archive://bucket/talk.wav"
CONTENT = os.urandom(100) * 1000
PATIENCE = Patience(tries=3, first_wait_s=0.0, longest_wait_s=0.0)

Serve = Callable[["Scripted", int, int, Write], Awaitable[None]]


class Scripted(Remote):
    """A store with one object, which sends what ``serve`` says."""

    def __init__(self, serve: Serve | None = None, *, ranged: bool = True) -> None:
        super().__init__("archive", PATIENCE)
        self.content = CONTENT
        self.ranged = ranged
        self.sha256 = ""
        self.crc32: int | None = None
        self.asked: list[tuple[int, int]] = []
        self.finds = 0
        self.at_once = self.most_at_once = 0
        self._serve = serve or whole

    async def find(self, uri: str) -> Found:
        assert uri == URI
        self.finds += 1
        token = hashlib.sha256(self.content).hexdigest()
        identity = Identity(len(self.content), token)
        return Found(identity, tag=token, ranged=self.ranged, sha256=self.sha256, crc32=self.crc32)

    async def copy(self, uri: str, found: Found, start: int, end: int, write: Write) -> None:
        self.asked.append((start, end))
        if found.tag != hashlib.sha256(self.content).hexdigest():
            raise Fault(Kind.CHANGED, "another version")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            await self._serve(self, start, end, write)
        finally:
            self.at_once -= 1


async def whole(store: Scripted, start: int, end: int, write: Write) -> None:
    for at in range(start, end, 1000):
        write(store.content[at : min(at + 1000, end)])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PIECE_BYTES", 9_999)


async def failure(store: Scripted, into: Path) -> MediaFailure:
    with pytest.raises(MediaFailure) as caught:
        await store.fetch(URI, into)
    assert list(into.parent.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("size", [1, 9_998, 9_999, 10_000, 99_990, 100_000])
async def test_pieces_make_the_whole(tmp_path: Path, size: int) -> None:
    """Whatever the size, the file is the object, each byte asked for once and never more pieces at a time than four."""
    store = Scripted()
    store.content = CONTENT[:size]
    identity = await store.fetch(URI, tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == store.content
    assert identity == await store.identify(URI)
    assert sum(end - start for start, end in store.asked) == size
    assert store.most_at_once <= download.AT_ONCE
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


async def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    """An earlier fetch, or a link left by one, makes room; what a link led to stays."""
    (tmp_path / "elsewhere").write_bytes(b"other")
    (tmp_path / "0").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "0.part").write_bytes(b"of an earlier life")
    await Scripted().fetch(URI, tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    assert (tmp_path / "elsewhere").read_bytes() == b"other"
    assert not (tmp_path / "0.part").exists()


async def test_a_broken_piece_goes_on_where_it_broke(tmp_path: Path) -> None:
    """A connection that breaks costs what had not arrived, not what had."""
    broken: set[int] = set()

    async def breaking(store: Scripted, start: int, end: int, write: Write) -> None:
        if start % 9_999 == 0 and start not in broken:
            broken.add(start)
            write(store.content[start : start + 5])
            raise Fault(Kind.BUSY, "reset")
        await whole(store, start, end, write)

    store = Scripted(breaking)
    await store.fetch(URI, tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    assert {start for start, _ in store.asked} == broken | {start + 5 for start in broken}


async def test_an_early_end_is_a_break(tmp_path: Path) -> None:
    """A server that ends before it has sent all is asked for the rest, as often as patience has it."""

    async def short(store: Scripted, start: int, end: int, write: Write) -> None:
        write(store.content[start : (start + end + 1) // 2])

    store = Scripted(short)
    store.content = CONTENT[:4]
    assert await store.fetch(URI, tmp_path / "0") == Identity(4, hashlib.sha256(CONTENT[:4]).hexdigest())
    store.content = CONTENT
    (tmp_path / "0").unlink()
    found = await failure(store, tmp_path / "0")
    assert found.reason is Reason.INPUT_UNAVAILABLE
    assert "before the end" in found.message


async def test_more_than_was_asked_for_is_never_written(tmp_path: Path) -> None:
    """A server that sends too much would write into its neighbour's piece."""

    async def long(store: Scripted, start: int, end: int, write: Write) -> None:
        write(store.content[start:end] + b"!")

    assert (await failure(Scripted(long), tmp_path / "0")).reason is Reason.INPUT_UNAVAILABLE


async def test_without_ranges_one_stream_begins_anew(tmp_path: Path) -> None:
    """What gives no ranges is read in one go, and from the start after a break; not more often than patience has it."""
    breaks = 2

    async def breaking(store: Scripted, start: int, end: int, write: Write) -> None:
        assert (start, end) == (0, len(CONTENT))
        write(store.content[:50_000])
        nonlocal breaks
        breaks -= 1
        if breaks >= 0:
            raise Fault(Kind.BUSY, "reset")
        write(store.content[50_000:])

    await Scripted(breaking, ranged=False).fetch(URI, tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    (tmp_path / "0").unlink()
    breaks = 3
    assert (await failure(Scripted(breaking, ranged=False), tmp_path / "0")).reason is Reason.INPUT_UNAVAILABLE


@pytest.mark.parametrize("times", [1, 2])
async def test_a_change_in_the_middle(tmp_path: Path, times: int) -> None:
    """Another version in the middle means starting over, once; then the input is what changed. Never a mixture."""
    left = times

    async def changing(store: Scripted, start: int, end: int, write: Write) -> None:
        nonlocal left
        await whole(store, start, end, write)
        if start == 9_999 and left:
            left -= 1
            store.content = store.content[::-1]

    store = Scripted(changing)
    if times == 1:
        identity = await store.fetch(URI, tmp_path / "0")
        assert (tmp_path / "0").read_bytes() == CONTENT[::-1]
        assert identity.token == hashlib.sha256(CONTENT[::-1]).hexdigest()
    else:
        assert (await failure(store, tmp_path / "0")).reason is Reason.INPUT_CHANGED
    assert store.finds == 2


@pytest.mark.parametrize("known", ["sha256", "crc32"])
@pytest.mark.parametrize("times", [1, 2])
async def test_wrong_bytes(tmp_path: Path, known: str, times: int) -> None:
    """Bytes that do not have the checksum the store tells are fetched again, once, and never kept."""
    left = times

    async def spoiling(store: Scripted, start: int, end: int, write: Write) -> None:
        nonlocal left
        if start == 19_998 and left:
            left -= 1
            write(bytes(end - start))
        else:
            await whole(store, start, end, write)

    store = Scripted(spoiling)
    store.sha256 = hashlib.sha256(CONTENT).hexdigest() if known == "sha256" else ""
    store.crc32 = zlib.crc32(CONTENT) if known == "crc32" else None
    if times == 1:
        await store.fetch(URI, tmp_path / "0")
        assert (tmp_path / "0").read_bytes() == CONTENT
    else:
        found = await failure(store, tmp_path / "0")
        assert found.reason is Reason.INPUT_UNAVAILABLE
        assert "checksum" in found.message


async def test_an_empty_object(tmp_path: Path) -> None:
    """No bytes are no input."""
    store = Scripted()
    store.content = b""
    assert (await failure(store, tmp_path / "0")).reason is Reason.INPUT_EMPTY


@pytest.mark.parametrize(
    ("kind", "reason", "tries"),
    [
        (Kind.BUSY, Reason.INPUT_UNAVAILABLE, 3),
        (Kind.DENIED, Reason.INPUT_UNAVAILABLE, 1),
        (Kind.REFUSED, Reason.INPUT_UNAVAILABLE, 1),
    ],
)
async def test_tries_are_bounded(tmp_path: Path, kind: Kind, reason: Reason, tries: int) -> None:
    """What may pass is asked for again as often as patience has it; what will not, once."""

    async def refusing(_: Scripted, __: int, ___: int, ____: Write) -> None:
        raise Fault(kind, "no")

    store = Scripted(refusing)
    store.content = b"x"
    assert (await failure(store, tmp_path / "0")).reason is reason
    assert len(store.asked) == tries


async def test_a_full_disk_is_the_machines_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the bytes is told as what it is, and what was written is removed."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        await Scripted().fetch(URI, tmp_path / "0")
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_fetch(tmp_path: Path) -> None:
    """Cancelling takes effect at once, though a thread is still receiving; what that one brings goes nowhere."""
    late: list[Write] = []
    hanging = asyncio.Event()

    async def hang(_: Scripted, __: int, ___: int, write: Write) -> None:
        late.append(write)
        hanging.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Scripted(hang).fetch(URI, tmp_path / "0"))
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Fault, match="abandoned"):
        late[0](b"late")


def test_a_huge_object_has_few_pieces() -> None:
    """Ranges are contiguous, and an object of terabytes is no million of tasks."""
    for size in (1, 9_999, 5 * 2**40):
        spans = list(download._spans(size))
        assert spans[0][0] == 0
        assert spans[-1][1] == size
        assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
        assert len(spans) <= 4096
