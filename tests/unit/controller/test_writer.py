"""The store's writer: one transaction for all that wait, a savepoint each, answers after the commit."""

import asyncio
import resource
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.exc import OperationalError

from controller.store.engine import StoreUnavailable
from controller.store.sqlite import SqliteDatabase
from controller.store.submission import Submit
from controller.store.tables import DEFAULT_TENANT, jobs
from controller.store.writer import Store, Tx
from tests.fakes.running import Desk, check_invariants, new_job, sqlite_database, sqlite_desk

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with sqlite_desk() as desk:
        yield desk


# Batches


def _submit(count: int = 1, request_id: str = "") -> Submit:
    return Submit(DEFAULT_TENANT, (new_job(),) * count, request_id, "d")


async def _stored(store: Store) -> set[str]:
    return await store.read(lambda connection: set(connection.scalars(select(jobs.c.id))))


class _Storing:
    """Stores a job, then fails."""

    def apply(self, tx: Tx) -> None:
        _submit().apply(tx)
        raise RuntimeError("a defect in the middle of a command")


async def _together(desk: Desk, *commands: Any) -> list[Any]:
    return await asyncio.gather(*(desk.store.enqueue(command) for command in commands), return_exceptions=True)


async def test_a_failing_command_undoes_itself_alone(desk: Desk) -> None:
    """Those before and behind it in the same batch are committed; nobody hears of what was undone."""
    heard: list[Any] = []
    desk.store.on_events = heard.extend
    first, error, second = await _together(desk, _submit(), _Storing(), _submit())
    assert isinstance(error, RuntimeError)
    assert await _stored(desk.store) == {*first, *second}
    assert {event["job_id"] for event in heard} == {*first, *second}


@contextmanager
def _full_disk() -> Iterator[None]:
    """No file of this process grows beyond 256 KiB (EFBIG), which is how SQLite learns of a full disk, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_told_to_all_and_is_not_the_end(desk: Desk) -> None:
    """What could not be committed is not stored, every caller knows, and with room again work goes on."""
    first = await desk.submit()
    heard: list[Any] = []
    desk.store.on_events = heard.extend
    with _full_disk():
        answers = await _together(desk, *(_submit(count=400) for _ in range(3)))
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert heard == []
    second = await desk.submit()
    assert await _stored(desk.store) == {*first, *second}


class _Stuck:
    """Holds the writer up until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def apply(self, tx: Tx) -> None:
        self.begun.set()
        self.go_on.wait(10)


async def test_a_stuck_writer_gives_no_sign_of_life(desk: Desk) -> None:
    """Not while it is held up, though the event loop turns; then it answers, and stores nothing for it."""
    stuck = _Stuck()
    desk.store.enqueue(stuck)
    await asyncio.to_thread(stuck.begun.wait, 10)
    sign = asyncio.create_task(desk.store.alive())
    await asyncio.wait([sign], timeout=0.05)
    assert not sign.done()
    stuck.go_on.set()
    await sign
    assert await _stored(desk.store) == set()


async def test_a_database_that_is_away_is_no_stuck_writer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer answers that it can't reach it: that is life."""

    def away(*_: object) -> None:
        full = sqlite3.OperationalError("database or disk is full")
        full.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise OperationalError("BEGIN", None, full)

    monkeypatch.setattr(desk.store.database, "begin", away)
    with pytest.raises(StoreUnavailable):
        await desk.submit()
    await desk.store.alive()


async def test_a_caller_that_goes_away_does_not_take_its_command_back(desk: Desk) -> None:
    """What is in line is applied."""
    enqueued = asyncio.Event()

    async def call() -> None:
        enqueued.set()
        await desk.submit(request_id="r")

    waiting = asyncio.create_task(call())
    await enqueued.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert {*await desk.submit(request_id="r")} == await _stored(desk.store)


async def test_closing_finishes_what_is_in_line(desk: Desk) -> None:
    """An orderly end applies every command that was taken."""
    with sqlite_database() as path:
        store = Store(SqliteDatabase(path))
        store.open()
        waiting = [store.enqueue(_submit()) for _ in range(600)]
        await store.close()
        ids = [job_id for answer in await asyncio.gather(*waiting) for job_id in answer]
        again = Store(SqliteDatabase(path))
        again.open()
        assert await _stored(again) == set(ids)
        await again.close()


async def test_a_reader_sees_one_snapshot_and_never_waits_for_the_writer(desk: Desk) -> None:
    """Two selects of one read agree though commits come between them; readers can't write."""
    entered, go_on = threading.Event(), threading.Event()

    def twice(connection: Connection) -> list[int]:
        count = select(func.count()).select_from(jobs)
        counts = [connection.execute(count).scalar_one()]
        entered.set()
        go_on.wait(10)
        return [*counts, connection.execute(count).scalar_one()]

    reading = asyncio.create_task(desk.store.read(twice))
    await asyncio.to_thread(entered.wait, 10)
    await desk.submit()
    go_on.set()
    assert await reading == [0, 0]
    with pytest.raises(OperationalError, match="readonly"):
        await desk.store.read(lambda connection: connection.execute(delete(jobs)))


_VICTIM = """
import asyncio, sys
from pathlib import Path
from controller.store.submission import Submit
from controller.store.sqlite import SqliteDatabase
from controller.store.tables import DEFAULT_TENANT
from controller.store.writer import Store
from tests.fakes.running import new_job

async def one(store, number):
    for round in range(10**6):
        [job_id] = await store.execute(Submit(DEFAULT_TENANT, (new_job(),), f"{number}-{round}", "d"))
        print(job_id, flush=True)

async def main():
    store = Store(SqliteDatabase(Path(sys.argv[1])))
    store.open()
    await asyncio.gather(*(one(store, number) for number in range(8)))

asyncio.run(main())
"""


async def test_kill_nine_loses_nothing_acknowledged() -> None:
    """A process killed amid its commits: every job that it had acknowledged is there, whole, and no half one."""
    with sqlite_database() as path:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _VICTIM, path, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        acknowledged = [await process.stdout.readline() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).splitlines(keepends=True)
        acknowledged += [line for line in rest if line.endswith(b"\n")]
        assert await process.wait() == -signal.SIGKILL
        store = Store(SqliteDatabase(path))
        store.open()
        try:
            assert {line.decode().strip() for line in acknowledged} <= await _stored(store)
            await store.read(check_invariants)
        finally:
            await store.close()
