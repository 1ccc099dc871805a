"""Whole logs in the controller's own store: exactly what was logged, whatever crashes, in bounded memory."""

import gzip
import json
import random
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from controller.archive import FAILURES, PART_BYTES, STRAY_S, Archive, ArchiveDamaged, ArchiveMissing, LogChunk
from controller.store.archiving import NOTHING_LOGGED, Archived, MarkArchived
from controller.store.tables import DEFAULT_TENANT, AttemptId, attempts, log_chunks
from controller.store.writer import Store
from tests.fakes.stored import KINDS, add, attempt, chunk, found, job, migrated, opened

NOW_US = 1_700_000_000_000_000
ENDED_US = NOW_US - 3_600_000_000
SAID = [
    LogChunk("stderr", 1, b"frame=1\rframe=2\n"),
    LogChunk("stdout", 1, bytes(range(256))),
    LogChunk("stderr", 2, b""),
    LogChunk("stderr", 3, b'{"stream":"stdout","sequence":9,"size":3}\nno header\n'),
    LogChunk("stdout", 2, "größer\n".encode()),
]


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    with migrated(request.param, request, tmp_path) as url:
        async with opened(url) as store:
            yield store


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive((tmp_path / "own store ä").as_uri(), tail_bytes=40)


async def _log(store: Store, number: int, said: list[LogChunk], *, ended_us: int | None = ENDED_US) -> None:
    name = f"t{number}"
    logged = [chunk(number, name, 1000 * number + i, *piece) for i, piece in enumerate(said)]
    await add(store, *job(number, "COMPLETED"), attempt(number, name, ended_us=ended_us), *logged)


async def _key(store: Store, name: str) -> str:
    [row] = await found(store, select(attempts.c.log_key).where(attempts.c.id == name))
    return str(row.log_key)


async def _kept(store: Store, name: str) -> list[LogChunk]:
    query = select(log_chunks.c.stream, log_chunks.c.sequence, log_chunks.c.data)
    rows = await found(store, query.where(log_chunks.c.attempt_id == name).order_by(log_chunks.c.position))
    return [LogChunk(row.stream, row.sequence, bytes(row.data)) for row in rows]


async def _read(archive: Archive, key: str) -> list[LogChunk]:
    return [piece async for piece in archive.read(key)]


def _blobs(tmp_path: Path) -> list[str]:
    root = tmp_path / "own store ä"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_a_log_comes_back_as_it_was(store: Store, archive: Archive, tmp_path: Path) -> None:
    """Every byte in the order of arrival; the database keeps the tail alone; anybody can read the blob."""
    await _log(store, 1, SAID)
    assert await archive.sweep(store, NOW_US) == 1
    key = await _key(store, "t1")
    assert key.startswith(f"logs/{DEFAULT_TENANT}/j1/t1-")
    assert await _read(archive, key) == SAID
    assert await _kept(store, "t1") == SAID[4:]
    assert _blobs(tmp_path) == [key]
    first, *_ = gzip.decompress((tmp_path / "own store ä" / key).read_bytes()).splitlines()
    assert json.loads(first) == {"format": "mediactl-log-1", "attempt": "t1"}
    assert await archive.sweep(store, NOW_US) == 0


async def test_only_what_ended_long_enough_ago_is_moved(store: Store, archive: Archive) -> None:
    """What runs, and what may still deliver its last lines, stays."""
    await _log(store, 1, SAID, ended_us=None)
    await _log(store, 2, SAID, ended_us=NOW_US - 1_000_000)
    assert await archive.sweep(store, NOW_US) == 0
    assert await _kept(store, "t1") == await _kept(store, "t2") == SAID


async def test_an_attempt_that_logged_nothing_needs_no_blob(store: Store, archive: Archive, tmp_path: Path) -> None:
    """It is looked at once."""
    await _log(store, 1, [])
    assert await archive.sweep(store, NOW_US) == 0
    assert await _key(store, "t1") == NOTHING_LOGGED
    assert _blobs(tmp_path) == []


async def test_a_crash_after_writing_the_blob_loses_nothing(
    store: Store, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next sweep writes it again."""
    await _log(store, 1, SAID)
    execute = store.execute
    with monkeypatch.context() as crashing:

        async def crash(command: object) -> object:
            if isinstance(command, MarkArchived):
                raise ConnectionError("gone")
            return await execute(command)  # type: ignore[arg-type] # whatever else is asked for

        crashing.setattr(store, "execute", crash)
        assert await archive.sweep(store, NOW_US) == 0
    assert await _key(store, "t1") == ""
    assert await _kept(store, "t1") == SAID
    assert await archive.sweep(store, NOW_US) == 1
    assert await _read(archive, await _key(store, "t1")) == SAID


async def test_of_two_that_move_the_same_log_one_wins_and_nothing_else_is_left(
    store: Store, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one has the blob in hand another controller moves the log: the first one's is deleted again."""
    await _log(store, 1, SAID)
    other = Archive((tmp_path / "own store ä").as_uri(), tail_bytes=0)
    execute = store.execute
    with monkeypatch.context() as racing:

        async def late(command: object) -> object:
            if isinstance(command, MarkArchived):
                racing.undo()
                assert await other.sweep(store, NOW_US) == 1
            return await execute(command)  # type: ignore[arg-type] # as above

        racing.setattr(store, "execute", late)
        assert await archive.sweep(store, NOW_US) == 0
    key = await _key(store, "t1")
    assert _blobs(tmp_path) == [key]
    assert await _read(archive, key) == SAID


async def test_what_arrives_while_the_log_is_moved_stays_in_the_database(
    store: Store, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk behind the blob's last one is kept; the reader takes it after the blob."""
    await _log(store, 1, SAID)
    execute = store.execute

    async def late(command: object) -> object:
        if isinstance(command, MarkArchived):
            monkeypatch.undo()
            await add(store, chunk(1, "t1", 5000, "stderr", 4, b"last words"), chunk(1, "t1", 5001, "new", 1, b"x"))
        return await execute(command)  # type: ignore[arg-type] # as above

    monkeypatch.setattr(store, "execute", late)
    assert await archive.sweep(store, NOW_US) == 1
    assert await _read(archive, await _key(store, "t1")) == SAID
    assert await _kept(store, "t1") == [*SAID[4:], LogChunk("stderr", 4, b"last words"), LogChunk("new", 1, b"x")]


async def test_a_blob_that_lacks_something_is_not_taken(store: Store) -> None:
    """The database compares what it has with what the blob has before it forgets anything."""
    await _log(store, 1, SAID)
    short = MarkArchived(DEFAULT_TENANT, AttemptId("t1"), "key", Archived(4, {"stderr": 3, "stdout": 2}, 0))
    assert await store.execute(short) is False
    assert await _key(store, "t1") == ""
    assert await _kept(store, "t1") == SAID


async def test_logs_of_any_size_in_little_memory(store: Store, archive: Archive, tmp_path: Path) -> None:
    """Tens of megabytes that don't compress go out in parts and come back, in a few megabytes."""
    dice = random.Random(7)  # noqa: S311 - noise
    said = [LogChunk("stderr", i, dice.randbytes(65536)) for i in range(5 * PART_BYTES // 65536)]
    await _log(store, 1, said)
    tracemalloc.start()
    try:
        assert await archive.sweep(store, NOW_US) == 1
        seen = [(piece.sequence, hash(piece.data)) async for piece in archive.read(await _key(store, "t1"))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == [(piece.sequence, hash(piece.data)) for piece in said]
    assert peak < 4 * PART_BYTES


async def test_one_log_that_cannot_be_moved_holds_up_no_other(store: Store, tmp_path: Path) -> None:
    """It is tried again with the next sweep; a store that takes nothing is an error."""
    root = tmp_path / "own store ä"
    archive = Archive(root.as_uri())
    for number in range(1, FAILURES + 2):
        await _log(store, number, SAID)
    blocked = root / "logs" / DEFAULT_TENANT / "j1"
    blocked.parent.mkdir(parents=True)
    blocked.write_bytes(b"a file where a folder is needed")
    assert await archive.sweep(store, NOW_US) == FAILURES
    blocked.unlink()
    assert await archive.sweep(store, NOW_US) == 1


async def test_damaged_and_missing_blobs_are_told_apart(archive: Archive, tmp_path: Path, store: Store) -> None:
    """Neither ends as if the log had been shorter."""
    await _log(store, 1, SAID)
    await archive.sweep(store, NOW_US)
    key = await _key(store, "t1")
    path = tmp_path / "own store ä" / key
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"", gzip.compress(b"something else\n"), gzip.compress(gzip.decompress(whole)[:-4])):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveDamaged):
            await _read(archive, key)
    await archive.delete([key, key])
    with pytest.raises(ArchiveMissing):
        await _read(archive, key)


def test_the_folder_is_made(tmp_path: Path) -> None:
    """With those above it."""
    Archive((tmp_path / "a" / "b").as_uri())
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("kind", ["directory", "bucket"])
async def test_blobs_of_any_content(kind: str, tmp_path: Path) -> None:
    """They come back from any place on in pieces that are not too large; one that broke off leaves nothing."""
    blobs = Archive((tmp_path / "blobs").as_uri() if kind == "directory" else "memory:///")
    content = random.Random(8).randbytes(3 * PART_BYTES + 5)  # noqa: S311 - noise

    async def pieces(*, broken: bool = False) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]
        if broken:
            raise ConnectionError("gone")

    await blobs.put("remains/t/j/a.tar.gz", pieces())
    assert await blobs.size("remains/t/j/a.tar.gz") == len(content)
    for offset in (0, 7, len(content) - 1):
        got = [piece async for piece in blobs.get("remains/t/j/a.tar.gz", offset, 65_536)]
        assert b"".join(got) == content[offset:]
        assert max(map(len, got)) <= 65_536
    with pytest.raises(ConnectionError):
        await blobs.put("remains/t/j/b.tar.gz", pieces(broken=True))
    for absent in ("remains/t/j/b.tar.gz", "remains/t/j/c.tar.gz"):
        with pytest.raises(ArchiveMissing):
            await blobs.size(absent)
        with pytest.raises(ArchiveMissing):
            await anext(blobs.get(absent, 0, 65_536))


async def test_strays_in_a_bucket(store: Store) -> None:
    """What the database knows stays, and so does what is young; all else goes, however much it is."""
    bucket = Archive("memory:///")

    async def content() -> AsyncIterator[bytes]:
        yield b"x"

    await add(store, *job(1, "DEAD"), attempt(1, "t1", remains_key="remains/default/j1/t1-1.tar.gz"))
    names = [f"default/j1/t1-{number}.tar.gz" for number in range(1, 4)] + ["other/j1/t1-1.tar.gz", "odd"]
    for name in names:
        await bucket.put(f"remains/{name}", content())
    written_us = time.time_ns() // 1000
    assert await bucket.remove_strays(store, written_us) == 0
    assert await bucket.remove_strays(store, written_us + int(STRAY_S * 1e6) + 1_000_000) == 4
    assert await bucket.size("remains/default/j1/t1-1.tar.gz") == 1
