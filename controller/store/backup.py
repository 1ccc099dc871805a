"""Copies of a SQLite database made while it is used, and a database made of such a copy.

A copy is one file, whole and checked before it gets its name. A database that is made of one is another life of it:
it gets an incarnation of its own, so that attempts it does not know are neither killed nor accepted.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from controller.store.databases import open_database
from controller.store.engine import StoreUnavailable
from controller.store.migrations import new_incarnation, require_usable

DATABASE = "mediactl.db"
"""Name of the database in the data directory."""
_MARK = "backup_us"
_SET = "INSERT INTO meta (key, value)"
_ANEW = "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_SIDES = ("-wal", "-shm")


class BackupRefused(Exception):
    """It can't or must not be done; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A backup: when it was made, of which schema, how large it is."""

    made_us: int
    version: str
    minimum: int
    size_bytes: int


def back_up(database: Path, copy: Path, *, overwrite: bool = False) -> Copy:
    """Copy a database that may be in use: one moment of it, durable before the file appears. Raises BackupRefused."""
    if not database.exists():
        raise BackupRefused(f"there is no database at {database}")
    if copy.exists() and not overwrite:
        raise BackupRefused(f"{copy} exists: choose another name, or --overwrite")
    if copy.exists() and copy.samefile(database):
        raise BackupRefused(f"{copy} is the database itself")
    with _becoming(copy) as made:
        with _reading(database, "rw") as source, _writing(made) as target:
            # All pages in one step: one snapshot, which waits for no writer and makes none wait.
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
            _require_schema(target, database)
            mark = (_MARK, str(time.time_ns() // 1000))
            target.execute(f"{_SET} VALUES (?, ?) {_ANEW}", mark)
            target.commit()
        return examine(made)


def examine(copy: Path) -> Copy:
    """What a backup holds. Raises BackupRefused where it is none or is damaged."""
    if not copy.is_file():
        raise BackupRefused(f"there is no file {copy}")
    try:
        with _reading(copy, "ro") as connection:
            _require_schema(connection, copy)
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            if _MARK not in meta:
                raise BackupRefused(
                    f"{copy} is a database but no backup: what was copied by other means may lack what was still in "
                    "its -wal file. Use `mediactl-controller backup`"
                )
            for check in ("integrity_check", "foreign_key_check"):
                problem = connection.execute(f"PRAGMA {check}").fetchone()
                if problem not in (None, ("ok",)):
                    raise BackupRefused(f"{copy} is damaged: {problem[0]}")
            [version] = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise BackupRefused(f"{copy} is no backup, or it is damaged: {error}") from error
    return Copy(int(meta[_MARK]), version, int(meta["minimum_level"]), copy.stat().st_size)


def restore(copy: Path, database: Path, *, overwrite: bool = False) -> tuple[Copy, Path | None]:
    """Make a database of a backup, in a new incarnation; returns what the backup was and where the former one is now.

    Nobody may use the database meanwhile. Raises BackupRefused, SchemaTooNew.
    """
    told = examine(copy)
    require_usable(told.minimum)
    if database.exists() and not overwrite:
        raise BackupRefused(f"there is a database at {database}: --overwrite keeps it beside under another name")
    kept: Path | None = None
    with _becoming(database) as made:
        with _reading(copy, "ro") as source, _writing(made) as target:
            source.backup(target)
            _set_incarnation(target)
            target.commit()
        if any(_side(database, side).exists() for side in ("", *_SIDES)):
            kept = _put_aside(database)
    return told, kept


def renew_incarnation(engine: Engine) -> str:
    """Tell a database that it was restored by other means (PostgreSQL); returns its new incarnation.

    Controllers that run on it must be started again.
    """
    drawn = new_incarnation()
    with engine.begin() as connection:
        connection.execute(text(f"{_SET} VALUES ('incarnation', :drawn) {_ANEW}"), {"drawn": drawn})
        if connection.dialect.name == "postgresql":
            # The driver takes a tenth of a second to import.
            from controller.store.postgres import TICKET_BITS  # noqa: PLC0415

            # Transaction numbers of another server may be lower than those that its rows were numbered with.
            connection.execute(
                text(
                    f"{_SET} SELECT 'ticket_offset', greatest("  # noqa: S608 - no value in it
                    "  0, coalesce((SELECT value::bigint FROM meta WHERE key = 'ticket_offset'), 0),"
                    "  (greatest((SELECT max(seq) FROM jobs), (SELECT max(seq) FROM tasks), "
                    "   (SELECT max(cursor) FROM events), (SELECT max(position) FROM log_chunks), 0) >> :bits) + 1"
                    "  - pg_current_xact_id()::text::bigint"
                    f")::text {_ANEW}"
                ),
                {"bits": TICKET_BITS},
            )
    return drawn


@contextmanager
def writing(url: str) -> Iterator[Engine]:
    """What writes to the database of this URL. Raises UnknownDatabase, StoreUnavailable."""
    database = open_database(url)
    engine = database.writer_engine()
    try:
        yield engine
    except DBAPIError as error:
        if database.is_unavailable(error):
            raise StoreUnavailable(str(error.orig).strip()) from error
        raise
    finally:
        engine.dispose()


def _set_incarnation(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM meta WHERE key = ?", (_MARK,))
    connection.execute(f"{_SET} VALUES ('incarnation', ?) {_ANEW}", (new_incarnation(),))


def _require_schema(connection: sqlite3.Connection, whose: Path) -> None:
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"meta", "alembic_version", "jobs"} <= names:
        raise BackupRefused(f"{whose} is no database of mediactl")


@contextmanager
def _reading(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    # A database in use can't be read without its -shm file, which only those who may write can make.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
        connection.execute("PRAGMA busy_timeout=10000")
        yield connection


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        yield connection


@contextmanager
def _becoming(final: Path) -> Iterator[Path]:
    """A file beside, for its owner only, which takes the name at the end of the block when it is on the disk."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
    except OSError as error:
        raise BackupRefused(f"can't write to {final.parent}: {error.strerror}") from error
    made = Path(name)
    os.close(handle)
    try:
        yield made
        _sync(made)
        made.replace(final)
        _sync(final.parent)
    finally:
        made.unlink(missing_ok=True)
        for side in (*_SIDES, "-journal"):
            _side(made, side).unlink(missing_ok=True)


def _put_aside(database: Path) -> Path:
    number = 1
    while (kept := database.with_name(f"{database.name}.before-restore{'' if number == 1 else f'-{number}'}")).exists():
        number += 1
    if not any(_side(database, side).exists() for side in _SIDES):
        # The name has a whole database behind it at every moment.
        kept.hardlink_to(database)
    else:
        # Killed, or damaged; SQLite would throw away what it can't read. The file goes before its -wal: without it, it
        # would be an older database that looks whole.
        for side in ("", *_SIDES):
            with suppress(FileNotFoundError):
                _side(database, side).rename(_side(kept, side))
    _sync(database.parent)
    return kept


def _side(path: Path, side: str) -> Path:
    return path.with_name(path.name + side)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
