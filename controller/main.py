"""`mediactl-controller`: read the settings, then serve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import uvloop

from controller.core.liveness import Timers
from controller.server import serve as run
from controller.settings import Settings
from controller.store.migrations import HEAD, SchemaTooNew, upgrade
from mediactl.channel import Credentials
from mediactl.errors import MediactlError
from mediactl.places import default_data_dir
from mediactl.service import config_option, configure_logging, credential_options

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def main() -> None:
    """The controller of mediactl: keeps the queue and leases tasks to agents."""


@main.command(context_settings={"auto_envvar_prefix": "MEDIACTL"})
@config_option("controller")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the database lives.")
@click.option("--socket", type=_FILE, help="Unix socket to listen on (mode 0600).")
@click.option("--listen", help="HOST:PORT to listen on. Other than loopback needs TLS. Default: 127.0.0.1:7420.")
@credential_options(listening=True)
@click.option("--heartbeat", type=float, default=5.0, show_default=True, help="Seconds between agents' reports.")
@click.option(
    "--unreachable-after",
    type=float,
    default=15.0,
    show_default=True,
    help="Seconds of silence until an agent gets no new work.",
)
@click.option(
    "--lost-after",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds of silence until its tasks are given to others.",
)
@click.option("--exit-when-idle", is_flag=True, help="End when no client is connected and no job lives.")
@click.option("--log-transitions/--no-log-transitions", default=True, help="A log line for each job transition.")
@click.option("--verbose", is_flag=True, help="Log more.")
def serve(
    data_dir: Path | None,
    socket: Path | None,
    listen: str | None,
    credentials: Credentials,
    heartbeat: float,
    unreachable_after: float,
    lost_after: float,
    exit_when_idle: bool,
    log_transitions: bool,
    verbose: bool,
) -> None:
    """Serve until SIGTERM."""
    configure_logging(verbose=verbose)
    try:
        timers = Timers(heartbeat, unreachable_after, lost_after)
    except ValueError as error:
        raise click.UsageError(f"--heartbeat, --unreachable-after, --lost-after: {error}") from None
    settings = Settings(
        data_dir=(data_dir or default_data_dir()).absolute(),
        socket=socket.absolute() if socket else None,
        listen=listen or (None if socket else "127.0.0.1:7420"),
        credentials=credentials,
        timers=timers,
        exit_when_idle=exit_when_idle,
        log_transitions=log_transitions,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except MediactlError as error:
        raise SystemExit(_complain(error.message, error.exit_code)) from None
    except SchemaTooNew as error:
        raise SystemExit(_complain(str(error), 1)) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.strerror}: {error.filename}", 1)) from None


@main.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="MEDIACTL_DATA_DIR",
    required=True,
    help="Where the database lives.",
)
def migrate(data_dir: Path) -> None:
    """Bring the database to this program's schema. `serve` does so too."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        upgrade(data_dir / "mediactl.db")
    except SchemaTooNew as error:
        raise SystemExit(_complain(str(error), 1)) from None
    click.echo(f"{data_dir / 'mediactl.db'} is at schema {HEAD}")


def _complain(message: str, code: int) -> int:
    click.echo(f"mediactl-controller: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
