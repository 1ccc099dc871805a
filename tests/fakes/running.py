"""A whole controller inside a test, and its store alone with a clock of the test's own."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from grpc import aio
from sqlalchemy import Connection, Row, Table, func, select

from controller.core.liveness import Timers
from controller.core.matching import Offer
from controller.core.states import HELD_BY_AGENT, JobState, TaskEvent, TaskState, job_state, next_state
from controller.server import running
from controller.settings import Settings
from controller.store.attempts import End, Speaker, Stage, Start
from controller.store.fleet import Reconciled, Register
from controller.store.leasing import GrantLeases, Leased
from controller.store.migrations import upgrade
from controller.store.submission import NewJob, Submit
from controller.store.tables import DEFAULT_TENANT, AgentId, AttemptId, JobId, artifacts, attempts, events, jobs, tasks
from controller.store.writer import Command, Store
from mediactl import AsyncClient, Credentials
from mediactl.channel import aio_channel
from mediactl.v1 import agent_service_pb2 as pb
from presets.capabilities import Alternative, Requirements, Resources
from presets.reasons import Reason
from tests.fakes.agent_peer import PATIENCE_S, stage_report

R = TypeVar("R")

MEMORY = Path("/dev/shm")
"""Where databases of tests are fastest: what fsync guarantees can't be tested without pulling a plug anyway."""

QUICK = Timers(heartbeat_s=0.2, unreachable_s=5.0, lost_s=60.0)
"""Heartbeats that keep a test short, and patience that a busy machine does not exhaust."""


@dataclass(frozen=True, slots=True)
class Controller:
    """One that serves; `channel` is for stubs of one's own."""

    address: str
    client: AsyncClient
    channel: aio.Channel
    store: Store


@asynccontextmanager
async def controller(
    data_dir: Path,
    *,
    timers: Timers = QUICK,
    listen: str | None = None,
    credentials: Credentials | None = None,
    caller: Credentials | None = None,
) -> AsyncIterator[Controller]:
    """Serves on a unix socket of its data directory, or on `listen`. `caller` are the client's credentials."""
    settings = Settings(
        data_dir=data_dir,
        socket=None if listen else data_dir / "c.sock",
        listen=listen,
        credentials=credentials or Credentials(),
        timers=timers,
        log_transitions=False,
    )
    async with running(settings) as (bound, store, _):
        [address] = bound
        async with (
            AsyncClient(address, credentials=caller or Credentials()) as client,
            aio_channel(address, caller) as channel,
        ):
            yield Controller(address, client, channel, store)


async def eventually(look: Callable[[], Awaitable[R]], wanted: Callable[[R], bool]) -> R:
    """What `look` gives as soon as it is what is wanted; TimeoutError after `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while not wanted(seen := await look()):  # noqa: ASYNC110 - the database wakes nobody
            await asyncio.sleep(0.02)
        return seen


@cache
def _empty_sqlite() -> bytes:
    # Migrating takes longer than most tests.
    with fast_folder() as folder:
        upgrade(folder / "empty.db")
        return (folder / "empty.db").read_bytes()


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A temporary folder, in memory where the machine has such a place."""
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)


@contextmanager
def sqlite_database() -> Iterator[Path]:
    """A migrated SQLite file of its own."""
    with fast_folder() as folder:
        path = folder / "mediactl.db"
        path.write_bytes(_empty_sqlite())
        yield path


@asynccontextmanager
async def sqlite_desk() -> AsyncIterator["Desk"]:
    """A desk on an empty SQLite database, whose invariants are checked at the end."""
    with sqlite_database() as path:
        desk = Desk(lambda clock_us: Store(path, clock_us=clock_us))
        desk.store.open()
        try:
            yield desk
            await desk.store.read(check_invariants)
        finally:
            await desk.store.close()


class Desk:
    """A store, and the words that tests need to bring jobs to any point of their lives.

    Agents are named by one letter; `epochs` holds the session that speaks for each. The clock stands still until
    `wait`.
    """

    def __init__(self, open_store: Callable[[Callable[[], int]], Store]) -> None:
        self.now_us = 1_700_000_000_000_000
        self.store = open_store(lambda: self.now_us)
        self.epochs: dict[str, int] = {}

    def wait(self, seconds: float) -> None:
        self.now_us += int(seconds * 1e6)

    async def do(self, command: Command[R]) -> R:
        return await self.store.execute(command)

    async def submit(self, count: int = 1, *, request_id: str = "", digest: str = "d", **facts: Any) -> list[JobId]:
        new = tuple(new_job(**facts) for _ in range(count))
        return await self.do(Submit(DEFAULT_TENANT, new, request_id, digest))

    async def register(self, agent: str, *held: str, instance: str = "") -> Reconciled:
        reconciled = await self.do(
            Register(
                agent_id=AgentId(agent),
                instance_id=instance or f"machine of {agent}",
                name=f"box-{agent}",
                version="0",
                labels="{}",
                capabilities="{}",
                held=frozenset(held),
                jitter=1.0,
            )
        )
        self.epochs[agent] = reconciled.epoch
        return reconciled

    def speaker(self, agent: str) -> Speaker:
        return Speaker(AgentId(agent), self.epochs[agent])

    async def grant(self, *agents: str, cores: int = 4, roots: tuple[str, ...] = ("/media",)) -> list[Leased]:
        return await self.do(GrantLeases(tuple(offer(agent, cores=cores, roots=roots) for agent in agents)))

    async def start(self, agent: str, attempt: str) -> None:
        await self.do(Start(self.speaker(agent), AttemptId(attempt)))

    async def stage(self, agent: str, attempt: str, *uris: str) -> bool:
        return await self.do(Stage(self.speaker(agent), stage_report(attempt, *(uris or ("file:///media/o.m4a",)))))

    async def end(
        self,
        agent: str,
        attempt: str,
        outcome: "pb.Outcome.ValueType" = pb.OUTCOME_COMPLETED,
        *,
        reason: Reason | None = None,
    ) -> None:
        """With a reason, it failed."""
        report = pb.EndReport(attempt_id=attempt, outcome=pb.OUTCOME_FAILED if reason else outcome)
        if reason:
            report.failure.reason, report.failure.message = reason, f"it was {reason}"
        await self.do(End(self.speaker(agent), report, jitter=1.0))

    async def leased(self, agent: str = "a", **facts: Any) -> tuple[JobId, AttemptId]:
        """A new job, leased to an agent that registered anew where it is not known yet."""
        if agent not in self.epochs:
            await self.register(agent)
        [job_id] = await self.submit(**facts)
        [lease] = await self.grant(agent)
        return job_id, lease.attempt_id

    async def running(self, agent: str = "a", **facts: Any) -> tuple[JobId, AttemptId]:
        job_id, attempt = await self.leased(agent, **facts)
        await self.start(agent, attempt)
        return job_id, attempt

    async def publishing(self, agent: str = "a", **facts: Any) -> tuple[JobId, AttemptId]:
        job_id, attempt = await self.running(agent, **facts)
        assert await self.stage(agent, attempt)
        return job_id, attempt

    async def _rows(self, table: Table, **where: object) -> list[Row[Any]]:
        def query(connection: Connection) -> list[Row[Any]]:
            clauses = [table.c[name] == value for name, value in where.items()]
            return list(connection.execute(select(table).where(*clauses).order_by(*table.primary_key.columns)))

        return await self.store.read(query)

    async def job(self, job_id: str) -> Row[Any]:
        [row] = await self._rows(jobs, id=job_id)
        return row

    async def task(self, job_id: str) -> Row[Any]:
        [row] = await self._rows(tasks, job_id=job_id)
        return row

    async def attempt(self, attempt: str) -> Row[Any]:
        [row] = await self._rows(attempts, id=attempt)
        return row

    async def artifacts(self, job_id: str) -> list[Row[Any]]:
        return await self._rows(artifacts, job_id=job_id)

    async def history(self, job_id: str) -> list[str]:
        """Types of the job's events, in order."""
        return [row.type for row in await self._rows(events, job_id=job_id)]

    async def events(self, job_id: str) -> list[Row[Any]]:
        return await self._rows(events, job_id=job_id)


def new_job(
    *, priority: int = 5, cores: int = 1, max_attempts: int = 3, kind: str = "media", path: str = "/media/x.wav"
) -> NewJob:
    """One that every `offer` with room can take."""
    needs = Requirements((Alternative((), Resources(cores, 2**20, 0)),))
    return NewJob(
        kind=kind,
        task_kind="transform" if kind == "media" else "plan",
        queue="default",
        priority=priority,
        max_attempts=max_attempts,
        preset="p_v1",
        preset_digest="0",
        labels="{}",
        require="{}",
        spec="{}",
        intent="{}",
        class_key=needs.class_key(),
        requirements=json.dumps(needs.to_json()),
        paths=json.dumps([path]),
        verbose=False,
    )


def offer(agent: str, *, cores: int = 4, roots: tuple[str, ...] = ("/media",)) -> Offer:
    """An idle agent with as many places as cores."""
    whole = Resources(cores, 2**30, 2**30)
    return Offer(agent, f"box-{agent}", {}, roots, (frozenset(),), {}, whole, whole, cores)


_MOVES = {
    "leased": TaskEvent.LEASE,
    "started": TaskEvent.START,
    "staged": TaskEvent.STAGE,
    "completed": TaskEvent.COMPLETE,
    "given_back": TaskEvent.GIVE_BACK,
    "failed": TaskEvent.FAIL,
    "retry_due": TaskEvent.RETRY,
    "dead": TaskEvent.KILL,
    "cancelled": TaskEvent.CANCEL,
}
_NO_MOVES = {"cancel_requested", "publication_adopted"}


def check_invariants(connection: Connection) -> None:
    """What holds in the database at any time, whatever was said to it."""
    for job in connection.execute(select(jobs)).all():
        [task] = connection.execute(select(tasks).where(tasks.c.job_id == job.id)).all()
        history = connection.execute(select(events).where(events.c.job_id == job.id).order_by(events.c.cursor)).all()
        assert [row.sequence for row in history] == list(range(1, job.event_count + 1))
        assert history[0].type == "submitted"
        state = TaskState.PENDING
        for row in history[1:]:
            if row.type not in _NO_MOVES:
                state = next_state(state, _MOVES[row.type])
            assert row.job_state == job_state([state])
        assert state == task.state
        assert job.state == job_state([TaskState(task.state)])
        assert job.attempt_count == task.attempts_made
        tried = connection.execute(select(attempts).where(attempts.c.task_id == task.id)).all()
        assert sorted(row.number for row in tried) == list(range(1, task.attempts_made + 1))
        held = [row for row in tried if row.holder]
        if state in HELD_BY_AGENT:
            [current] = [row for row in tried if row.id == task.attempt_id]
            assert current.ended_us is None
            # A publication whose agent was lost waits for an agent to finish it.
            assert held == [current] or (not held and state is TaskState.PUBLISHING)
        else:
            assert not held
            assert all(row.ended_us is not None for row in tried)
        assert (task.redo is not None) <= (state in (TaskState.PUBLISHING, TaskState.COMPLETED))
        published = connection.execute(
            select(func.count()).select_from(artifacts).where(artifacts.c.job_id == job.id)
        ).scalar_one()
        assert published == 0 or job.state == JobState.COMPLETED
        ended = job.state in (JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED)
        assert (job.ended_us is not None) == ended
        if job.state == JobState.DEAD:
            assert job.failure is not None
        if job.state in (JobState.COMPLETED, JobState.CANCELLED):
            assert job.failure is None
