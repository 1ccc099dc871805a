"""Rows that are changed: read once in a transaction, moved in memory, written back in bulk.

A record knows which of its columns were set, so that only those are written. Columns that no decision depends on are
not read; they can still be set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from sqlalchemy import Table

from controller.store import tables
from controller.store.writer import Tx


@dataclass(slots=True)
class Record:
    """One row. `set` what is to be written; plain reading is by attribute."""

    TABLE: ClassVar[Table]
    KEYS: ClassVar[tuple[str, ...]]

    changes: dict[str, Any] = field(default_factory=dict, init=False)

    def set(self, **columns: Any) -> None:
        """Change columns, of which the record need not have the former values."""
        known = self.__dataclass_fields__
        for name, value in columns.items():
            if name in known:
                setattr(self, name, value)
        self.changes.update(columns)


@dataclass(slots=True)
class JobRecord(Record):
    TABLE: ClassVar[Table] = tables.jobs
    KEYS: ClassVar[tuple[str, ...]] = ("tenant", "id")

    tenant: str
    id: str
    kind: str
    state: str
    queue: str
    preset: str
    max_attempts: int
    held: bool
    cancel_requested: bool
    waits_for: int
    after_any_end: bool
    not_before_us: int | None
    timeout_us: int | None
    expires_us: int | None
    attempt_count: int
    event_count: int
    started_us: int | None


@dataclass(slots=True)
class TaskRecord(Record):
    TABLE: ClassVar[Table] = tables.tasks
    KEYS: ClassVar[tuple[str, ...]] = ("tenant", "id")

    tenant: str
    id: str
    job_id: str
    name: str
    kind: str
    state: str
    lane: str
    priority: int
    waits_for: int
    after: str
    attempts_used: int
    attempts_made: int
    agents_lost: int
    avoid: str
    infrastructure_since_us: int | None
    ready_us: int
    attempt_id: str
    redo: bytes | None


@dataclass(slots=True)
class AttemptRecord(Record):
    TABLE: ClassVar[Table] = tables.attempts
    KEYS: ClassVar[tuple[str, ...]] = ("tenant", "id")

    tenant: str
    id: str
    task_id: str
    job_id: str
    holder: str
    agent_id: str
    state: str
    cores: int
    limit_keys: str
    charged: float
    leased_us: int
    started_us: int | None
    ended_us: int | None
    stop_reason: str | None
    log_key: str


def columns(record: type[Record]) -> tuple[str, ...]:
    """What is read of a row, in the order of the record's fields."""
    return tuple(f.name for f in fields(record) if f.init)


JOB_COLUMNS = ", ".join(columns(JobRecord))
TASK_COLUMNS = ", ".join(columns(TaskRecord))
ATTEMPT_COLUMNS = ", ".join(columns(AttemptRecord))


def write(tx: Tx, records: Iterable[Record]) -> None:
    """Write what was set, in as few statements as there are sets of columns."""
    alike: defaultdict[tuple[type[Record], tuple[str, ...]], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if record.changes:
            names = tuple(sorted(record.changes))
            keys = {key: getattr(record, key) for key in record.KEYS}
            alike[type(record), names].append({**{name: record.changes[name] for name in names}, **keys})
            record.changes = {}
    for (kind, _), rows in alike.items():
        tx.database.update(tx.connection, kind.TABLE, kind.KEYS, rows)
