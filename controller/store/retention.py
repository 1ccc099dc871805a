"""What is forgotten, and when: finished jobs with all that is theirs, and the requests that made them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import text

from controller.core.states import JOB_ENDS
from controller.store.writer import Tx

_ENDS = ", ".join(f"'{state}'" for state in sorted(JOB_ENDS))
LOGS = "logs/"
"""What the keys of archived logs begin with."""
# Children first: nothing is left for the database to cascade to one row at a time.
_PARTS = ("log_chunks", "attempts", "artifacts", "events", "tasks")


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many jobs are gone, and the keys of their archived logs and remains, which are nobody's now."""

    jobs: int
    blob_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DropEnded:
    """Delete jobs that ended before `before_us`, those longest ended first, at most `limit`.

    Jobs that another one still waits for stay until that one has ended.
    """

    before_us: int
    limit: int

    def apply(self, tx: Tx) -> Dropped:
        rows = tx.rows(
            "SELECT tenant, id FROM jobs WHERE"  # noqa: S608 - as below
            f" ended_us IS NOT NULL AND ended_us < :before AND state IN ({_ENDS}) AND NOT EXISTS ("
            "SELECT 1 FROM job_edges JOIN jobs AS child"
            " ON child.tenant = job_edges.tenant AND child.id = job_edges.child_id"
            " WHERE job_edges.tenant = jobs.tenant AND job_edges.parent_id = jobs.id"
            f" AND child.state NOT IN ({_ENDS})) ORDER BY ended_us, id LIMIT :limit{tx.database.skip_locked}",
            before=self.before_us,
            limit=self.limit,
        )
        ids: defaultdict[str, list[str]] = defaultdict(list)
        for row in rows:
            ids[row.tenant].append(row.id)
        blob_keys = [key for tenant, gone in sorted(ids.items()) for key in _drop(tx, tenant, gone)]
        return Dropped(len(rows), tuple(blob_keys))


def _drop(tx: Tx, tenant: str, job_ids: list[str]) -> list[str]:
    clause, values = tx.database.any_of("job_id", "ids", job_ids)
    of_jobs = f"tenant = :tenant AND {clause}"
    given = {"tenant": tenant, **values}
    sql = (
        f"SELECT log_key, remains_key FROM attempts WHERE {of_jobs}"  # noqa: S608 - as below
        " AND (log_key LIKE :archived OR remains_key IS NOT NULL)"
    )
    archived = tx.rows(sql, **given, archived=f"{LOGS}%")
    for table in _PARTS:
        tx.connection.execute(text(f"DELETE FROM {table} WHERE {of_jobs}"), given)  # noqa: S608 - names of this file's own
    for column in ("parent_id", "child_id", "id"):
        clause, _ = tx.database.any_of(column, "ids", job_ids)
        table = "jobs" if column == "id" else "job_edges"
        tx.connection.execute(text(f"DELETE FROM {table} WHERE tenant = :tenant AND {clause}"), given)  # noqa: S608 - as above
    logs = [row.log_key for row in archived if row.log_key.startswith(LOGS)]
    return [*logs, *(row.remains_key for row in archived if row.remains_key is not None)]


@dataclass(frozen=True, slots=True)
class DropRequests:
    """Forget requests made before `before_us` none of whose jobs is left, at most `limit`; returns how many."""

    before_us: int
    limit: int = 10_000

    def apply(self, tx: Tx) -> int:
        elements = "json_each" if tx.connection.dialect.name == "sqlite" else "json_array_elements_text"
        job_ids = "requests.job_ids" if tx.connection.dialect.name == "sqlite" else "CAST(requests.job_ids AS json)"
        return tx.connection.execute(
            text(
                "DELETE FROM requests WHERE (tenant, request_id) IN ("  # noqa: S608 - as above
                "SELECT tenant, request_id FROM requests WHERE created_us < :before AND NOT EXISTS ("
                f"SELECT 1 FROM {elements}({job_ids}) AS made JOIN jobs"
                " ON jobs.tenant = requests.tenant AND jobs.id = made.value"
                ") ORDER BY created_us LIMIT :limit)"
            ),
            {"before": self.before_us, "limit": self.limit},
        ).rowcount
