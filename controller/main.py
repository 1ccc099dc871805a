"""`mediactl-controller`: read the settings, then serve."""

from __future__ import annotations

import asyncio
import logging
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import structlog
import uvloop

from controller.core.liveness import Timers
from controller.server import serve as run
from controller.settings import Settings
from controller.store.migrations import HEAD, SchemaTooNew, upgrade
from mediactl.channel import Credentials
from mediactl.errors import MediactlError
from mediactl.places import default_data_dir

SYSTEM_CONFIG = Path("/etc/mediactl/controller.toml")


def configure_logging(verbose: bool) -> None:
    """One line an event on stderr; JSON where nobody is looking."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.dict_tracebacks,
            *([] if terminal else [structlog.processors.JSONRenderer()]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _from_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Defaults of all options from a TOML file; flags and environment come before it."""
    chosen = path or (SYSTEM_CONFIG if SYSTEM_CONFIG.is_file() else None)
    if chosen is None:
        return
    try:
        table: dict[str, Any] = tomllib.loads(chosen.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.UsageError(f"can't read {chosen}: {error}") from None
    known = {parameter.name for parameter in context.command.params}
    given = {key.replace("-", "_"): value for key, value in table.items()}
    if unknown := sorted(given.keys() - known):
        raise click.UsageError(
            f"{chosen}: unknown setting {unknown[0]!r}; expected some of {', '.join(sorted(k for k in known if k))}"
        )
    context.default_map = given


_Path = click.Path(path_type=Path, dir_okay=False)


def _tls_options(command: Callable[..., None]) -> Callable[..., None]:
    for name, text in (
        ("--token-file", "File with the bearer token that every call must bring."),
        ("--tls-ca", "PEM file: clients and agents must show a certificate signed by it."),
        ("--tls-key", "PEM file with the key of --tls-cert."),
        ("--tls-cert", "PEM file with the certificate of --listen."),
    ):
        command = click.option(name, type=_Path, help=text)(command)
    return command


@click.group()
def main() -> None:
    """The controller of mediactl: keeps the queue and leases tasks to agents."""


@main.command(context_settings={"auto_envvar_prefix": "MEDIACTL"})
@click.option(
    "--config",
    type=_Path,
    is_eager=True,
    expose_value=False,
    callback=_from_file,
    help="TOML file with these options, without dashes. Default: /etc/mediactl/controller.toml.",
)
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the database lives.")
@click.option("--socket", type=_Path, help="Unix socket to listen on (mode 0600).")
@click.option("--listen", help="HOST:PORT to listen on. Other than loopback needs TLS. Default: 127.0.0.1:7420.")
@_tls_options
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
    token_file: Path | None,
    tls_ca: Path | None,
    tls_key: Path | None,
    tls_cert: Path | None,
    heartbeat: float,
    unreachable_after: float,
    lost_after: float,
    exit_when_idle: bool,
    log_transitions: bool,
    verbose: bool,
) -> None:
    """Serve until SIGTERM."""
    configure_logging(verbose)
    try:
        timers = Timers(heartbeat, unreachable_after, lost_after)
    except ValueError as error:
        raise click.UsageError(f"--heartbeat, --unreachable-after, --lost-after: {error}") from None
    settings = Settings(
        data_dir=(data_dir or default_data_dir()).absolute(),
        socket=socket.absolute() if socket else None,
        listen=listen or (None if socket else "127.0.0.1:7420"),
        credentials=Credentials(tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key, token_file=token_file),
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
