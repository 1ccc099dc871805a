"""The queue as a whole: how much waits, since when, what runs where, under which limits and weights.

A million PENDING tasks cost one scan of the index of the line. All that is literal in a condition here is so because a
parameter would hide from the planner that a partial index serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, Subquery, func, literal_column, select, text

from controller.core.limits import limit_of, value_of
from controller.core.liveness import Health, Timers, health
from controller.core.retries import BLOCK_S
from controller.core.states import ENDS, JobState
from controller.store.queries import Record
from controller.store.tables import agents, attempts, failures, jobs, lanes, limit_counts, limits, shares, tasks

QueueKey = tuple[str, str]
"""(tenant, queue)."""

MOST_RUNNING = 1000

_HEADS = 16
_HELD = attempts.c.holder != literal_column("''")
_PENDING = tasks.c.state == literal_column("'PENDING'")
_DUE = text("tasks.state IN ('FAILED', 'SCHEDULED')")
_PUBLISHING = tasks.c.state == literal_column("'PUBLISHING'")
_ITS_JOB = (jobs.c.tenant == tasks.c.tenant) & (jobs.c.id == tasks.c.job_id)
_ELSEWHERE = ("PENDING", "FAILED", "SCHEDULED", "LEASED", "RUNNING", "PUBLISHING", *sorted(ENDS))
"""What other queries count than the one for what a person or another task holds up."""


@dataclass(frozen=True, slots=True)
class Depth:
    """Tasks of one queue in one state.

    `since_us`: since when the first of them has been so. PENDING: ready; with an agent: leased; otherwise submitted.
    """

    tenant: str
    queue: str
    state: str
    tasks: int
    since_us: int | None


def queue_depths(connection: Connection) -> list[Depth]:
    """Tasks that have not ended, by tenant, queue and state.

    Of jobs that stand in line as PENDING only the PENDING and SCHEDULED tasks are counted, not those behind them.
    """
    ready = oldest_ready_us(connection)
    line = select(tasks.c.lane, func.count().label("total")).where(_PENDING).group_by(tasks.c.lane).subquery()
    depths = [
        Depth(row.tenant, row.queue, "PENDING", int(row.total), ready.get((row.tenant, row.queue)))
        for row in connection.execute(
            select(lanes.c.tenant, lanes.c.queue, func.sum(line.c.total).label("total"))
            .join(line, line.c.lane == lanes.c.key)
            .group_by(lanes.c.tenant, lanes.c.queue)
        )
    ]
    grouped = (jobs.c.tenant, jobs.c.queue, tasks.c.state)
    counted = (*grouped, func.count().label("total"))
    submitted = func.min(jobs.c.created_us).label("since_us")
    leased = func.min(attempts.c.leased_us).label("since_us")
    stuck = _stuck(connection)
    oldest_stuck = func.min(stuck.c.created_us).label("since_us")
    for query in (
        select(*counted, submitted).join(tasks, _ITS_JOB).where(_DUE).group_by(*grouped),
        select(*counted, leased)
        .select_from(attempts)
        .join(tasks, (tasks.c.tenant == attempts.c.tenant) & (tasks.c.id == attempts.c.task_id))
        .join(jobs, _ITS_JOB)
        .where(_HELD, tasks.c.attempt_id == attempts.c.id, tasks.c.state.in_(("LEASED", "RUNNING")))
        .group_by(*grouped),
        # Without a holder, too: any agent may finish it.
        select(*counted, leased)
        .select_from(tasks)
        .join(attempts, (attempts.c.tenant == tasks.c.tenant) & (attempts.c.id == tasks.c.attempt_id))
        .join(jobs, _ITS_JOB)
        .where(_PUBLISHING)
        .group_by(*grouped),
        select(stuck.c.tenant, stuck.c.queue, tasks.c.state, func.count().label("total"), oldest_stuck)
        .join(tasks, (tasks.c.tenant == stuck.c.tenant) & (tasks.c.job_id == stuck.c.id))
        .where(tasks.c.state.not_in(_ELSEWHERE))
        .group_by(stuck.c.tenant, stuck.c.queue, tasks.c.state),
    ):
        depths += [
            Depth(row.tenant, row.queue, row.state, row.total, row.since_us) for row in connection.execute(query)
        ]
    return depths


def _stuck(connection: Connection) -> Subquery:
    """Jobs that may have tasks behind a person, another job or another task."""
    tenants = connection.scalars(select(lanes.c.tenant).distinct()).all()
    states = (JobState.BLOCKED, JobState.HELD, JobState.PROCESSING, JobState.FAILED)
    return (
        select(jobs.c.tenant, jobs.c.id, jobs.c.queue, jobs.c.created_us)
        .where(jobs.c.tenant.in_(tenants), jobs.c.state.in_(states))
        # Never reached: without it, SQLite begins with every task of the tenant.
        .limit(literal_column(str(2**62)))
        .subquery("stuck")
    )


def oldest_ready_us(connection: Connection) -> dict[QueueKey, int]:
    """Since when the longest waiting PENDING task of a queue has been ready, judged by the first tasks of its lanes."""
    waiting = tasks.alias("waiting")
    heads: Subquery = (
        select(waiting.c.ready_us)
        .where(waiting.c.lane == lanes.c.key, waiting.c.state == literal_column("'PENDING'"))
        .order_by(waiting.c.seq)
        .limit(literal_column(str(_HEADS)))
        .correlate(lanes)
        .subquery("heads")
    )
    oldest = select(func.min(heads.c.ready_us)).correlate(lanes).scalar_subquery()
    found: dict[QueueKey, int] = {}
    for row in connection.execute(select(lanes.c.tenant, lanes.c.queue, oldest.label("ready_us"))):
        if row.ready_us is not None:
            key = (row.tenant, row.queue)
            found[key] = min(found.get(key, row.ready_us), row.ready_us)
    return found


def cores_by_queue(connection: Connection) -> dict[QueueKey, int]:
    """Cores leased now."""
    rows = connection.execute(
        select(jobs.c.tenant, jobs.c.queue, func.sum(attempts.c.cores).label("cores"))
        .select_from(attempts)
        .join(jobs, (jobs.c.tenant == attempts.c.tenant) & (jobs.c.id == attempts.c.job_id))
        .where(_HELD)
        .group_by(jobs.c.tenant, jobs.c.queue)
    )
    return {(row.tenant, row.queue): int(row.cores) for row in rows}


def weights(connection: Connection) -> dict[QueueKey, float]:
    """Of queues that weigh anything other than 1."""
    rows = connection.execute(select(shares).where(shares.c.queue != "", shares.c.weight != 1.0))
    return {(row.tenant, row.queue): row.weight for row in rows}


def running(connection: Connection, limit: int = MOST_RUNNING) -> list[Record]:
    """What agents hold, the oldest first: columns of the attempt, of its job, and `agent_name`."""
    return list(
        connection.execute(
            select(
                attempts.c.job_id,
                attempts.c.task_id,
                attempts.c.id,
                attempts.c.holder,
                agents.c.name.label("agent_name"),
                jobs.c.queue,
                jobs.c.preset,
                attempts.c.state,
                attempts.c.cores,
                attempts.c.leased_us,
            )
            .select_from(attempts)
            .join(jobs, (jobs.c.tenant == attempts.c.tenant) & (jobs.c.id == attempts.c.job_id))
            .outerjoin(agents, agents.c.id == attempts.c.holder)
            .where(_HELD)
            .order_by(attempts.c.leased_us, attempts.c.id)
            .limit(limit)
        )
    )


@dataclass(frozen=True, slots=True)
class Blocked:
    """An agent that gets no tasks of a class until `end_us`, because different ones failed there."""

    agent_id: str
    agent_name: str
    class_key: str
    task_ids: tuple[str, ...]
    end_us: int


def blocks(connection: Connection, now_us: int) -> list[Blocked]:
    """Pairs in force at `now_us`, by the agent's name."""
    rows = connection.execute(
        select(failures, agents.c.name)
        .outerjoin(agents, agents.c.id == failures.c.agent_id)
        .where(failures.c.at_us > now_us - int(BLOCK_S * 1e6))
        .order_by(failures.c.at_us.desc(), failures.c.task_id)
    )
    newest: dict[tuple[str, str, str], list[Record]] = {}
    for row in rows:
        newest.setdefault((row.name or "", row.agent_id, row.class_key), []).append(row)
    return [
        # It ends when only one of them is recent.
        Blocked(agent_id, name, class_key, tuple(row.task_id for row in failed), failed[1].at_us + int(BLOCK_S * 1e6))
        for (name, agent_id, class_key), failed in sorted(newest.items())
        if len(failed) > 1
    ]


@dataclass(frozen=True, slots=True)
class LimitInForce:
    """`running` by the label's value where the limit is one of a label, otherwise under the empty string."""

    key: str
    maximum: int
    running: Mapping[str, int]


def limits_in_force(connection: Connection) -> list[LimitInForce]:
    """By key."""
    counts: dict[str, dict[str, int]] = {}
    for row in connection.execute(select(limit_counts).order_by(limit_counts.c.key)):
        counts.setdefault(limit_of(row.key), {})[value_of(row.key)] = row.running
    return [
        LimitInForce(
            row.key,
            row.maximum,
            counts.get(row.key, {} if row.key.startswith("label:") else {"": 0}),
        )
        for row in connection.execute(select(limits).order_by(limits.c.key))
    ]


def agent_states(connection: Connection, now_us: int, timers: Timers) -> dict[str, int]:
    """How many agents are `ready`, `draining`, `unreachable` or `lost`, by what the database last heard of them."""
    found: Counter[str] = Counter({"ready": 0, "draining": 0, "unreachable": 0, "lost": 0})
    for row in connection.execute(
        select(agents.c.draining, agents.c.drain_reason, agents.c.lost, agents.c.last_seen_us)
    ):
        standing = health((now_us - row.last_seen_us) / 1e6, timers)
        if row.lost or standing is Health.LOST:
            found["lost"] += 1
        elif standing is Health.UNREACHABLE:
            found["unreachable"] += 1
        else:
            found["draining" if row.draining or row.drain_reason else "ready"] += 1
    return dict(found)


@dataclass(frozen=True, slots=True)
class Overview:
    """What is costly to count, at one moment."""

    at_us: int
    depths: tuple[Depth, ...] = ()
    cores: Mapping[QueueKey, int] = field(default_factory=dict)
    agents: Mapping[str, int] = field(default_factory=dict)
    limits: tuple[LimitInForce, ...] = ()


def take(connection: Connection, now_us: int, timers: Timers) -> Overview:
    """All of it in one snapshot."""
    return Overview(
        at_us=now_us,
        depths=tuple(queue_depths(connection)),
        cores=cores_by_queue(connection),
        agents=agent_states(connection, now_us, timers),
        limits=tuple(limits_in_force(connection)),
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What costs little and is shown as it is now."""

    weights: Mapping[QueueKey, float]
    limits: tuple[LimitInForce, ...]
    running: tuple[Record, ...]
    blocks: tuple[Blocked, ...]


def standing(connection: Connection, now_us: int) -> Standing:
    """All of it in one snapshot."""
    return Standing(
        weights=weights(connection),
        limits=tuple(limits_in_force(connection)),
        running=tuple(running(connection)),
        blocks=tuple(blocks(connection, now_us)),
    )


def answers(connection: Connection) -> None:
    """Return if the database is there."""
    connection.execute(select(literal_column("1"))).one()
