"""`mediactl-controller migrate`, `backup`, `restore`, `new-incarnation`: what is done to a database by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from controller.server import claim
from controller.settings import Settings
from controller.store.backup import DATABASE, BackupRefused, Copy, back_up, renew_incarnation, writing
from controller.store.backup import restore as restore_copy
from controller.store.databases import UnknownDatabase
from controller.store.engine import StoreUnavailable
from controller.store.migrations import SchemaTooNew, stamped, upgrade
from mediactl.errors import MediactlError

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="MEDIACTL_DATA_DIR",
    help="Where the database lives.",
)
_database = click.option("--database", envvar="MEDIACTL_DATABASE", help="URL of the database, where it is not there.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command()
@_data_dir
@_database
def migrate(data_dir: Path | None, database: str | None) -> None:
    """Bring the database to this program's schema. `serve` does so too."""
    url = _url(data_dir, database)
    with _complaints(), writing(url) as engine:
        upgrade(engine)
        version, _ = stamped(engine)
    click.echo(f"{_shown(data_dir, database)} is at schema {version}")


@click.command()
@_file
@_data_dir
@_database
@_overwrite
def backup(file: Path, data_dir: Path | None, database: str | None, overwrite: bool) -> None:
    """Copy the SQLite database into FILE while a controller may work on it.

    FILE is one moment of the database, checked before it appears. It holds the queue and the presets, neither media
    nor the archived logs.
    """
    path = _sqlite_path(data_dir, database, "backup FILE")
    with _complaints():
        told = back_up(path, file.absolute(), overwrite=overwrite)
    click.echo(f"{file}: {_described(told)}")


@click.command()
@_file
@_data_dir
@_database
@_overwrite
def restore(file: Path, data_dir: Path | None, database: str | None, overwrite: bool) -> None:
    """Make FILE, which `backup` wrote, the database. No controller may work on it meanwhile.

    With --overwrite a database that is there is kept beside, as `….before-restore`. Agents that still hold attempts
    the backup does not know of are told apart by its new incarnation: those are neither accepted nor stopped.
    """
    path = _sqlite_path(data_dir, database, "restore FILE")
    with _complaints():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = claim(Settings(data_dir=path.parent, socket=None, listen=None).lock)
        with lock:
            told, kept = restore_copy(file.absolute(), path, overwrite=overwrite)
    click.echo(f"{path}: restored from {_described(told)}")
    if kept is not None:
        click.echo(f"the former database is {kept}")


@click.command("new-incarnation")
@click.option("--database", envvar="MEDIACTL_DATABASE", required=True, help="URL of the database.")
def new_incarnation(database: str) -> None:
    """Say that the database was restored, after PostgreSQL's own tools did it.

    Stop every controller first and start them again afterwards.
    """
    with _complaints(), writing(database) as engine:
        version, _ = stamped(engine)
        if version is None:
            raise BackupRefused("this database holds nothing of mediactl: restore it first")
        drawn = renew_incarnation(engine)
    click.echo(f"the database is now incarnation {drawn}")


COMMANDS = (migrate, backup, restore, new_incarnation)
"""For the program's group."""


def _url(data_dir: Path | None, database: str | None) -> str:
    if database is not None:
        return database
    directory = _required(data_dir)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"sqlite:///{directory.absolute() / DATABASE}"


def _sqlite_path(data_dir: Path | None, database: str | None, command: str) -> Path:
    if database is not None and not database.startswith("sqlite:"):
        raise click.UsageError(
            f"`{command}` is for SQLite. PostgreSQL has tools of its own: back up with pg_dump, or with base backups "
            "and archived WAL (pg_basebackup); restore with pg_restore or by recovery while no controller runs, then "
            "run `mediactl-controller new-incarnation --database URL` before the first one starts."
        )
    if database is not None:
        return Path(database.removeprefix("sqlite:///")).absolute()
    return _required(data_dir).absolute() / DATABASE


def _required(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise click.UsageError("--data-dir or --database is needed")
    return data_dir


def _shown(data_dir: Path | None, database: str | None) -> str:
    # A URL may hold a password.
    return "the database" if database is not None else str(_required(data_dir) / DATABASE)


def _described(copy: Copy) -> str:
    made = datetime.fromtimestamp(copy.made_us / 1e6, UTC)
    return f"{copy.size_bytes:,} bytes, schema {copy.version}, backed up {made:%Y-%m-%d %H:%M:%S} UTC"


@contextmanager
def _complaints() -> Iterator[None]:
    try:
        yield
    except MediactlError as error:
        raise SystemExit(_complain(error.message, error.exit_code)) from None
    except StoreUnavailable as error:
        raise SystemExit(_complain(f"the database can't be reached: {error}", 1)) from None
    except (BackupRefused, SchemaTooNew, UnknownDatabase) as error:
        raise SystemExit(_complain(str(error), 1)) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.strerror}: {error.filename}", 1)) from None


def _complain(message: str, code: int) -> int:
    click.echo(f"mediactl-controller: {message}", err=True)
    return code
