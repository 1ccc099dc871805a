"""`mediactl-agent`: prove what the machine can do, then serve a controller."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import signal
import socket
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
import structlog
from google.protobuf import json_format

from agent.detect import binaries, detect
from agent.detect.advice import missing_advice
from agent.executor import Means
from agent.identity import agent_id, instance_id
from agent.session import Agent
from agent.settings import Settings
from agent.storage import Stores
from agent.workspace import sweep
from mediactl.channel import Credentials
from mediactl.errors import MediactlError
from mediactl.notify import Notifier
from mediactl.places import default_address, default_data_dir
from mediactl.service import config_option, configure_logging, credential_options
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2

log = structlog.get_logger()


async def serve_agent(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Work in hand is handed back."""
    notifier = Notifier()
    scratch = settings.scratch
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Their FFmpeg died with the former agent, so nothing of them can go on.
    for orphan in await asyncio.to_thread(sweep, scratch, ()):
        log.info("removed an orphaned workspace", attempt=orphan)
    notifier.busy("finding out what this machine can do")
    capabilities = await asyncio.to_thread(_detect, settings)
    means = Means(
        binaries=binaries(capabilities),
        ffprobe=capabilities.ffprobe_path,
        stores=Stores([Path(root) for root in settings.media_roots]),
        scratch=scratch,
    )
    identity, instance = agent_id(settings.data_dir), instance_id()

    def hello() -> pb.Hello:
        return pb.Hello(
            agent_id=identity,
            instance_id=instance,
            name=settings.name,
            version=version("mediactl"),
            labels=settings.labels,
            capabilities=capabilities,
        )

    agent = Agent(settings, hello, means, random.Random())  # noqa: S311 - jitter, no secret

    def stop() -> None:
        agent.stop()
        notifier.stopping(agent.status())

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    watching = asyncio.create_task(notifier.watch(agent.status))
    await agent.run()
    watching.cancel()
    log.info("agent stopped")


def _detect(settings: Settings) -> fleet_service_pb2.Capabilities:
    return detect(
        ffmpegs=settings.ffmpegs,
        scratch=settings.scratch,
        media_roots=settings.media_roots,
        max_tasks=settings.max_tasks,
        cache_file=settings.cache,
    )


_Folder = click.Path(path_type=Path, file_okay=False)


def _labels(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for label in given:
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"KEY=VALUE is expected, got {label!r}")
        labels[key] = value
    return labels


@click.group()
def main() -> None:
    """The agent of mediactl: runs on each box, proves what it can do and works for a controller."""


@main.command(context_settings={"auto_envvar_prefix": "MEDIACTL"})
@config_option("agent")
@click.option("--data-dir", type=_Folder, help="Where the agent keeps its id and its detection cache.")
@click.option("--scratch-dir", type=_Folder, help="Where attempts work. Default: scratch/ in the data directory.")
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
@click.option("--ffmpeg", "ffmpegs", multiple=True, help="An FFmpeg besides the one on PATH. Repeats.")
@click.option("--max-tasks", type=click.IntRange(1), help="Tasks at once at the most. Default: the number of cores.")
@credential_options(listening=False)
def serve(
    data_dir: Path | None,
    scratch_dir: Path | None,
    controller: str | None,
    name: str | None,
    labels: dict[str, str],
    media_roots: tuple[Path, ...],
    ffmpegs: tuple[str, ...],
    max_tasks: int | None,
    credentials: Credentials,
) -> None:
    """Register with the controller and work until SIGTERM."""
    configure_logging(verbose=False)
    address = controller or default_address()
    if not media_roots and address.startswith("unix:"):
        media_roots = (Path("/"),)
    settings = Settings(
        data_dir=(data_dir or default_data_dir() / "agent").absolute(),
        scratch_dir=scratch_dir.absolute() if scratch_dir else None,
        controller=address,
        name=name or socket.gethostname(),
        credentials=credentials,
        labels=labels,
        media_roots=tuple(str(root.absolute()) for root in media_roots),
        ffmpegs=ffmpegs,
        max_tasks=max_tasks,
    )
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with settings.lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            asyncio.run(serve_agent(settings))
    except BlockingIOError:
        raise SystemExit(
            _complain(f"another agent works on {settings.data_dir}: choose another --data-dir", 1)
        ) from None
    except MediactlError as error:
        raise SystemExit(_complain(error.message, error.exit_code)) from None
    except OSError as error:
        raise SystemExit(_complain(f"{error.strerror}: {error.filename}", 1)) from None


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


def _complain(message: str, code: int) -> int:
    click.echo(f"mediactl-agent: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
