"""A whole controller inside a test, and its store alone with a clock of the test's own."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from grpc import aio
from sqlalchemy import Connection, Table, func, select

from controller.core.fitting import Offer
from controller.core.liveness import Timers
from controller.core.matching import Feasibility, Rules
from controller.core.states import HELD_BY_AGENT, TRANSITIONS, JobState, TaskEvent, TaskState, job_state, next_state
from controller.server import running
from controller.settings import Settings
from controller.store.attempts import Answer, Decline, End, Item, Log, Report, Speaker, Stage, Start
from controller.store.databases import open_database
from controller.store.engine import AnyRow, Database
from controller.store.fleet import Reconciled, Register
from controller.store.leases import Leased
from controller.store.leasing import GrantLeases
from controller.store.migrations import upgrade
from controller.store.submission import NewJob, Submit
from controller.store.tables import (
    DEFAULT_TENANT,
    AgentId,
    AttemptId,
    JobId,
    artifacts,
    attempts,
    events,
    job_edges,
    jobs,
    tasks,
)
from controller.store.writer import Command, Store
from mediactl import AsyncClient, Credentials
from mediactl.channel import aio_channel
from mediactl.v1 import agent_service_pb2 as pb
from presets.capabilities import Alternative, Requirements, Resources
from presets.reasons import Reason
from tests.fakes.agent_peer import PATIENCE_S, stage_report
from tests.fakes.postgres import Postgres

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
    database: str | None = None,
    sweep_after_s: float = 60.0,
) -> AsyncIterator[Controller]:
    """Serves on a unix socket of its data directory, or on `listen`. `caller` are the client's credentials.

    Without a `database` it has one of its own in its data directory.
    """
    settings = Settings(
        data_dir=data_dir,
        socket=None if listen else data_dir / "c.sock",
        listen=listen,
        credentials=credentials or Credentials(),
        timers=timers,
        database=database,
        log_transitions=False,
        sweep_after_s=sweep_after_s,
    )
    async with running(settings) as this:
        [address] = this.addresses
        store = this.store
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


def migrate(url: str) -> None:
    """Bring a database to the newest schema."""
    engine = open_database(url).writer_engine()
    try:
        upgrade(engine)
    finally:
        engine.dispose()


@cache
def empty_sqlite() -> bytes:
    """A migrated SQLite database, as a file: migrating takes longer than most tests."""
    with fast_folder() as folder:
        migrate(f"sqlite:///{folder / 'empty.db'}")
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
        path.write_bytes(empty_sqlite())
        yield path


@asynccontextmanager
async def desk_on(url: str) -> AsyncIterator["Desk"]:
    """A desk on an empty, migrated database, whose invariants are checked at the end."""
    desk = Desk(lambda clock_us: open_database(url, clock_us=clock_us))
    desk.store.open()
    try:
        yield desk
        await desk.store.read(check_invariants)
    finally:
        await desk.store.close()


@asynccontextmanager
async def desk_on_engine(request: pytest.FixtureRequest) -> AsyncIterator["Desk"]:
    """A desk on the engine that the fixture's parameter names."""
    if request.param == "sqlite":
        async with sqlite_desk() as desk:
            yield desk
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(postgres.template("migrated", migrate)) as url:
        async with desk_on(url) as desk:
            yield desk


@asynccontextmanager
async def sqlite_desk() -> AsyncIterator["Desk"]:
    """A desk on SQLite."""
    with sqlite_database() as path:
        async with desk_on(f"sqlite:///{path}") as desk:
            yield desk


class Desk:
    """A store, and the words that tests need to bring jobs to any point of their lives.

    Agents are named by one letter; `epochs` holds the session that speaks for each. The clock stands still until
    `wait`.
    """

    def __init__(self, open_at: Callable[[Callable[[], int]], Database]) -> None:
        self.now_us = 1_700_000_000_000_000
        self.store = Store(open_at(lambda: self.now_us))
        self.epochs: dict[str, int] = {}
        self.rules = Rules()

    def wait(self, seconds: float) -> None:
        self.now_us += int(seconds * 1e6)

    async def do(self, command: Command[R]) -> R:
        return await self.store.execute(command)

    async def submit(self, count: int = 1, *, request_id: str = "", digest: str = "d", **facts: Any) -> list[JobId]:
        new = tuple(new_job(**facts) for _ in range(count))
        return await self.do(Submit(DEFAULT_TENANT, new, request_id, digest))

    async def register(
        self,
        agent: str,
        *held: str,
        instance: str = "",
        roots: tuple[str, ...] = ("/media",),
        revision: str = "",
        capabilities: str = "{}",
        incarnation: str = "",
    ) -> Reconciled:
        reconciled = await self.do(
            Register(
                agent_id=AgentId(agent),
                instance_id=instance or f"machine of {agent}",
                name=f"box-{agent}",
                version="0",
                labels="{}",
                capabilities=capabilities,
                media_roots=json.dumps(roots),
                revision=revision,
                held=dict.fromkeys(held, incarnation),
                jitter=1.0,
            )
        )
        self.epochs[agent] = reconciled.epoch
        return reconciled

    def speaker(self, agent: str) -> Speaker:
        return Speaker(AgentId(agent), self.epochs[agent])

    async def grant(self, *agents: str, cores: int = 4, roots: tuple[str, ...] = ("/media",)) -> list[Leased]:
        return await self.offering(*(offer(agent, cores=cores, roots=roots) for agent in agents))

    async def offering(self, *offers: Offer) -> list[Leased]:
        """Grant to exactly these."""
        return await self.do(GrantLeases(offers, self.rules, Feasibility()))

    async def say(self, agent: str, *items: Item) -> list[Answer]:
        """What the newest session of the agent says."""
        return await self.do(Report(self.speaker(agent), items))

    async def start(self, agent: str, attempt: str) -> None:
        await self.say(agent, Start(AttemptId(attempt)))

    async def stage(self, agent: str, attempt: str, *uris: str) -> bool:
        [answer] = await self.say(agent, Stage(stage_report(attempt, *(uris or ("file:///media/o.m4a",)))))
        return bool(answer)

    async def decline(self, agent: str, attempt: str) -> None:
        await self.say(agent, Decline(AttemptId(attempt), "not any more"))

    async def log(self, agent: str, *chunks: pb.LogChunk) -> None:
        await self.say(agent, *(Log(chunk) for chunk in chunks))

    async def end(
        self,
        agent: str,
        attempt: str,
        outcome: "pb.Outcome.ValueType" = pb.OUTCOME_COMPLETED,
        *,
        reason: Reason | None = None,
        requirements: Requirements | None = None,
        tasks: Sequence[pb.NewTask] = (),
        record: str = "",
    ) -> None:
        """With a reason, it failed."""
        report = pb.EndReport(
            attempt_id=attempt,
            outcome=pb.OUTCOME_FAILED if reason else outcome,
            requirements_json=json.dumps(requirements.to_json()) if requirements else "",
            tasks=tasks,
            record_json=record,
        )
        if reason:
            report.failure.reason, report.failure.message = reason, f"it was {reason}"
        await self.say(agent, End(report, jitter=1.0))

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

    async def _rows(self, table: Table, **where: object) -> list[AnyRow]:
        def query(connection: Connection) -> list[AnyRow]:
            clauses = [table.c[name] == value for name, value in where.items()]
            return list(connection.execute(select(table).where(*clauses).order_by(*table.primary_key.columns)))

        return await self.store.read(query)

    async def completed(self, agent: str = "a", **facts: Any) -> JobId:
        """A job from its submission to its end."""
        job_id, attempt = await self.publishing(agent, **facts)
        await self.end(agent, attempt)
        return job_id

    async def job(self, job_id: str) -> AnyRow:
        [row] = await self._rows(jobs, id=job_id)
        return row

    async def task(self, job_id: str) -> AnyRow:
        [row] = await self._rows(tasks, job_id=job_id)
        return row

    async def tasks(self, job_id: str) -> dict[str, AnyRow]:
        """By their names."""
        return {row.name: row for row in await self._rows(tasks, job_id=job_id)}

    async def attempt(self, attempt: str) -> AnyRow:
        [row] = await self._rows(attempts, id=attempt)
        return row

    async def artifacts(self, job_id: str) -> list[AnyRow]:
        return await self._rows(artifacts, job_id=job_id)

    async def history(self, job_id: str) -> list[str]:
        """Types of the job's events, in order."""
        return [row.type for row in await self._rows(events, job_id=job_id)]

    async def events(self, job_id: str) -> list[AnyRow]:
        return await self._rows(events, job_id=job_id)


def needs(*able: str, cores: int = 1) -> Requirements:
    """Of something that has these capabilities."""
    return Requirements((Alternative(tuple(frozenset({name}) for name in able), Resources(cores, 2**20, 0)),))


def new_job(
    *,
    cores: int = 1,
    kind: str = "media",
    path: str = "/media/x.wav",
    able: tuple[str, ...] = (),
    **facts: Any,
) -> NewJob:
    """One that every `offer` with room can take."""
    asked = needs(*able, cores=cores)
    filled: dict[str, Any] = {
        "kind": kind,
        "task_kind": "transform" if kind == "media" else "plan",
        "queue": "default",
        "priority": 5,
        "max_attempts": 3,
        "preset": "p_v1",
        "preset_digest": "0",
        "labels": {},
        "require": "{}",
        "spec": b"",
        "intent": json.dumps({"inputs": [{"role": "x", "uri": f"file://{path}"}], "outputs": [], "overwrite": False}),
        "texts": {},
        "class_key": asked.class_key(),
        "requirements": json.dumps(asked.to_json()),
        "paths": json.dumps([path]),
        "verbose": False,
        **facts,
    }
    return NewJob(**filled)


def offer(
    agent: str,
    *,
    cores: int = 4,
    roots: tuple[str, ...] = ("/media",),
    able: tuple[str, ...] = (),
    places: int | None = None,
) -> Offer:
    """An idle agent with as many places as cores."""
    whole = Resources(cores, 2**30, 2**30)
    return Offer(
        agent,
        f"box-{agent}",
        {},
        roots,
        (frozenset(able),),
        {},
        whole,
        whole,
        cores if places is None else places,
        revision=repr((roots, able, cores)),
    )


_MOVES = {
    "ready": TaskEvent.READY,
    "deferred": TaskEvent.DEFER,
    "due": TaskEvent.DUE,
    "retry_due": TaskEvent.DUE,
    "held": TaskEvent.HOLD,
    "released": TaskEvent.RELEASE,
    "leased": TaskEvent.LEASE,
    "declined": TaskEvent.GIVE_BACK,
    "started": TaskEvent.START,
    "staged": TaskEvent.STAGE,
    "completed": TaskEvent.COMPLETE,
    "expanded": TaskEvent.COMPLETE,
    "given_back": TaskEvent.GIVE_BACK,
    "refiled": TaskEvent.REFILE,
    "failed": TaskEvent.FAIL,
    "dead": TaskEvent.KILL,
    "cancelled": TaskEvent.CANCEL,
    "retried": TaskEvent.REVIVE,
}
_NO_MOVES = {"submitted", "cancel_requested", "hold_requested", "publication_adopted"}


def check_invariants(connection: Connection) -> None:
    """What holds in the database at any time, whatever was said to it."""
    known = {row.id: row for row in connection.execute(select(jobs))}
    tickets = list(connection.scalars(select(events.c.cursor).order_by(events.c.cursor)))
    assert len(set(tickets)) == len(tickets)
    for job in known.values():
        its = {row.id: row for row in connection.execute(select(tasks).where(tasks.c.job_id == job.id))}
        history = connection.execute(select(events).where(events.c.job_id == job.id).order_by(events.c.cursor)).all()
        assert [row.sequence for row in history] == list(range(1, job.event_count + 1))
        assert history[0].type == "submitted"
        assert history[-1].job_state == job.state
        _replay(history, its)
        assert job.state == job_state([TaskState(task.state) for task in its.values()], held=job.held)
        tried = connection.execute(select(attempts).where(attempts.c.job_id == job.id)).all()
        assert job.attempt_count == len(tried) == sum(task.attempts_made for task in its.values())
        for task in its.values():
            _check_task(task, [row for row in tried if row.task_id == task.id])
        awaited = connection.scalars(select(job_edges.c.parent_id).where(job_edges.c.child_id == job.id)).all()
        settled = (
            (JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED) if job.after_any_end else (JobState.COMPLETED,)
        )
        if job.state not in _ENDED and (job.waits_for or not job.after_any_end):
            # One that minds no end may have gone on before its parent was brought back.
            assert job.waits_for == sum(known[parent].state not in settled for parent in awaited if parent in known)
        published = connection.execute(
            select(func.count()).select_from(artifacts).where(artifacts.c.job_id == job.id)
        ).scalar_one()
        assert published == 0 or job.state == JobState.COMPLETED
        assert (job.ended_us is not None) == (job.state in _ENDED)
        assert job.ended_us is None or job.expires_us is None
        if job.state == JobState.DEAD:
            assert job.failure is not None
            assert job.reason
        if job.state in (JobState.COMPLETED, JobState.CANCELLED):
            assert job.failure is None


_ENDED = (JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED)


def _replay(history: Sequence[AnyRow], its: dict[str, AnyRow]) -> None:
    """The events, replayed by the rules, lead to where every task stands."""
    states: dict[str, TaskState] = {}
    for row in history:
        if row.type in _NO_MOVES or not row.task_id:
            continue
        if row.task_id in states:
            states[row.task_id] = next_state(states[row.task_id], _MOVES[row.type])
            continue
        # How it began isn't told; from its first move on everything is.
        event = _MOVES[row.type]
        possible = {next_state(state, event) for state in TaskState if (state, event) in TRANSITIONS}
        if len(possible) == 1:
            [states[row.task_id]] = possible
    for task_id, state in states.items():
        assert its[task_id].state == state


def _check_task(task: AnyRow, tried: Sequence[AnyRow]) -> None:
    assert sorted(row.number for row in tried) == list(range(1, task.attempts_made + 1))
    state = TaskState(task.state)
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
    assert (task.waits_for > 0) <= (state in (TaskState.BLOCKED, TaskState.DEAD, TaskState.CANCELLED))
