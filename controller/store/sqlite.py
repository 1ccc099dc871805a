"""One SQLite file: a writer that commits durably and readers that never wait for it (WAL)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from controller.store.engine import NOTHING, Clock, Database, Stamp, Url, driver_error

_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""Errors of the place, not of the statement."""
TICKET_BITS = 12
"""Tickets begin at the time in microseconds with room for this many bits: they rise across restarts and restores."""


class SqliteDatabase(Database):
    """`path` None: a database in memory, with one connection for everything (simulations)."""

    grants_alone = False
    for_update = ""
    skip_locked = ""

    def __init__(self, path: Path | None, *, clock_us: Clock | None = None) -> None:
        super().__init__(Url(f"sqlite:///{path}" if path else "sqlite://"))
        self.path = path
        self._clock_us = clock_us or (lambda: time.time_ns() // 1000)
        self._last_us = 0
        self._memory: Engine | None = None

    def writer_engine(self) -> Engine:
        if self.path is None:
            return self._in_memory()
        engine = create_engine(self.url, poolclass=NullPool, connect_args={"check_same_thread": False})
        _prepare(engine, begin="BEGIN IMMEDIATE")
        return engine

    def reader_engine(self, connections: int) -> Engine:
        if self.path is None:
            return self._in_memory()
        engine = create_engine(
            self.url,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            connect_args={"check_same_thread": False},
        )
        _prepare(engine, begin="BEGIN", query_only=True)
        return engine

    def _in_memory(self) -> Engine:
        if self._memory is None:
            self._memory = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
            _prepare(self._memory, begin="BEGIN")
        return self._memory

    def begin(self, connection: Connection) -> Stamp:
        now_us = self._clock_us()
        if not self._last_us:
            newest = connection.exec_driver_sql(
                "SELECT max((SELECT coalesce(max(cursor), 0) FROM events), (SELECT coalesce(max(seq), 0) FROM tasks),"
                " (SELECT coalesce(max(position), 0) FROM log_chunks))"
            ).scalar_one()
            self._last_us = newest >> TICKET_BITS
        # A clock that stands still or goes back must not give a ticket twice.
        self._last_us = max(self._last_us + 1, now_us)
        return Stamp(now_us, self._last_us << TICKET_BITS)

    def used(self, ticket: int) -> None:
        """A transaction went on to this ticket."""
        self._last_us = max(self._last_us, ticket >> TICKET_BITS)

    def now_us(self, connection: Connection) -> int:
        return self._clock_us()

    def horizon(self, connection: Connection) -> int:
        return 2**63 - 1

    def any_of(self, column: str, name: str, values: Collection[str]) -> tuple[str, dict[str, Any]]:
        return f"{column} IN (SELECT value FROM json_each(:{name}))", {name: json.dumps(list(values))}  # noqa: S608

    def lock_writing(self, connection: Connection) -> None:
        pass

    def lock_scheduling(self, connection: Connection) -> None:
        pass

    def insert(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, if_new: bool = False
    ) -> None:
        if rows:
            columns = tuple(rows[0])
            _driver(connection).executemany(_insert(table, columns, if_new), [tuple(row.values()) for row in rows])

    def update(
        self, connection: Connection, table: Table, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        if rows:
            columns = tuple(name for name in rows[0] if name not in keys)
            order = (*columns, *keys)
            _driver(connection).executemany(
                _update(table, columns, tuple(keys)), [tuple(row[name] for name in order) for row in rows]
            )

    def fetch(self, connection: Connection, sql: str, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        return _driver(connection).execute(sql, dict(values)).fetchall()

    def _described(
        self, connection: Connection, sql: str, values: Mapping[str, Any]
    ) -> tuple[Sequence[tuple[Any, ...]], tuple[str, ...]]:
        cursor = _driver(connection).execute(sql, dict(values))
        return cursor.fetchall(), tuple(column[0] for column in cursor.description)

    def execute(self, connection: Connection, sql: str, values: Mapping[str, Any] = NOTHING) -> None:
        _driver(connection).execute(sql, dict(values))

    def notify(self, connection: Connection, sender: str, topics: Iterable[str]) -> None:
        pass

    def listen(self, sender: str, heard: Callable[[Collection[str] | None], None]) -> Callable[[], None]:
        return lambda: None

    def is_conflict(self, error: BaseException) -> bool:
        return False

    def is_unavailable(self, error: BaseException) -> bool:
        told = driver_error(error)
        return isinstance(told, sqlite3.OperationalError) and (told.sqlite_errorcode & 0xFF) in _AWAY


def _driver(connection: Connection) -> sqlite3.Connection:
    return connection.connection.driver_connection  # type: ignore[return-value] # of this dialect


@cache
def _insert(table: Table, columns: tuple[str, ...], if_new: bool) -> str:
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
        + (" ON CONFLICT DO NOTHING" if if_new else "")
    )


@cache
def _update(table: Table, columns: tuple[str, ...], keys: tuple[str, ...]) -> str:
    return (
        f"UPDATE {table.name} SET {', '.join(f'{name} = ?' for name in columns)}"  # noqa: S608
        f" WHERE {' AND '.join(f'{name} = ?' for name in keys)}"
    )


def _prepare(engine: Engine, *, begin: str, query_only: bool = False) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own implicit BEGIN would come too late for savepoints and locks.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            cursor.execute(f"PRAGMA {pragma}")
        if query_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)
