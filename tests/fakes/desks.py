"""What people and the controller's loops do at a desk, and several controllers' desks on one PostgreSQL."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import Connection, select, text

from controller.store.attempts import End
from controller.store.cancelling import CancelJob, EnforceStops, ExpireJobs
from controller.store.databases import open_database
from controller.store.interventions import FallDue, HoldJobs, Outcome, ReleaseJobs, RetryJobs
from controller.store.leases import Leased
from controller.store.tables import DEFAULT_TENANT, AttemptId, JobId, attempts, shares
from controller.store.writer import Tx, begin, end
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.postgres import Postgres
from tests.fakes.running import Desk, desk_on, eventually, migrate


async def hold(desk: Desk, *ids: JobId) -> Outcome:
    return await desk.do(HoldJobs(DEFAULT_TENANT, ids, "not now"))


async def release(desk: Desk, *ids: JobId) -> Outcome:
    return await desk.do(ReleaseJobs(DEFAULT_TENANT, ids, "go on"))


async def retry(desk: Desk, *ids: JobId, request_id: str = "", digest: str = "d") -> Outcome:
    return await desk.do(RetryJobs(DEFAULT_TENANT, ids, request_id, digest))


async def cancel(desk: Desk, job_id: JobId) -> None:
    await desk.do(CancelJob(DEFAULT_TENANT, job_id, "enough"))


async def turn(desk: Desk) -> None:
    """What the loops do again and again."""
    await desk.do(FallDue())
    await desk.do(ExpireJobs())
    await desk.do(EnforceStops())


async def state(desk: Desk, job_id: JobId) -> tuple[str, str]:
    """Of the one task, and of the job."""
    return (await desk.task(job_id)).state, (await desk.job(job_id)).state


async def dead(desk: Desk, agent: str = "a", *, reason: Reason = Reason.INPUT_CORRUPT, **facts: Any) -> JobId:
    """A job that an agent could not do."""
    job_id, attempt = await desk.running(agent, **facts)
    await desk.end(agent, attempt, reason=reason)
    return job_id


async def again(desk: Desk, agent: str = "a") -> AttemptId:
    """The next attempt of what failed, after its back-off and begun."""
    desk.wait(600)
    await turn(desk)
    [lease] = await desk.grant(agent)
    await desk.start(agent, lease.attempt_id)
    return lease.attempt_id


async def complete(desk: Desk, *leases: Leased) -> None:
    """Say that tasks which publish nothing are done."""
    done = pb.OUTCOME_COMPLETED
    for agent in sorted({lease.agent_id for lease in leases}):
        mine = [lease.attempt_id for lease in leases if lease.agent_id == agent]
        await desk.say(agent, *(End(pb.EndReport(attempt_id=attempt, outcome=done), jitter=1.0) for attempt in mine))


async def attempts_of(desk: Desk, job_id: JobId) -> list[tuple[int, str]]:
    """Numbers and states, in their order."""

    def query(connection: Connection) -> list[tuple[int, str]]:
        found = connection.execute(select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number))
        return [(row.number, row.state) for row in found]

    return await desk.store.read(query)


async def passed(desk: Desk, queue: str = "default") -> float:
    """Core-seconds that a queue was charged, divided by its weight; those of the tenant where the queue is empty."""

    def query(connection: Connection) -> float:
        found = connection.scalars(select(shares.c.passed).where(shares.c.tenant != "", shares.c.queue == queue))
        return float(found.one_or_none() or 0.0)

    return await desk.store.read(query)


@asynccontextmanager
async def two_desks(postgres: Postgres) -> AsyncIterator[tuple[Desk, Desk]]:
    """Two controllers' desks with one database and one clock, that of the first; agents may speak at either."""
    with postgres.database(postgres.template("migrated", migrate)) as url:
        async with desk_on(url) as first:
            second = Desk(lambda _: open_database(url, clock_us=lambda: first.now_us))
            second.epochs, second.rules = first.epochs, first.rules
            second.store.open()
            try:
                yield first, second
            finally:
                await second.store.close()


@contextmanager
def unfinished(desk: Desk) -> Iterator[Tx]:
    """A transaction of another controller on the desk's database, committed at the end of the block."""
    engine = desk.store.database.writer_engine()
    try:
        with engine.connect() as connection, connection.begin():
            tx = begin(desk.store.database, connection)
            yield tx
            end(tx, secrets.token_hex(4))
    finally:
        engine.dispose()


async def until_blocked(desk: Desk) -> None:
    """Until somebody waits for another's lock in the desk's database."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type='Lock'"
    )
    await eventually(lambda: desk.store.read(lambda c: int(c.execute(waiting).scalar_one())), lambda count: count > 0)
