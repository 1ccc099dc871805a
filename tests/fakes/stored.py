"""Migrated databases of either kind, and rows put straight into them: for tests of what becomes of stored things."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Connection, Float, Integer, LargeBinary, Row, Select, Table, insert

from controller.store.databases import open_database
from controller.store.migrations import upgrade
from controller.store.tables import (
    DEFAULT_TENANT,
    agents,
    attempts,
    events,
    job_edges,
    jobs,
    log_chunks,
    requests,
    tasks,
)
from controller.store.writer import Store, Tx
from tests.fakes.postgres import Postgres

KINDS = ("sqlite", "postgresql")

RowOf = tuple[Table, Mapping[str, Any]]


@contextmanager
def migrated(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The URL of a migrated database of this kind (`KINDS`); skips where the machine has no such server."""
    if kind == "sqlite":
        url = f"sqlite:///{folder / 'mediactl.db'}"
        migrate(url)
        yield url
    else:
        server: Postgres = request.getfixturevalue("postgres")
        with server.database(server.template("migrated", migrate)) as url:
            yield url


def migrate(url: str) -> None:
    engine = open_database(url).writer_engine()
    try:
        upgrade(engine)
    finally:
        engine.dispose()


@asynccontextmanager
async def opened(url: str, *, clock_us: Callable[[], int] | None = None) -> AsyncIterator[Store]:
    """A store that is open within the block."""
    store = Store(open_database(url, clock_us=clock_us))
    store.open()
    try:
        yield store
    finally:
        await store.close()


@dataclass(frozen=True, slots=True)
class Do:
    """A command of the test's own."""

    step: Callable[[Tx], object]

    def apply(self, tx: Tx) -> object:
        return self.step(tx)


async def add(store: Store, *rows: RowOf) -> None:
    """Insert rows."""

    def step(tx: Tx) -> None:
        for table, given in rows:
            tx.connection.execute(insert(table).values(filled(table, given)))

    await store.execute(Do(step))


async def found(store: Store, query: Select[Any]) -> list[Row[Any]]:
    """What a query gives."""

    def run(connection: Connection) -> list[Row[Any]]:
        return list(connection.execute(query))

    return await store.read(run)


def filled(table: Table, given: Mapping[str, Any]) -> dict[str, Any]:
    """A whole row: what is not given is empty, zero or false, or null where it may be."""
    row = {column.name: _empty(column.type) for column in table.columns if not column.nullable}
    if "tenant" in row:
        row["tenant"] = DEFAULT_TENANT
    assert given.keys() <= set(table.columns.keys())
    return row | dict(given)


def _empty(kind: object) -> object:
    if isinstance(kind, JSON):
        return {}
    if isinstance(kind, Boolean):
        return False
    if isinstance(kind, Integer | Float):
        return 0
    return b"" if isinstance(kind, LargeBinary) else ""


def job(number: int, state: str = "PENDING", *, task: Mapping[str, Any] | None = None, **given: Any) -> list[RowOf]:
    """A job `jN` with one task `jN-1` in the same state unless `task` says otherwise, and an event."""
    at = {"job_id": f"j{number}"}
    facts = {"name": "main", "kind": "transform", "state": state, "after": "[]", "avoid": "[]"} | dict(task or {})
    return [
        (jobs, {"seq": number, "id": f"j{number}", "kind": "media", "state": state, "event_count": 1, **given}),
        (tasks, {"seq": number, "id": f"j{number}-1", **facts, **at}),
        (events, {"cursor": number, "sequence": 1, "type": "submitted", "job_state": state, **at}),
    ]


def attempt(number: int, name: str, **given: Any) -> RowOf:
    """An attempt of job `jN`, nobody's and unended unless given."""
    of = {"task_id": f"j{number}-1", "job_id": f"j{number}", "number": 1, "limit_keys": "[]"}
    return attempts, {"id": name, **of, **given}


def chunk(number: int, name: str, position: int, stream: str, sequence: int, data: bytes) -> RowOf:
    """A log chunk of attempt `name` of job `jN`."""
    said = {"stream": stream, "sequence": sequence, "data": data}
    return log_chunks, {"position": position, "job_id": f"j{number}", "attempt_id": name, **said}


def edge(parent: int, child: int) -> RowOf:
    """Job `child` waits for job `parent`."""
    return job_edges, {"parent_id": f"j{parent}", "child_id": f"j{child}"}


def agent(name: str) -> RowOf:
    return agents, {"id": name, "name": name, "labels": "{}", "capabilities": "{}", "media_roots": "[]"}


def request_of(name: str, created_us: int) -> RowOf:
    """A remembered request."""
    return requests, {"request_id": name, "digest": "d", "job_ids": "[]", "created_us": created_us}
