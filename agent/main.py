"""`mediactl-agent`: prove what the machine can do, then serve a controller."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
import structlog
from google.protobuf import json_format

from agent.detect import detect
from agent.detect.advice import missing_advice
from agent.detect.cloud import on_ec2
from agent.service import serve_agent
from agent.settings import Settings
from agent.sizes import Size
from agent.storage.stores import StoreKind, StoreTable, default_stores
from agent.storage.stores_file import InvalidStores, read_stores
from mediactl.channel import Credentials
from mediactl.errors import MediactlError
from mediactl.places import default_address, default_data_dir
from mediactl.service import config_option, configure_logging, credential_options

log = structlog.get_logger()


EC2_URL = "http://169.254.169.254"
"""Where EC2's instance metadata service is, the same on every instance."""

_Folder = click.Path(path_type=Path, file_okay=False)


def _labels(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for label in given:
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"KEY=VALUE is expected, got {label!r}")
        labels[key] = value
    return labels


def _metadata_url(_: click.Context, __: click.Parameter, given: str | None) -> str:
    if given is None:
        return EC2_URL if on_ec2() else ""
    if given == "none":
        return ""
    if not given.startswith(("http://", "https://")):
        raise click.BadParameter(f"a URL such as {EC2_URL}, or none, is expected, got {given!r}")
    return given


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The agent of mediactl: runs on each box, proves what it can do and works for a controller."""


@main.command(context_settings={"auto_envvar_prefix": "MEDIACTL"})
@config_option("agent")
@click.option("--data-dir", type=_Folder, help="Where the agent keeps its id and its detection cache.")
@click.option("--scratch-dir", type=_Folder, help="Where attempts work. Default: scratch/ in the data directory.")
@click.option(
    "--scratch-reserve",
    type=Size(),
    metavar="SIZE",
    help="Take no new work while less of the scratch volume is free, e.g. 5GiB; 0: never mind. Default: 5 % of it, at "
    "least 1 GiB (of a small one a tenth), at the most 10 GiB. Work is taken again when a quarter more is free.",
)
@click.option("--controller", help="unix:PATH or HOST:PORT. Default: this user's single box.")
@click.option("--name", help="What people call it. Default: the host's name.")
@click.option("--label", "labels", multiple=True, callback=_labels, help="KEY=VALUE, for `require` of jobs. Repeats.")
@click.option(
    "--media-root",
    "media_roots",
    multiple=True,
    type=_Folder,
    help="Folder whose file: URIs are reachable. Repeats. Default: / with a controller on a unix socket, else none.",
)
@click.option(
    "--stores",
    "stores",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="TOML file with a table [store.NAME] for each store that jobs may name as NAME://, see docs/stores.md.",
)
@click.option(
    "--store-default",
    "store_default",
    multiple=True,
    type=click.Choice([*StoreKind, "none"]),
    help="Kind of store whose URIs (s3://, gs://, az://; https:// and http://) are reachable without a table, by the "
    "platform's usual credentials. Repeats. Default: each with a controller on a unix socket, else none.",
)
@click.option("--ffmpeg", "ffmpegs", multiple=True, help="An FFmpeg besides the one on PATH. Repeats.")
@click.option("--max-tasks", type=click.IntRange(1), help="Tasks at once at the most. Default: the number of cores.")
@click.option(
    "--keep-failed",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    help="Hours that what failed attempts left is kept, for `jobs artifacts --failed`. 0: not at all.",
)
@click.option(
    "--keep-failed-size",
    type=Size(),
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="What it may take of the disk altogether; the oldest goes first.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0),
    default=0.0,
    help="Seconds that work in hand may take to end after SIGTERM; what does not is handed back. Default: 0.",
)
@click.option(
    "--nice",
    type=click.IntRange(0, 19),
    default=5,
    show_default=True,
    help="How far FFmpeg stands back behind the other programs of the machine.",
)
@click.option(
    "--encoder-sessions",
    type=click.IntRange(0),
    help="Encoder sessions of each GPU; 0: none is used. Default: what its kind and driver allow.",
)
@click.option(
    "--metadata-url",
    metavar="URL|none",
    callback=_metadata_url,
    help="Instance metadata service (IMDSv2) whose notices are heeded: a spot interruption or a scheduled event within "
    "the hour lets the agent take no new work and hand back what still runs half a minute before. "
    f"Default: {EC2_URL} where the firmware says that this is EC2, else none.",
)
@click.option(
    "--metadata-interval",
    type=click.FloatRange(0.1, 60),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often it is asked.",
)
@click.option("--heed-rebalance", is_flag=True, help="Take no new work after a rebalance recommendation either.")
@credential_options(listening=False)
def serve(
    data_dir: Path | None,
    scratch_dir: Path | None,
    scratch_reserve: int | None,
    controller: str | None,
    name: str | None,
    labels: dict[str, str],
    media_roots: tuple[Path, ...],
    stores: Path | None,
    store_default: tuple[str, ...],
    ffmpegs: tuple[str, ...],
    max_tasks: int | None,
    keep_failed: float,
    keep_failed_size: int,
    drain_timeout: float,
    nice: int,
    encoder_sessions: int | None,
    metadata_url: str,
    metadata_interval: float,
    heed_rebalance: bool,
    credentials: Credentials,
) -> None:
    """Register with the controller and work until a signal.

    SIGTERM and SIGINT: take nothing new, finish what is in hand within --drain-timeout, hand back the rest, end; a
    second one hands back at once. SIGUSR1: end at once and leave FFmpeg running; the next start takes it up.
    """
    configure_logging(verbose=False)
    address = controller or default_address()
    if not media_roots and address.startswith("unix:"):
        media_roots = (Path("/"),)
    if not store_default and address.startswith("unix:"):
        store_default = tuple(StoreKind)
    settings = Settings(
        data_dir=(data_dir or default_data_dir() / "agent").absolute(),
        scratch_dir=scratch_dir.absolute() if scratch_dir else None,
        controller=address,
        name=name or socket.gethostname(),
        credentials=credentials,
        labels=labels,
        media_roots=tuple(str(root.absolute()) for root in media_roots),
        stores=_stores(stores, store_default),
        ffmpegs=ffmpegs,
        max_tasks=max_tasks,
        keep_failed_s=keep_failed * 3600,
        keep_failed_bytes=keep_failed_size,
        drain_s=drain_timeout,
        nice=nice,
        encoder_sessions=encoder_sessions,
        scratch_reserve=scratch_reserve,
        metadata_url=metadata_url,
        metadata_interval_s=metadata_interval,
        heed_rebalance=heed_rebalance,
    )
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with settings.lock.open("ab") as lock, _opened(settings.scratch) as scratch:
            _hold(lock.fileno(), settings.data_dir, "--data-dir")
            # Either would take the other's workspaces for what an earlier life left.
            _hold(scratch, settings.scratch, "--scratch-dir")
            asyncio.run(serve_agent(settings))
    except MediactlError as error:
        raise SystemExit(_complain(error.message, error.exit_code)) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.strerror}: {error.filename}", 1)) from None


def _stores(file: Path | None, defaults: Iterable[str]) -> Mapping[str, StoreTable]:
    stores = default_stores(StoreKind(kind) for kind in defaults if kind != "none")
    if file is None:
        return stores
    try:
        return stores | read_stores(file)
    except InvalidStores as error:
        raise SystemExit(_complain(f"{file} is wrong:\n{error}", 2)) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.strerror}: {error.filename}", 2)) from None


@main.command("detect", context_settings={"auto_envvar_prefix": "MEDIACTL"})
@click.option("--data-dir", type=_Folder, help="As for serve: its cache is used where it exists.")
@click.option("--ffmpeg", "ffmpegs", multiple=True, help="An FFmpeg besides the one on PATH. Repeats.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def detect_command(data_dir: Path | None, ffmpegs: tuple[str, ...], as_json: bool) -> None:
    """Show what this machine can do. Needs no controller."""
    folder = (data_dir or default_data_dir() / "agent").absolute()
    settings = Settings(data_dir=folder, controller="", name="", ffmpegs=ffmpegs)
    capabilities = detect(
        ffmpegs=ffmpegs,
        scratch=settings.scratch,
        media_roots=settings.media_roots,
        cache_file=settings.cache if folder.is_dir() and os.access(folder, os.W_OK) else None,
    )
    findings = missing_advice(capabilities)
    if as_json:
        document = {
            "capabilities": json_format.MessageToDict(capabilities),
            "findings": [asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(document))
        return
    for finding in findings:
        click.echo(f"{'ok     ' if finding.ok else 'missing'} {finding.subject}: {finding.detail}")
        if finding.remedy:
            click.echo(f"        {finding.remedy}")


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hold(descriptor: int, folder: Path, option: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(_complain(f"another agent works on {folder}: choose another {option}", 1)) from None


def _complain(message: str, code: int) -> int:
    click.echo(f"mediactl-agent: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
