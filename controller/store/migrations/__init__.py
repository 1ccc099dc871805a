"""Schema versions. `upgrade` brings a database to the newest one; Alembic is loaded only when there is work to do."""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

HEAD = "0007"
SCHEMA_LEVEL = 2
"""What this program understands. A schema states the least level that a controller must understand to use it."""

_ADVISORY_LOCK = 7420_0001


class SchemaTooNew(Exception):
    """The database was migrated by a newer program that this one can't stand in for."""

    def __init__(self, needed: int) -> None:
        super().__init__(
            f"the database needs a controller of schema level {needed} and this one has {SCHEMA_LEVEL}: "
            "install the newer mediactl again"
        )


def upgrade(engine: Engine) -> None:
    """Create or migrate the database, whole or not at all. Raises SchemaTooNew and changes nothing then.

    Several controllers may call it at once: one migrates, the others wait for it. On SQLite the transactions of
    `engine` must hold the write lock from their beginning.
    """
    if not _due(*stamped(engine)):
        return
    # Importing Alembic would cost every start a tenth of a second.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # A migration takes as long as it takes, and so does waiting for another controller's.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        # Another controller may have done it while this one waited.
        if not _due(*_stamp(connection)):
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.execute(
            text("INSERT INTO meta (key, value) VALUES ('incarnation', :drawn) ON CONFLICT DO NOTHING"),
            {"drawn": new_incarnation()},
        )


def stamped(engine: Engine) -> tuple[str | None, int]:
    """The schema's version (None: there is no schema) and the least level that a controller must have to use it."""
    with engine.connect() as connection:
        return _stamp(connection)


def require_usable(minimum: int) -> None:
    """Raises SchemaTooNew where this program doesn't understand such a schema."""
    if minimum > SCHEMA_LEVEL:
        raise SchemaTooNew(minimum)


def new_incarnation() -> str:
    """Names one life of a database: attempts of another one are neither killed nor accepted."""
    return secrets.token_hex(16)


def _due(version: str | None, minimum: int) -> bool:
    require_usable(minimum)
    # A version this program doesn't know, with a minimum that it meets, is one it may use as it is.
    return version is None or version < HEAD


def _stamp(connection: Connection) -> tuple[str | None, int]:
    if not {"alembic_version", "meta"} <= set(inspect(connection).get_table_names()):
        return None, 0
    version = connection.scalar(text("SELECT version_num FROM alembic_version"))
    minimum = connection.scalar(text("SELECT value FROM meta WHERE key = 'minimum_level'"))
    return version, int(minimum or 0)
