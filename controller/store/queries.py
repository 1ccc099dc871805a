"""Reads, each in one snapshot. They return rows; `controller/rpc/messages.py` makes protobuf of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy import ColumnElement, Connection, func, or_, select, text

from controller.core.states import JOB_ENDS, JobState
from controller.store.archiving import NOTHING_LOGGED
from controller.store.engine import AnyRow, Database
from controller.store.tables import (
    JobId,
    Tenant,
    agents,
    attempts,
    deposits,
    documents,
    events,
    jobs,
    log_chunks,
    requests,
    tasks,
)

Record: TypeAlias = AnyRow
"""A row as a query returns it; outside the store nobody needs to know whose type it is."""


JOB_ID_LENGTH = 16
MOST_PREFIXES = 500
"""Beginnings of ids that one question may have."""
PATHS_AT_ONCE = 1000


class JobNotFound(Exception):
    """No job has this id or prefix."""


class JobAmbiguous(Exception):
    """Several jobs have ids with this prefix."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs. Empty fields select everything."""

    tenant: Tenant
    ids: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    preset: str = ""
    queue: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    def where(self) -> list[ColumnElement[bool]]:
        clauses: list[ColumnElement[bool]] = [jobs.c.tenant == self.tenant, jobs.c.kind == "media"]
        if self.ids:
            # Whole ids are one list; conditions on beginnings nest, and no engine takes thousands of them.
            whole = [given for given in self.ids if len(given) == JOB_ID_LENGTH]
            begun = [given for given in self.ids if len(given) < JOB_ID_LENGTH]
            clauses.append(or_(jobs.c.id.in_(whole), *(_begins(given) for given in begun)))
        if self.states:
            clauses.append(jobs.c.state.in_(self.states))
        if self.preset:
            clauses.append(or_(jobs.c.preset == self.preset, jobs.c.preset.regexp_match(_versions(self.preset))))
        if self.queue:
            clauses.append(jobs.c.queue == self.queue)
        if self.reasons:
            clauses.append(jobs.c.reason.in_(self.reasons))
        for key, value in self.labels.items():
            clauses.append(jobs.c.labels[key].as_string() == value)
        return clauses


def _begins(prefix: str) -> ColumnElement[bool]:
    return jobs.c.id.startswith(prefix, autoescape=True)


def _versions(name: str) -> str:
    return "^" + "".join(c if c.isalnum() or c == "_" else "\\" + c for c in name) + "_v[0-9]+$"


def resolve_job(connection: Connection, tenant: Tenant, prefix: str) -> JobId:
    """The one job whose id is or begins with `prefix`. Raises JobNotFound, JobAmbiguous."""
    if not prefix or len(prefix) > JOB_ID_LENGTH or not prefix.isprintable():
        raise JobNotFound
    found = connection.scalars(select(jobs.c.id).where(jobs.c.tenant == tenant, _begins(prefix)).limit(2)).all()
    if not found:
        raise JobNotFound
    if len(found) > 1 and prefix not in found:
        raise JobAmbiguous
    return JobId(prefix if prefix in found else found[0])


def resolve_jobs(connection: Connection, tenant: Tenant, given: Iterable[str]) -> list[JobId]:
    """The jobs that these mean, each once. Raises JobNotFound, JobAmbiguous."""
    wanted = list(dict.fromkeys(given))
    whole = _existing(connection, tenant, wanted)
    return list(dict.fromkeys(JobId(one) if one in whole else resolve_job(connection, tenant, one) for one in wanted))


def _existing(connection: Connection, tenant: Tenant, given: Iterable[str]) -> set[str]:
    whole = [one for one in given if len(one) == JOB_ID_LENGTH and one.isprintable()]
    if not whole:
        return set()
    return set(connection.scalars(select(jobs.c.id).where(jobs.c.tenant == tenant, jobs.c.id.in_(whole))))


def find_jobs(connection: Connection, chosen: Filter, *, most: int) -> list[JobId]:
    """Ids of the chosen jobs in the order of submission."""
    return [
        JobId(i) for i in connection.scalars(select(jobs.c.id).where(*chosen.where()).order_by(jobs.c.seq).limit(most))
    ]


def list_events(
    connection: Connection, tenant: Tenant, job_id: JobId, *, after_sequence: int, limit: int
) -> list[AnyRow]:
    """A job's events by sequence."""
    return list(
        connection.execute(
            select(events)
            .where(events.c.tenant == tenant, events.c.job_id == job_id, events.c.sequence > after_sequence)
            .order_by(events.c.sequence)
            .limit(limit)
        )
    )


def events_after(
    connection: Connection, database: Database, chosen: Filter, *, cursor: int, limit: int, settled: bool = True
) -> list[AnyRow]:
    """Events of the chosen jobs in the order in which they were committed, as far as that is settled.

    Not `settled`: all that are there, for who won't ask again. Earlier ones may still be committed.
    """
    query = (
        select(events)
        .join(jobs, (jobs.c.tenant == events.c.tenant) & (jobs.c.id == events.c.job_id))
        .where(*chosen.where(), events.c.cursor > cursor)
        .order_by(events.c.cursor)
        .limit(limit)
    )
    if settled:
        query = query.where(events.c.cursor < database.horizon(connection))
    return list(connection.execute(query))


def unended(connection: Connection, chosen: Filter) -> int:
    """How many of the chosen jobs have not ended."""
    return connection.execute(
        select(func.count()).select_from(jobs).where(*chosen.where(), jobs.c.state.not_in(JOB_ENDS))
    ).scalar_one()


def any_live(connection: Connection) -> bool:
    """Whether any job, of any kind, has something to do. What a person paused waits for that person."""
    idle = (*JOB_ENDS, JobState.HELD)
    return connection.execute(select(jobs.c.seq).where(jobs.c.state.not_in(idle)).limit(1)).first() is not None


def log_after(
    connection: Connection,
    database: Database,
    tenant: Tenant,
    job_id: JobId,
    attempt_id: str,
    *,
    position: int,
    limit: int,
    settled: bool = True,
) -> list[AnyRow]:
    """Log chunks of a job in the order in which they arrived; `settled` as for `events_after`."""
    query = (
        select(log_chunks)
        .where(log_chunks.c.tenant == tenant, log_chunks.c.job_id == job_id, log_chunks.c.position > position)
        .order_by(log_chunks.c.position)
        .limit(limit)
    )
    if settled:
        query = query.where(log_chunks.c.position < database.horizon(connection))
    if attempt_id:
        query = query.where(log_chunks.c.attempt_id == attempt_id)
    return list(connection.execute(query))


def job_state(connection: Connection, tenant: Tenant, job_id: JobId) -> str:
    return str(
        connection.execute(select(jobs.c.state).where(jobs.c.tenant == tenant, jobs.c.id == job_id)).scalar_one()
    )


def job_tasks(connection: Connection, tenant: Tenant, job_id: JobId) -> list[AnyRow]:
    return list(connection.execute(select(tasks).where(tasks.c.tenant == tenant, tasks.c.job_id == job_id)))


def ahead_in_line(connection: Connection, task: AnyRow) -> int:
    """How many waiting tasks come before this one in its own lane."""
    return connection.execute(
        select(func.count())
        .select_from(tasks)
        .where(text("state = 'PENDING'"), tasks.c.lane == task.lane, tasks.c.seq < task.seq)
    ).scalar_one()


def list_agents(connection: Connection) -> list[AnyRow]:
    return list(connection.execute(select(agents).order_by(agents.c.name, agents.c.id)))


def holdings(connection: Connection) -> dict[str, list[str]]:
    """Open attempts by agent id."""
    held: dict[str, list[str]] = {}
    for row in connection.execute(
        select(attempts.c.holder, attempts.c.id).where(attempts.c.holder != "").order_by(attempts.c.leased_us)
    ):
        held.setdefault(row.holder, []).append(row.id)
    return held


def stops_for(connection: Connection, agent_id: str) -> list[AnyRow]:
    """Attempts that the agent holds and must stop."""
    return list(
        connection.execute(
            select(attempts.c.id, attempts.c.stop_reason).where(
                attempts.c.holder == agent_id, attempts.c.stop_reason.is_not(None)
            )
        )
    )


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a request is checked against. `before`: the jobs that the same request made already."""

    before: list[JobId]
    roots: list[tuple[str, ...]]
    now_us: int
    parents: Mapping[str, JobId | JobNotFound | JobAmbiguous]
    deposited: frozenset[str]


def admission_grounds(
    connection: Connection,
    database: Database,
    tenant: Tenant,
    request_id: str,
    digest: str,
    after: Iterable[str],
    paths: Collection[str],
) -> Grounds:
    """All of it in one snapshot; `after` are ids of jobs or prefixes of them, `paths` in the controller's own store."""
    parents: dict[str, JobId | JobNotFound | JobAmbiguous] = {}
    asked = set(after)
    whole = _existing(connection, tenant, asked)
    for prefix in asked:
        try:
            parents[prefix] = JobId(prefix) if prefix in whole else resolve_job(connection, tenant, prefix)
        except (JobNotFound, JobAmbiguous) as error:
            parents[prefix] = error
    return Grounds(
        before=requested(connection, tenant, request_id, digest) if request_id else [],
        roots=[
            tuple(json.loads(row.media_roots))
            for row in database.rows(connection, "SELECT DISTINCT media_roots FROM agents WHERE lost = false")
        ],
        now_us=database.now_us(connection),
        parents=parents,
        deposited=_deposited(connection, tenant, paths),
    )


def _deposited(connection: Connection, tenant: Tenant, paths: Collection[str]) -> frozenset[str]:
    """Those of the paths under which something is whole."""
    found: set[str] = set()
    rest = sorted(paths)
    while rest:
        some, rest = rest[:PATHS_AT_ONCE], rest[PATHS_AT_ONCE:]
        where = (deposits.c.tenant == tenant, deposits.c.path.in_(some), text("whole"))
        found.update(connection.scalars(select(deposits.c.path).where(*where)))
    return frozenset(found)


def archived(connection: Connection, tenant: Tenant, job_id: JobId, attempt_id: str) -> list[tuple[str, str]]:
    """Attempts of a job, or the one named, whose logs were moved, with the keys of their blobs; in their order."""
    query = (
        select(attempts.c.id, attempts.c.log_key)
        .where(
            attempts.c.tenant == tenant, attempts.c.job_id == job_id, attempts.c.log_key.not_in(("", NOTHING_LOGGED))
        )
        .order_by(attempts.c.leased_us, attempts.c.number)
    )
    if attempt_id:
        query = query.where(attempts.c.id == attempt_id)
    return [(row.id, row.log_key) for row in connection.execute(query)]


def requested(connection: Connection, tenant: Tenant, request_id: str, digest: str) -> list[JobId]:
    """The jobs that the same request made before; none where it is new. A different one is the command's to refuse."""
    job_ids = connection.execute(
        select(requests.c.job_ids).where(
            requests.c.tenant == tenant, requests.c.request_id == request_id, requests.c.digest == digest
        )
    ).scalar_one_or_none()
    return [] if job_ids is None else [JobId(job_id) for job_id in json.loads(job_ids)]


def stored_documents(connection: Connection, tenant: Tenant) -> Collection[AnyRow]:
    """Added presets and profiles."""
    return connection.execute(select(documents).where(documents.c.tenant == tenant)).all()


def unconfirmed(connection: Connection, agent_id: str, age_us: int, database: Database) -> list[str]:
    """Attempts that were granted `age_us` ago or earlier and that the agent has not begun or confirmed since."""
    return list(
        connection.scalars(
            select(attempts.c.id).where(
                attempts.c.holder == agent_id,
                attempts.c.state.in_(("leased", "publishing")),
                attempts.c.stop_reason.is_(None),
                attempts.c.leased_us < database.now_us(connection) - age_us,
            )
        )
    )
