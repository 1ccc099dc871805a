"""`mediactl-controller`: read the settings, then serve."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import uvloop

from controller.core.liveness import Timers
from controller.core.matching import Rules
from controller.http import beside
from controller.maintenance import COMMANDS
from controller.server import serve as run
from controller.settings import DAY_S, Depositing, Keeping, Settings
from controller.store.engine import StoreUnavailable
from controller.store.migrations import SchemaTooNew
from mediactl.channel import Credentials
from mediactl.errors import MediactlError
from mediactl.places import default_data_dir
from mediactl.service import config_option, configure_logging, credential_options

SWITCH_S = 0.0002

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option(
    "--database",
    help="URL: postgresql://USER@HOST/NAME, which controllers may share. Default: a file in the data directory.",
)
@click.option(
    "--store",
    help="URL where whole logs and deposited files go: file:///DIR or s3://BUCKET/PREFIX, which all controllers of a "
    "database should share. Default: the data directory; with --database logs stay there and no files are taken.",
)
@click.option(
    "--http",
    help="HOST:PORT for /metrics, /healthz and /readyz, or `none`. Default: the port after that of --listen on "
    "loopback, 127.0.0.1:7421; none with --socket alone.",
)
@click.option(
    "--ageing",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds of waiting that are worth one level of priority.",
)
@click.option(
    "--starvation",
    type=click.FloatRange(0, min_open=True),
    default=900.0,
    show_default=True,
    help="Seconds after which a waiting task that needs much has room kept free for it.",
)
@click.option(
    "--keep-jobs",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Days that finished jobs are kept, with their events and logs.",
)
@click.option(
    "--keep-requests",
    type=click.FloatRange(0, min_open=True),
    default=37.0,
    show_default=True,
    help="Days that request ids are remembered; at least as long as jobs.",
)
@click.option(
    "--most-remains",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="GiB that are taken from an agent of what one failed attempt left (`jobs artifacts --failed`).",
)
@click.option(
    "--deposit-quota",
    type=click.FloatRange(0),
    default=100.0,
    show_default=True,
    help="GiB that uploaded files and results may take in the controller's own store, together; 0: it takes none.",
)
@click.option(
    "--deposit-lifetime",
    type=click.FloatRange(0, 36_500, min_open=True),
    default=7.0,
    show_default=True,
    help="Days that they are kept; what a job still reads until it has ended, results as `submit --keep` says.",
)
@click.option(
    "--sweep-after",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after the end of an attempt whose agent is gone, until what it left staged is removed.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0, 300),
    default=0.0,
    show_default=True,
    help="Seconds between saying NOT_SERVING and stopping.",
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
    database: str | None,
    store: str | None,
    http: str | None,
    ageing: float,
    starvation: float,
    keep_jobs: float,
    keep_requests: float,
    most_remains: float,
    deposit_quota: float,
    deposit_lifetime: float,
    sweep_after: float,
    drain: float,
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
    try:
        keeping = Keeping(keep_jobs * DAY_S, keep_requests * DAY_S)
    except ValueError as error:
        raise click.UsageError(f"--keep-jobs, --keep-requests: {error}") from None
    listening = listen or (None if socket else "127.0.0.1:7420")
    try:
        settings = Settings(
            data_dir=(data_dir or default_data_dir()).absolute(),
            socket=socket.absolute() if socket else None,
            listen=listening,
            credentials=credentials,
            timers=timers,
            rules=Rules(ageing_s=ageing, starvation_s=starvation),
            keeping=keeping,
            database=database,
            store=store,
            http=None if http == "none" else http or (beside(listening) if listening else None),
            drain_s=drain,
            exit_when_idle=exit_when_idle,
            log_transitions=log_transitions,
            most_remains_bytes=int(most_remains * 2**30),
            depositing=Depositing(int(deposit_quota * 2**30), deposit_lifetime * DAY_S),
            sweep_after_s=sweep_after,
        )
        # The writer gives the interpreter away at every statement; getting it back must not take longer than the work.
        sys.setswitchinterval(SWITCH_S)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except MediactlError as error:
        raise SystemExit(_complain(error.message, error.exit_code)) from None
    except SchemaTooNew as error:
        raise SystemExit(_complain(str(error), 1)) from None
    except StoreUnavailable as error:
        why = str(getattr(error.__cause__, "orig", None) or error.__cause__ or "").strip().partition("\n")[0]
        raise SystemExit(_complain("the database can't be reached" + (f": {why}" if why else ""), 4)) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.strerror}: {error.filename}", 1)) from None


for command in COMMANDS:
    main.add_command(command)


def _complain(message: str, code: int) -> int:
    click.echo(f"mediactl-controller: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
