"""The store's writer: one transaction for all that wait, a savepoint each, answers after the commit."""

import asyncio
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

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


class _Storing:
    """Stores a job, then fails."""

    def apply(self, tx: Tx) -> None:
        Submit(DEFAULT_TENANT, (new_job(),), "", "").apply(tx)
        raise RuntimeError("a defect in the middle of a command")


class _FailingCommit:
    """Leaves behind what only the commit finds out to be wrong."""

    def apply(self, tx: Tx) -> None:
        tx.connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        tx.connection.execute(
            insert(artifacts).values(
                tenant="default", job_id="none", ordinal=0, attempt_id="", uri="", size_bytes=0, sha256="", document=""
            )
        )


async def _together(desk: Desk, *commands: Any) -> list[Any]:
    return await asyncio.gather(*(desk.store.enqueue(command) for command in commands), return_exceptions=True)


async def test_a_failing_command_undoes_itself_alone(desk: Desk) -> None:
    """Those before and behind it in the same batch are committed; nobody hears of what was undone."""
    heard: list[Any] = []
    desk.store.on_event = heard.append
    good = Submit(DEFAULT_TENANT, (new_job(),), "", "")
    first, error, second = await _together(desk, good, _Storing(), good)
    assert isinstance(error, RuntimeError)
    stored = await desk.store.read(lambda c: c.execute(select(jobs.c.id)).scalars().all())
    assert sorted(stored) == sorted([*first, *second])
    assert sorted(event["job_id"] for event in heard) == sorted(stored)


async def test_a_failing_commit_is_told_to_all_and_is_not_the_end(desk: Desk) -> None:
    """Nothing of the batch is stored, every caller knows, and the next batch works."""
    good = Submit(DEFAULT_TENANT, (new_job(),), "", "")
    first, error, second = await _together(desk, good, _FailingCommit(), good)
    assert isinstance(error, IntegrityError)
    assert {type(first), type(second)} <= {list, IntegrityError}
    stored = await desk.store.read(lambda c: c.execute(select(jobs.c.id)).scalars().all())
    acknowledged = [job_id for answer in (first, second) if isinstance(answer, list) for job_id in answer]
    assert sorted(stored) == sorted(acknowledged)
    assert await desk.submit()


async def test_a_caller_that_goes_away_does_not_take_its_command_back(desk: Desk) -> None:
    """What is in line is applied."""
    waiting = asyncio.create_task(desk.submit(request_id="r"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await desk.submit(request_id="r")
    assert len(await desk.store.read(lambda c: c.execute(select(jobs.c.id)).all())) == 1


_VICTIM = """
import asyncio, sys
from pathlib import Path
from controller.store.submission import Submit
from controller.store.tables import DEFAULT_TENANT
from controller.store.writer import Store
from tests.fakes.running import new_job

async def one(store, number):
    for round in range(10**6):
        [job_id] = await store.execute(Submit(DEFAULT_TENANT, (new_job(),), f"{number}-{round}", "d"))
        print(job_id, flush=True)

async def main():
    store = Store(Path(sys.argv[1]))
    store.open()
    await asyncio.gather(*(one(store, number) for number in range(8)))

asyncio.run(main())
"""


async def test_kill_nine_loses_nothing_acknowledged(empty_database: Path, tmp_path: Path) -> None:
    """A process killed amid its commits: every job that it had acknowledged is there, whole, and no half one."""
    path = tmp_path / "mediactl.db"
    shutil.copy(empty_database, path)
    root = Path(__file__).resolve().parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _VICTIM, path, stdout=asyncio.subprocess.PIPE, cwd=root, env={**os.environ}
    )
    assert process.stdout is not None
    acknowledged = [(await process.stdout.readline()).decode().strip() for _ in range(100)]
    process.send_signal(signal.SIGKILL)
    rest = (await process.stdout.read()).decode().splitlines(keepends=True)
    acknowledged += [line.strip() for line in rest if line.endswith("\n")]
    assert await process.wait() == -signal.SIGKILL
    store = Store(path)
    store.open()
    try:
        stored = await store.read(lambda c: set(c.execute(select(jobs.c.id)).scalars()))
        assert set(acknowledged) <= stored
        assert all(acknowledged)
        await store.read(check_invariants)
    finally:
        await store.close()
