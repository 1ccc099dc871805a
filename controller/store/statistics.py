"""What came of the jobs that ended lately: counted when asked, of the rows that are still kept.

Percentiles are exact, by rank. Nothing is summed up beforehand: what is shown is what can be looked at job by job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import JSON, ColumnElement, Connection, Subquery, cast, column, func, or_, select, type_coerce, values
from sqlalchemy.types import String

from controller.store.tables import Tenant, attempts, jobs

#: An operation or a preset, and each preset whose jobs count for it.
Members = Mapping[str, Collection[str]]


@dataclass(frozen=True, slots=True)
class Spread:
    """Half of the durations, and 95 % of them, are at most so long, in microseconds."""

    median_us: int
    p95_us: int


@dataclass(slots=True)
class Figures:
    """What came of the jobs of one name. `failed` counts attempts by reason; durations are in seconds.

    `timed_media_s` is the media of completed attempts whose media and run time are both known, `timed_run_s` is that
    run time.
    """

    jobs: dict[str, int] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    queue_wait: Spread | None = None
    run_time: Spread | None = None
    cpu_s: float = 0.0
    timed_media_s: float = 0.0
    timed_run_s: float = 0.0


def statistics(
    connection: Connection, tenant: Tenant, since_us: int, members: Members, queue: str = ""
) -> dict[str, Figures]:
    """By name, of those of `members` that have jobs which ended since then."""
    if not any(members.values()):
        return {}
    ended = _ended(tenant, since_us, members, queue)
    found: dict[str, Figures] = {}
    by_end = select(ended.c.name, ended.c.state, ended.c.reason, func.count().label("total"))
    for row in connection.execute(by_end.group_by(ended.c.name, ended.c.state, ended.c.reason)):
        figures = found.setdefault(row.name, Figures())
        figures.jobs[row.state] = figures.jobs.get(row.state, 0) + row.total
        if row.state == "DEAD":
            figures.dead[row.reason] = row.total
    tried = _tried(connection, ended)
    timed = (tried.c.state == "completed") & (tried.c.media_us > 0) & (tried.c.run_us > 0)
    by_outcome = select(
        tried.c.name,
        tried.c.reason,
        func.count().label("total"),
        func.coalesce(func.sum(tried.c.cpu_seconds), 0.0).label("cpu_s"),
        func.coalesce(func.sum(tried.c.media_us).filter(timed), 0).label("media_us"),
        func.coalesce(func.sum(tried.c.run_us).filter(timed), 0).label("run_us"),
    )
    for row in connection.execute(by_outcome.group_by(tried.c.name, tried.c.reason)):
        figures = found[row.name]
        figures.attempts += row.total
        figures.cpu_s += row.cpu_s
        figures.timed_media_s += int(row.media_us) / 1e6
        figures.timed_run_s += int(row.run_us) / 1e6
        if row.reason is not None:
            figures.failed[row.reason] = row.total
    for name, spread in _spreads(connection, tried, tried.c.queue_wait_us, None):
        found[name].queue_wait = spread
    for name, spread in _spreads(connection, tried, tried.c.run_us, tried.c.state == "completed"):
        found[name].run_time = spread
    return found


def _ended(tenant: Tenant, since_us: int, members: Members, queue: str) -> Subquery:
    """Jobs that ended, once for each name that they count for."""
    pairs = [(name, preset) for name, presets in members.items() for preset in presets]
    counted = values(column("name", String), column("preset", String), name="counted").data(pairs).cte("counted")
    # Not `ended_us >= ...` alone: the index is of those that have ended.
    recent = jobs.c.ended_us.is_not(None) & (jobs.c.ended_us >= since_us)
    query = (
        select(counted.c.name, jobs.c.tenant, jobs.c.id, jobs.c.state, jobs.c.reason)
        .join(counted, counted.c.preset == jobs.c.preset)
        .where(recent, jobs.c.tenant == tenant, jobs.c.kind == "media")
    )
    return (query.where(jobs.c.queue == queue) if queue else query).subquery("ended")


def _tried(connection: Connection, ended: Subquery) -> Subquery:
    """The attempts of these jobs, each with the reason why it failed."""
    postgres = connection.dialect.name == "postgresql"
    failure = cast(attempts.c.failure, JSON) if postgres else type_coerce(attempts.c.failure, JSON)
    return (
        select(
            ended.c.name,
            attempts.c.state,
            failure["reason"].as_string().label("reason"),
            attempts.c.queue_wait_us,
            attempts.c.run_us,
            attempts.c.cpu_seconds,
            attempts.c.media_us,
        )
        .join(ended, (attempts.c.job_id == ended.c.id) & (attempts.c.tenant == ended.c.tenant))
        .subquery("tried")
    )


def _spreads(
    connection: Connection, tried: Subquery, duration: ColumnElement[int], which: ColumnElement[bool] | None
) -> Iterable[tuple[str, Spread]]:
    ranked = select(
        tried.c.name,
        duration.label("duration_us"),
        func.row_number().over(partition_by=tried.c.name, order_by=duration).label("rank"),
        func.count().over(partition_by=tried.c.name).label("total"),
    ).where(duration.is_not(None))
    of = (ranked if which is None else ranked.where(which)).subquery("ranked")
    ranks = [(of.c.total * percent + 99) // 100 for percent in (50, 95)]
    found: dict[str, list[int]] = {}
    query = select(of.c.name, of.c.duration_us).where(or_(*(of.c.rank == rank for rank in ranks)))
    for row in connection.execute(query.order_by(of.c.name, of.c.rank)):
        found.setdefault(row.name, []).append(int(row.duration_us))
    # Of few attempts both may be the same one.
    return ((name, Spread(ends[0], ends[-1])) for name, ends in found.items())
