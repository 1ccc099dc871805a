"""Engines for one SQLite file: a writer that commits durably and readers that never wait for it (WAL)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool


def writer_engine(path: Path) -> Engine:
    """One connection; every transaction takes the write lock at its beginning and is fsynced at its end."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"check_same_thread": False})
    _prepare(engine, begin="BEGIN IMMEDIATE")
    return engine


def reader_engine(path: Path, connections: int) -> Engine:
    """Read-only snapshots, each of one transaction."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )
    _prepare(engine, begin="BEGIN", query_only=True)
    return engine


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
