"""PostgreSQL, shared by any number of controllers.

The row of a job is the lock of all that belongs to it. Transactions that lose against another (deadlock) are run
again. A ticket is the transaction's number and a counter within it: below the oldest transaction still running, order
and content are final (`pg_snapshot_xmin`), whoever wrote.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import psycopg
import structlog
from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    Table,
    create_engine,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from controller.store.engine import NOTHING, Clock, Database, Stamp, Url, driver_error
from controller.store.tables import Document

log = structlog.get_logger()

TICKET_BITS = 20
"""Rows that one transaction may number."""
CHANNEL = "mediactl"
PAYLOAD_BYTES = 7900
"""A notification holds fewer than 8000 bytes; what doesn't fit is told as "anything"."""
SCHEDULING_LOCK = 0x6D656469
WRITING_LOCK = SCHEDULING_LOCK + 1
NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
FIRST_WINS = frozenset({"pk_requests", "pk_agents", "pk_documents", "ix_deposits_whole"})
"""Keys that two controllers may be given at once: whoever is second looks again and finds what the first one wrote."""
STATEMENT_TOO_BIG = "54"
"""Class of "program limit exceeded": a key too long for its index, too many parameters, expressions too deep."""
LISTEN_POLL_S = 0.5
RECONNECT_S = 1.0


class PostgresDatabase(Database):
    """`url` as SQLAlchemy reads it; a `postgres://` or `postgresql://` one will do."""

    grants_alone = True
    for_update = " FOR UPDATE"
    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str, *, clock_us: Clock | None = None) -> None:
        super().__init__(Url(make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)))
        self._clock_us = clock_us
        self._offset: int | None = None

    def writer_engine(self) -> Engine:
        return self._engine(poolclass=NullPool)

    def reader_engine(self, connections: int) -> Engine:
        return self._engine(
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ",
        )

    def _engine(self, **options: Any) -> Engine:
        return create_engine(
            self.url,
            connect_args={
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20_000,
                # Durable when told so, and never stuck for ever behind somebody else's lock.
                # Every statement here has its index; plans made while tables were empty must not say otherwise.
                "options": "-c synchronous_commit=on -c lock_timeout=15s -c idle_in_transaction_session_timeout=60s"
                " -c enable_seqscan=off -c jit=off",
            },
            **options,
        )

    def begin(self, connection: Connection) -> Stamp:
        if self._offset is None:
            self._offset = self._read_offset(connection)
        now_us, transaction, _ = connection.exec_driver_sql(
            f"{NOW}, pg_current_xact_id()::text::bigint, pg_advisory_xact_lock_shared({WRITING_LOCK})"
        ).one()
        return Stamp(self._clock_us() if self._clock_us else now_us, (transaction + self._offset) << TICKET_BITS)

    def now_us(self, connection: Connection) -> int:
        if self._clock_us is not None:
            return self._clock_us()
        return int(connection.exec_driver_sql(NOW).scalar_one())

    def horizon(self, connection: Connection) -> int:
        if self._offset is None:
            self._offset = self._read_offset(connection)
        oldest = connection.exec_driver_sql("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").scalar_one()
        return int(oldest + self._offset) << TICKET_BITS

    def _read_offset(self, connection: Connection) -> int:
        # A dump that is restored elsewhere meets lower transaction numbers: `new-incarnation` sets this for it.
        found = connection.execute(text("SELECT value FROM meta WHERE key = 'ticket_offset'")).scalar_one_or_none()
        return int(found or 0)

    def any_of(self, column: str, name: str, values: Collection[str]) -> tuple[str, dict[str, Any]]:
        return f"{column} = ANY(:{name})", {name: list(values)}

    def lock_writing(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITING_LOCK})")

    def lock_scheduling(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({SCHEDULING_LOCK})")

    def insert(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, if_new: bool = False
    ) -> None:
        if rows:
            columns = tuple(rows[0])
            _driver(connection).execute(_insert(table, columns, if_new), _arrays(table, columns, rows))

    def update(
        self, connection: Connection, table: Table, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        if rows:
            columns = tuple(name for name in rows[0] if name not in keys)
            _driver(connection).execute(_update(table, columns, tuple(keys)), _arrays(table, (*columns, *keys), rows))

    def fetch(self, connection: Connection, sql: str, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        return _driver(connection).execute(_placeholders(sql), values).fetchall()

    def _described(
        self, connection: Connection, sql: str, values: Mapping[str, Any]
    ) -> tuple[Sequence[tuple[Any, ...]], tuple[str, ...]]:
        cursor = _driver(connection).execute(_placeholders(sql), values or None)
        return cursor.fetchall(), tuple(column.name for column in cursor.description or ())

    def execute(self, connection: Connection, sql: str, values: Mapping[str, Any] = NOTHING) -> None:
        _driver(connection).execute(_placeholders(sql), values or None)

    def notify(self, connection: Connection, sender: str, topics: Iterable[str]) -> None:
        payload = json.dumps([sender, *topics], separators=(",", ":"))
        if len(payload) > PAYLOAD_BYTES:
            payload = json.dumps([sender])
        self.execute(connection, "SELECT pg_notify(:channel, :payload)", {"channel": CHANNEL, "payload": payload})

    def listen(self, sender: str, heard: Callable[[Collection[str] | None], None]) -> Callable[[], None]:
        ending = threading.Event()
        thread = threading.Thread(target=self._listen, args=(sender, heard, ending), name="store-listen", daemon=True)
        thread.start()

        def end() -> None:
            ending.set()
            thread.join()

        return end

    def _listen(self, sender: str, heard: Callable[[Collection[str] | None], None], ending: threading.Event) -> None:
        plain = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        while not ending.is_set():
            try:
                with psycopg.connect(plain, autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    # What was told while nobody listened is lost: look at everything once.
                    heard(None)
                    while not ending.is_set():
                        for told in connection.notifies(timeout=LISTEN_POLL_S):
                            by, *topics = json.loads(told.payload)
                            if by != sender:
                                heard(topics or None)
            except psycopg.Error as error:
                log.warning("not hearing of other controllers' changes", message=str(error).strip())
                ending.wait(RECONNECT_S)

    def is_conflict(self, error: BaseException) -> bool:
        told = driver_error(error)
        if isinstance(told, psycopg.errors.UniqueViolation):
            return told.diag.constraint_name in FIRST_WINS
        return isinstance(
            told,
            psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure | psycopg.errors.LockNotAvailable,
        )

    def is_unavailable(self, error: BaseException) -> bool:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        told = driver_error(error)
        if isinstance(told, psycopg.Error) and (told.sqlstate or "")[:2] == STATEMENT_TOO_BIG:
            # The driver files it under "operational", but it is the statement's own fault and stays so.
            return False
        return isinstance(told, psycopg.OperationalError | psycopg.InterfaceError)


def _driver(connection: Connection) -> psycopg.Connection[tuple[Any, ...]]:
    return connection.connection.driver_connection  # type: ignore[return-value] # of this dialect


def _arrays(table: Table, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A literal for each column. The driver's own way to write arrays costs more than the statement."""
    literals = []
    for name in columns:
        write = _WRITERS[_type(table, name)]
        items = ["NULL" if (value := row[name]) is None else write(value) for row in rows]
        literals.append("{" + ",".join(items) + "}")
    return tuple(literals)


def _quoted(value: str) -> str:
    # The one character that PostgreSQL's text can't hold.
    value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "bigint": str,
    "boolean": str,
    "float8": repr,
    "bytea": lambda value: '"\\\\x' + value.hex() + '"',
    "text": _quoted,
}


@cache
def _type(table: Table, name: str) -> str:
    kind = table.c[name].type
    if isinstance(kind, BigInteger | Integer):
        return "bigint"
    if isinstance(kind, Boolean):
        return "boolean"
    if isinstance(kind, Float):
        return "float8"
    if isinstance(kind, LargeBinary):
        return "bytea"
    return "text"


def _value(table: Table, name: str) -> str:
    # Text becomes a document only where the column is one.
    return f'v."{name}"::jsonb' if table.c[name].type is Document else f'v."{name}"'


def _listed(names: Iterable[str]) -> str:
    # Some of them are words of SQL here.
    return ", ".join(f'"{name}"' for name in names)


def _unnest(table: Table, columns: Sequence[str]) -> str:
    arrays = ", ".join(f"%s::{_type(table, name)}[]" for name in columns)
    return f"unnest({arrays}) AS v({_listed(columns)})"


@cache
def _placeholders(sql: str) -> str:
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", sql.replace("%", "%%"))


@cache
def _insert(table: Table, columns: tuple[str, ...], if_new: bool) -> str:
    return (
        f"INSERT INTO {table.name} ({_listed(columns)})"  # noqa: S608
        f" SELECT {', '.join(_value(table, name) for name in columns)} FROM {_unnest(table, columns)}"
        + (" ON CONFLICT DO NOTHING" if if_new else "")
    )


@cache
def _update(table: Table, columns: tuple[str, ...], keys: tuple[str, ...]) -> str:
    assigned = ", ".join(f'"{name}" = {_value(table, name)}' for name in columns)
    the_same = " AND ".join(f't."{name}" = v."{name}"' for name in keys)
    return f"UPDATE {table.name} AS t SET {assigned} FROM {_unnest(table, (*columns, *keys))} WHERE {the_same}"  # noqa: S608
