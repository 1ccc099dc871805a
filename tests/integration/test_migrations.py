"""The database's schema: from nothing to the newest, and hands off what is newer than this program."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from controller.store import migrations
from controller.store.engine import writer_engine
from controller.store.migrations import HEAD, SCHEMA_LEVEL, SchemaTooNew, upgrade
from controller.store.tables import metadata
from tests.fakes.running import controller


def _sql(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_from_nothing_to_what_the_code_expects(tmp_path: Path) -> None:
    """The migrations make exactly the tables, columns, types, keys and indexes that the code declares."""
    path = tmp_path / "mediactl.db"
    upgrade(path)
    engine = writer_engine(path)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []
            inspector = inspect(connection)
            for table in metadata.sorted_tables:
                keys = {key["name"] for key in inspector.get_foreign_keys(table.name)}
                assert keys == {constraint.name for constraint in table.foreign_key_constraints}
                unique = {constraint["name"] for constraint in inspector.get_unique_constraints(table.name)}
                declared = {one.name for one in table.constraints if type(one).__name__ == "UniqueConstraint"}
                assert unique == declared
    finally:
        engine.dispose()


def test_the_newest_migration_is_the_one_the_program_names() -> None:
    """One line of versions, which ends at HEAD."""
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [HEAD]


def test_upgrading_again_changes_nothing(tmp_path: Path) -> None:
    """The incarnation is drawn once, and differs from database to database."""
    incarnations = set()
    for name in ("one.db", "two.db"):
        path = tmp_path / name
        upgrade(path)
        before = _digest(path)
        upgrade(path)
        assert _digest(path) == before
        [(incarnation,)] = _sql(path, "SELECT value FROM meta WHERE key = 'incarnation'")
        incarnations.add(incarnation)
    assert len(incarnations) == 2


def test_a_database_that_needs_a_newer_program_is_refused_untouched(tmp_path: Path) -> None:
    """Not a byte of it changes, and the message says what is needed."""
    path = tmp_path / "mediactl.db"
    upgrade(path)
    _sql(path, "UPDATE meta SET value = value + 1 WHERE key = 'minimum_level'")
    _sql(path, "UPDATE alembic_version SET version_num = '9999'")
    before = _digest(path)
    with pytest.raises(SchemaTooNew, match=f"needs a controller of schema level {SCHEMA_LEVEL + 1}"):
        upgrade(path)
    assert _digest(path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mediactl.db"]


async def test_a_newer_schema_that_this_program_still_meets_is_used_as_it_is(tmp_path: Path) -> None:
    """Rolling back one version works: the database stays at the newer schema and jobs are served."""
    path = tmp_path / "mediactl.db"
    upgrade(path)
    _sql(path, "UPDATE alembic_version SET version_num = '9999'")
    _sql(path, "ALTER TABLE jobs ADD COLUMN of_the_future TEXT")
    async with controller(tmp_path) as box:
        assert [job async for job in box.client.list()] == []
    assert _sql(path, "SELECT version_num FROM alembic_version") == [("9999",)]
