"""Jobs as they are shown, read by plain statements: what callers ask for most.

One snapshot each; `controller/rpc/messages.py` makes protobuf of the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from controller.core.states import JobState
from controller.store.engine import Database
from controller.store.queries import Filter, resolve_job
from controller.store.tables import JobId, Tenant, jobs

_SHOWN = (
    "seq",
    "id",
    "tenant",
    "state",
    "preset",
    "preset_digest",
    "spec",
    "held",
    "cancel_requested",
    "waits_for",
    "expires_us",
    "replay_of",
    "attempt_count",
    "failure",
    "created_us",
    "started_us",
    "ended_us",
)
_COLUMNS = ", ".join(_SHOWN)
_ATTEMPTS = (
    "job_id, id, task_id, agent_id, number, state, failure, leased_us, started_us, ended_us, queue_wait_us, run_us,"
    " cpu_seconds, peak_memory_bytes, bytes_read, bytes_written, media_us, plan, kept_bytes"
)
_shown = select(*(jobs.c[name] for name in _SHOWN))


@dataclass(frozen=True, slots=True)
class JobRows:
    """A job's row and those of its parts, as far as they were asked for."""

    job: Any
    artifacts: Sequence[Any] = ()
    attempts: Sequence[Any] = ()
    tasks: Sequence[Any] = ()


def find_job(connection: Connection, database: Database, tenant: Tenant, prefix: str) -> JobRows:
    """The one job whose id is or begins with `prefix`, with all its parts. Raises JobNotFound, JobAmbiguous."""
    sql = f"SELECT {_COLUMNS} FROM jobs WHERE tenant = :tenant AND id = :id"  # noqa: S608
    # What can't be written into a statement is the beginning of no id either.
    found = database.rows(connection, sql, {"tenant": tenant, "id": prefix}) if prefix.isprintable() else ()
    if not found:
        job_id = resolve_job(connection, tenant, prefix)
        found = database.rows(connection, sql, {"tenant": tenant, "id": job_id})
    [rows] = _with_parts(connection, database, tenant, found, with_attempts=True)
    return rows


def get_jobs(
    connection: Connection, database: Database, tenant: Tenant, ids: Iterable[JobId], *, with_attempts: bool = False
) -> list[JobRows]:
    """These jobs in this order."""
    wanted = list(ids)
    clause, values = database.any_of("id", "ids", wanted)
    sql = f"SELECT {_COLUMNS} FROM jobs WHERE tenant = :tenant AND {clause}"  # noqa: S608
    rows = {row.id: row for row in database.rows(connection, sql, {"tenant": tenant, **values})}
    return _with_parts(connection, database, tenant, [rows[i] for i in wanted], with_attempts=with_attempts)


def list_jobs(
    connection: Connection, database: Database, chosen: Filter, *, before_seq: int | None, limit: int
) -> list[JobRows]:
    """Newest first."""
    query = _shown.where(*chosen.where()).order_by(jobs.c.seq.desc()).limit(limit)
    if before_seq is not None:
        query = query.where(jobs.c.seq < before_seq)
    found = connection.execute(query).all()
    return _with_parts(connection, database, chosen.tenant, found, with_attempts=False)


def _with_parts(
    connection: Connection, database: Database, tenant: Tenant, rows: Sequence[Any], *, with_attempts: bool
) -> list[JobRows]:
    def parts(columns: str, source: str, order: str, ids: list[str]) -> dict[str, list[Any]]:
        if not ids:
            return {}
        clause, values = database.any_of("job_id", "ids", ids)
        sql = f"SELECT {columns} FROM {source} WHERE tenant = :tenant AND {clause} ORDER BY {order}"  # noqa: S608
        found = defaultdict(list)
        for part in database.rows(connection, sql, {"tenant": tenant, **values}):
            found[part.job_id].append(part)
        return found

    every = [row.id for row in rows] if with_attempts else []
    published = parts(
        "job_id, document", "artifacts", "job_id, ordinal", [row.id for row in rows if row.state == JobState.COMPLETED]
    )
    tried = parts(_ATTEMPTS, "attempts", "leased_us, number", every)
    tasks = parts("job_id, id, name, kind, state, waits_for, attempts_used", "tasks", "seq", every)
    return [JobRows(row, published.get(row.id, ()), tried.get(row.id, ()), tasks.get(row.id, ())) for row in rows]
