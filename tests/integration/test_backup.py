"""Backups of a database in use, and databases made of them: whole or not at all, and never taken for what they were."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from controller.maintenance import COMMANDS
from controller.server import claim
from controller.settings import Settings
from controller.store.backup import DATABASE, renew_incarnation, writing
from controller.store.databases import open_database
from controller.store.migrations import HEAD, SCHEMA_LEVEL, upgrade
from controller.store.tables import events, jobs
from controller.store.writer import begin
from tests.fakes.postgres import Postgres
from tests.fakes.stored import add, attempt, filled, found, job, migrate, opened

PROGRAM = click.Group("mediactl-controller", {str(command.name): command for command in COMMANDS})


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(PROGRAM, [str(argument) for argument in arguments])


def _sql(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def _incarnation(path: Path) -> object:
    [(incarnation,)] = _sql(path, "SELECT value FROM meta WHERE key = 'incarnation'")
    return incarnation


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    assert _run("migrate", "--data-dir", folder).exit_code == 0
    return folder


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    """A backup of a database with one job."""
    path = tmp_path / "copy.backup"
    _sql(data_dir / DATABASE, "INSERT INTO limits (key, maximum) VALUES ('global', 7)")
    assert _run("backup", path, "--data-dir", data_dir).exit_code == 0
    return path


def test_migrate_says_what_it_did(tmp_path: Path) -> None:
    """It makes the folder and the database, as often as one likes."""
    for _ in range(2):
        told = _run("migrate", "--data-dir", tmp_path / "new")
        assert (told.exit_code, told.output) == (0, f"{tmp_path / 'new' / DATABASE} is at schema {HEAD}\n")


async def test_a_backup_is_one_moment_of_a_database_in_use(data_dir: Path, tmp_path: Path) -> None:
    """Whatever is written meanwhile: each transaction is in it whole or not at all, and the writer is not held up."""
    async with opened(f"sqlite:///{data_dir / DATABASE}") as store:
        await add(store, *(row for number in range(1, 200) for row in job(number)))
        stop, written = threading.Event(), threading.Event()

        def write() -> None:
            number = 1000
            with closing(sqlite3.connect(data_dir / DATABASE, timeout=30)) as connection:
                while not stop.is_set():
                    number += 1
                    with connection:
                        connection.execute("INSERT INTO limits VALUES (?, 1)", (f"a{number}",))
                        connection.execute("INSERT INTO limits VALUES (?, 1)", (f"b{number}",))
                    written.set()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert written.wait(30)
            copies = [tmp_path / f"{n}.backup" for n in range(3)]
            for path in copies:
                told = _run("backup", path, "--data-dir", data_dir)
                assert told.exit_code == 0, told.output
                assert f"schema {HEAD}" in told.output
                assert f"{path.stat().st_size:,} bytes" in told.output
        finally:
            stop.set()
            writer.join()
    counts: list[int] = []
    for path in copies:
        assert _sql(path, "SELECT count(*) FROM jobs") == [(199,)]
        [(first, second)] = _sql(path, "SELECT sum(key LIKE 'a%'), sum(key LIKE 'b%') FROM limits")
        assert first == second
        counts.append(int(str(first)))
        assert path.stat().st_mode & 0o777 == 0o600
    assert counts == sorted(counts)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0.backup", "1.backup", "2.backup", "data"]


def test_a_backup_replaces_nothing_unless_told(data_dir: Path, copy: Path) -> None:
    """Nor is anything left of what was refused."""
    before = copy.read_bytes()
    told = _run("backup", copy, "--data-dir", data_dir)
    assert told.exit_code == 1
    assert "--overwrite" in told.output
    assert copy.read_bytes() == before
    assert _run("backup", copy, "--data-dir", data_dir, "--overwrite").exit_code == 0
    assert "itself" in _run("backup", data_dir / DATABASE, "--data-dir", data_dir, "--overwrite").output
    assert "no database" in _run("backup", copy, "--data-dir", copy.parent, "--overwrite").output
    assert sorted(entry.name for entry in copy.parent.iterdir()) == ["copy.backup", "data"]


async def test_a_restored_database_is_the_backup_in_another_life(tmp_path: Path, data_dir: Path) -> None:
    """Everything is there again; only the incarnation differs, each time; it is ready for a controller."""
    path, copy = data_dir / DATABASE, tmp_path / "copy"
    async with opened(f"sqlite:///{path}") as store:
        await add(store, *job(1), attempt(1, "t1"))
        assert _run("backup", copy, "--data-dir", data_dir).exit_code == 0
    incarnations = {_incarnation(path)}
    for name in ("one", "two"):
        told = _run("restore", copy, "--data-dir", tmp_path / name)
        assert told.exit_code == 0, told.output
        restored = tmp_path / name / DATABASE
        incarnations.add(_incarnation(restored))
        migrate(f"sqlite:///{restored}")
        with closing(sqlite3.connect(path)) as before, closing(sqlite3.connect(restored)) as after:
            unlike = ("INSERT INTO \"meta\" VALUES('incarnation'",)
            assert [x for x in after.iterdump() if not x.startswith(unlike)] == [
                x for x in before.iterdump() if not x.startswith(unlike)
            ]
        async with opened(f"sqlite:///{restored}") as store:
            assert [row.id for row in await found(store, jobs.select())] == ["j1"]
            assert len(await found(store, events.select())) == 1
    assert len(incarnations) == 3


def test_a_database_that_is_there_is_kept_beside(data_dir: Path, copy: Path) -> None:
    """Only with --overwrite, and under a name that is free."""
    path = data_dir / DATABASE
    told = _run("restore", copy, "--data-dir", data_dir)
    assert told.exit_code == 1
    assert "--overwrite" in told.output
    for kept in (f"{DATABASE}.before-restore", f"{DATABASE}.before-restore-2"):
        before = _incarnation(path)
        told = _run("restore", copy, "--data-dir", data_dir, "--overwrite")
        assert told.exit_code == 0, told.output
        assert str(data_dir / kept) in told.output
        assert _incarnation(data_dir / kept) == before != _incarnation(path)
        assert _sql(path, "SELECT maximum FROM limits") == [(7,)]


def test_a_killed_controllers_last_transactions_are_kept_too(data_dir: Path, copy: Path) -> None:
    """They are in the -wal file that it left."""
    path, left = data_dir / DATABASE, data_dir / "left"
    with closing(sqlite3.connect(path)) as user:
        user.execute("UPDATE limits SET maximum = 8")
        user.commit()
        left.write_bytes((data_dir / f"{DATABASE}-wal").read_bytes())
        main = path.read_bytes()
    path.write_bytes(main)
    left.rename(data_dir / f"{DATABASE}-wal")
    assert _run("restore", copy, "--data-dir", data_dir, "--overwrite").exit_code == 0
    assert _sql(path, "SELECT maximum FROM limits") == [(7,)]
    assert _sql(data_dir / f"{DATABASE}.before-restore", "SELECT maximum FROM limits") == [(8,)]


def test_a_damaged_database_is_kept_beside_as_it_is(data_dir: Path, copy: Path) -> None:
    """With its -wal file, for whoever wants to mend it."""
    path = data_dir / DATABASE
    path.write_bytes(b"no database at all" * 1000)
    (data_dir / f"{DATABASE}-wal").write_bytes(b"x")
    assert _run("restore", copy, "--data-dir", data_dir, "--overwrite").exit_code == 0
    kept = data_dir / f"{DATABASE}.before-restore"
    assert kept.read_bytes() == b"no database at all" * 1000
    assert (data_dir / f"{DATABASE}.before-restore-wal").read_bytes() == b"x"
    assert _sql(path, "SELECT maximum FROM limits") == [(7,)]


def test_no_restore_under_a_running_controller(data_dir: Path, copy: Path) -> None:
    """The lock that a controller holds is respected, and the database untouched."""
    before = _incarnation(data_dir / DATABASE)
    with claim(Settings(data_dir=data_dir, socket=None, listen=None).lock):
        told = _run("restore", copy, "--data-dir", data_dir, "--overwrite")
    assert told.exit_code != 0
    assert "another controller" in told.output
    assert _incarnation(data_dir / DATABASE) == before


def test_only_backups_are_restored(data_dir: Path, copy: Path, tmp_path: Path) -> None:
    """Not just any file, no database copied while in use, nothing damaged, nothing of a newer program."""
    nothing = tmp_path / "text"
    nothing.write_text("a text that is long enough to be read as more than an empty database\n" * 20)
    empty = tmp_path / "empty"
    empty.touch()
    foreign = tmp_path / "foreign"
    _sql(foreign, "CREATE TABLE jobs (id)")
    damaged = tmp_path / "damaged"
    whole = copy.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    newer = tmp_path / "newer"
    newer.write_bytes(whole)
    _sql(newer, "UPDATE meta SET value = ? WHERE key = 'minimum_level'", str(SCHEMA_LEVEL + 1))
    for file, said in (
        (nothing, "no backup"),
        (empty, "no database of mediactl"),
        (foreign, "no database of mediactl"),
        (damaged, "damaged"),
        (data_dir / DATABASE, "mediactl-controller backup"),
        (newer, f"schema level {SCHEMA_LEVEL + 1}"),
        (tmp_path / "absent", "no file"),
    ):
        told = _run("restore", file, "--data-dir", tmp_path / "other")
        assert told.exit_code == 1
        assert said in told.output, file
    assert not (tmp_path / "other" / DATABASE).exists()


def test_postgresql_is_left_to_its_own_tools(tmp_path: Path) -> None:
    """The refusal says which, and what to do after a restore."""
    for command in ("backup", "restore"):
        told = _run(command, tmp_path / "f", "--database", "postgresql://somewhere/else")
        assert told.exit_code == 2
        assert "pg_dump" in told.output
        assert "new-incarnation" in told.output


def test_an_unreachable_database_is_said_to_be_one(tmp_path: Path) -> None:
    """In one line, without the URL's password."""
    told = _run("migrate", "--database", f"postgresql://u:secret@/none?host={tmp_path}")
    assert told.exit_code == 1
    assert "can't be reached" in told.output
    assert "secret" not in told.output
    assert "is expected" in _run("migrate", "--database", "mysql://x/y").output


def test_a_restored_postgresql_goes_on_numbering_where_it_was(postgres: Postgres) -> None:
    """After `new-incarnation` tickets are above all of the former server's, which had seen more transactions."""
    with postgres.database() as url:
        assert _run("new-incarnation", "--database", url).exit_code == 1
        assert _run("migrate", "--database", url).exit_code == 0
        far = 2**52
        with writing(url) as engine:
            with engine.begin() as connection:
                connection.execute(text("UPDATE meta SET value = 'old' WHERE key = 'incarnation'"))
                for table, given in job(1):
                    row = filled(table, {**given, **({"cursor": far} if table is events else {})})
                    connection.execute(table.insert().values(row))
            told = _run("new-incarnation", "--database", url)
            assert told.exit_code == 0, told.output
            database = open_database(url)
            with engine.begin() as connection:
                incarnation = connection.scalar(text("SELECT value FROM meta WHERE key = 'incarnation'"))
                assert incarnation != "old"
                assert begin(database, connection).ticket() > far
            before = far
            for _ in range(2):
                renew_incarnation(engine)
                with engine.begin() as connection:
                    ticket = begin(open_database(url), connection).ticket()
                    assert ticket > before
                    before = ticket
            upgrade(engine)
