"""Rows put straight into a database, for tests of what only reads them or counts them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import JSON, Boolean, Connection, LargeBinary, Numeric, String, Table, insert

from controller.store.engine import Database
from controller.store.tables import agents, attempts, jobs, lanes, metadata, tasks
from controller.store.writer import Command, Tx, begin, end
from presets.capabilities import Alternative, Requirements

R = TypeVar("R")

_NEEDS_NOTHING: dict[str, Any] = {
    "requirements": json.dumps(Requirements((Alternative(()),)).to_json()),
    "require": "{}",
    "paths": "[]",
}


class Rows:
    """A database with the tables alone. Columns that a test doesn't name are empty or 0; ids are numbers as text."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.engine = database.writer_engine()
        with self.engine.begin() as connection:
            metadata.create_all(connection)
        self._number = 0

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """As the writer's are."""
        with self.engine.connect() as connection, connection.begin():
            tx = begin(self.database, connection)
            yield tx
            end(tx, "rows")

    def do(self, command: Command[R]) -> R:
        """Apply a command and commit."""
        return self.changes(command)[0]

    def changes(self, command: Command[R]) -> tuple[R, set[str]]:
        """And the topics that it wakes."""
        with self.transaction() as tx:
            result = command.apply(tx)
        return result, tx.changed

    def read(self, query: Callable[..., R], *args: Any) -> R:
        """The answer of a query."""
        with self.engine.connect() as connection:
            return query(connection, *args)

    def put(self, table: Table, **columns: Any) -> None:
        """One row."""
        with self.engine.begin() as connection:
            _put(connection, table, columns)

    def lane(self, queue: str = "default", *, tenant: str = "default", key: str = "") -> str:
        """A lane of the queue; its key."""
        key = key or f"{tenant}/{queue}"
        self.put(lanes, key=key, tenant=tenant, queue=queue)
        return key

    def task(
        self,
        state: str = "PENDING",
        *,
        job_state: str = "",
        tenant: str = "default",
        queue: str = "default",
        preset: str = "loudness_v1",
        labels: Mapping[str, str] | None = None,
        created_us: int = 0,
        **columns: Any,
    ) -> str:
        """A job with this task; the id of both. `columns` are the task's."""
        self._number += 1
        key = str(self._number)
        with self.engine.begin() as connection:
            job = {"queue": queue, "preset": preset, "labels": dict(labels or {}), "created_us": created_us}
            _put(
                connection, jobs, {"seq": self._number, "tenant": tenant, "id": key, "state": job_state or state} | job
            )
            task = {"seq": self._number, "tenant": tenant, "id": key, "job_id": key, "state": state}
            _put(connection, tasks, _NEEDS_NOTHING | task | columns)
        return key

    def held(
        self,
        *,
        state: str = "RUNNING",
        holder: str = "a",
        limit_keys: tuple[str, ...] = (),
        cores: int = 1,
        leased_us: int = 0,
        tenant: str = "default",
        **facts: Any,
    ) -> str:
        """A task with an attempt that an agent holds; the id of job, task and attempt."""
        key = self.task(state, job_state="PROCESSING", tenant=tenant, attempt_id=str(self._number + 1), **facts)
        self.put(
            attempts,
            tenant=tenant,
            id=key,
            task_id=key,
            job_id=key,
            holder=holder,
            agent_id=holder,
            state=state.lower(),
            cores=cores,
            limit_keys=json.dumps(limit_keys),
            leased_us=leased_us,
        )
        return key

    def agent(self, agent_id: str, **columns: Any) -> None:
        """An agent whose name is its id in capitals."""
        self.put(agents, **{"id": agent_id, "name": agent_id.upper(), "media_roots": "[]", **columns})


def _put(connection: Connection, table: Table, columns: Mapping[str, Any]) -> None:
    unnamed = {c.name: _empty(c.type) for c in table.columns if not c.nullable and c.name not in columns}
    connection.execute(insert(table).values({**unnamed, **columns}))


def _empty(kind: object) -> Any:
    match kind:
        case Boolean():
            return False
        case LargeBinary():
            return b""
        case JSON():
            return {}
        case Numeric():
            return 0.0
        case String():
            return ""
        case _:
            return 0
