"""Which database a URL means."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from controller.store.engine import Clock, Database
from controller.store.sqlite import SqliteDatabase


class UnknownDatabase(ValueError):
    """The URL names no database that this program can use."""


def open_database(url: str, *, clock_us: Clock | None = None) -> Database:
    """`sqlite:///PATH` or `postgresql://…`. Raises UnknownDatabase. Connects to nothing yet."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UnknownDatabase("sqlite:///PATH or postgresql://USER@HOST/NAME is expected") from None
    match parsed.get_backend_name():
        case "sqlite" if parsed.database:
            return SqliteDatabase(Path(parsed.database), clock_us=clock_us)
        case "postgresql" | "postgres":
            # The driver takes a tenth of a second to import.
            from controller.store.postgres import PostgresDatabase  # noqa: PLC0415

            return PostgresDatabase(url, clock_us=clock_us)
        case name:
            raise UnknownDatabase(f"{name!r} is not supported: sqlite:///PATH or postgresql://… is expected")
