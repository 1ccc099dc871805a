"""Schema versions. `upgrade` brings a database to the newest one; Alembic is loaded only when there is work to do."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from controller.store.engine import writer_engine

HEAD = "0001"
SCHEMA_LEVEL = 1
"""What this program understands. A schema states the least level that a controller must understand to use it."""


class SchemaTooNew(Exception):
    """The database was migrated by a newer program that this one can't stand in for."""

    def __init__(self, needed: int) -> None:
        super().__init__(
            f"the database needs a controller of schema level {needed} and this one has {SCHEMA_LEVEL}: "
            "install the newer mediactl again"
        )


def upgrade(path: Path) -> None:
    """Create or migrate the database. Raises SchemaTooNew and changes nothing then."""
    version, minimum = _stamped(path)
    if minimum > SCHEMA_LEVEL:
        raise SchemaTooNew(minimum)
    # A version this program doesn't know, with a minimum that it meets, is one it may use as it is.
    if version == HEAD or (version is not None and version > HEAD):
        return
    # Importing Alembic would cost every start a tenth of a second.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = writer_engine(path)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.exec_driver_sql(
                "INSERT INTO meta (key, value) VALUES ('incarnation', ?) ON CONFLICT DO NOTHING",
                (secrets.token_hex(16),),
            )
    finally:
        engine.dispose()


def _stamped(path: Path) -> tuple[str | None, int]:
    if not path.exists():
        return None, 0
    connection = sqlite3.connect(path)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "meta"} <= tables:
            return None, 0
        version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        minimum = connection.execute("SELECT value FROM meta WHERE key = 'minimum_level'").fetchone()
        return (version[0] if version else None), int(minimum[0]) if minimum else 0
    finally:
        connection.close()
