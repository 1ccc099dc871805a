"""`mediactl agents …`."""

from collections.abc import Mapping
from typing import Final

import click
from rich.text import Text

from ctl import render
from ctl.connection import with_client
from ctl.settings import Format, Settings
from ctl.tree import command
from mediactl.v1 import fleet_service_pb2

_STYLES: Final[Mapping[int, str]] = {
    fleet_service_pb2.AGENT_STATE_READY: "green",
    fleet_service_pb2.AGENT_STATE_UNREACHABLE: "yellow",
    fleet_service_pb2.AGENT_STATE_LOST: "red",
}


@command("list")
def list_agents(settings: Settings) -> int:
    """Show the agents there are.

    \b
    Example:
      mediactl agents list
    """
    agents = with_client(settings, lambda client: client.agents())
    if settings.format is not Format.TABLE:
        render.write(render.data(fleet_service_pb2.ListAgentsResponse(agents=agents)), settings)
        return 0
    render.table(
        settings,
        ("ID", "NAME", "STATE", "TASKS", "CORES", "MEMORY", "FFMPEG", "LAST SEEN"),
        [
            (
                agent.id,
                agent.name,
                _state(agent.state),
                f"{len(agent.attempt_ids)}/{agent.capabilities.max_tasks}",
                str(agent.capabilities.cores),
                render.size(agent.capabilities.memory_bytes),
                ", ".join(binary.version for binary in agent.capabilities.binaries),
                render.moment(agent.last_seen_time),
            )
            for agent in agents
        ],
        empty="no agents",
    )
    return 0


@command("get")
@click.argument("agent_id", metavar="ID")
def get(settings: Settings, *, agent_id: str) -> int:
    """Show what an agent has proved that it can do, and why it can't do the rest. An id, its prefix or a name.

    \b
    Example:
      mediactl agents get studio-1
    """
    agent = with_client(settings, lambda client: client.agent(agent_id))
    if settings.format is not Format.TABLE:
        render.write(render.data(agent), settings)
        return 0
    render.details(
        settings,
        [
            ("id", agent.id),
            ("name", agent.name),
            ("state", _state(agent.state)),
            ("version", agent.version),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(agent.labels.items()))),
            ("first seen", render.moment(agent.create_time)),
            ("last seen", render.moment(agent.last_seen_time)),
            *(("attempt", attempt_id) for attempt_id in agent.attempt_ids),
            *capability_rows(agent.capabilities),
        ],
    )
    return 0


def capability_rows(capabilities: fleet_service_pb2.Capabilities) -> list[tuple[str, str]]:
    """Capabilities in words, as name and value."""
    rows = [
        ("platform", capabilities.platform),
        ("cores", str(capabilities.cores)),
        ("memory", render.size(capabilities.memory_bytes)),
        ("scratch", render.size(capabilities.scratch_bytes) if capabilities.scratch_bytes else ""),
        ("tasks at once", str(capabilities.max_tasks) if capabilities.max_tasks else ""),
        ("tasks limited", capabilities.confinement),
        *(("media root", root) for root in capabilities.media_roots),
        *(
            (
                f"{disk.purpose or 'volume'} on",
                f"{disk.path} ({render.size(disk.free_bytes)} of {render.size(disk.total_bytes)} free)",
            )
            for disk in capabilities.disks
        ),
        ("ffprobe", capabilities.ffprobe_path),
    ]
    for binary in capabilities.binaries:
        count = {
            kind: sum(name.startswith(f"{kind}:") for name in binary.capabilities)
            for kind in ("encoder", "decoder", "filter", "muxer", "hwaccel")
        }
        able = ", ".join(f"{number} {kind}{'s' * (number > 1)}" for kind, number in count.items() if number)
        rows.append(("ffmpeg", f"{binary.version} ({binary.path}); {able}; starts in {_ms(binary)}"))
        for trial in binary.trials:
            where = f" on {trial.device}" if trial.device else ""
            # One that met a busy GPU says so itself.
            failed = trial.message if trial.message.startswith("busy now") else f"does not work: {trial.message}"
            verdict = "works" if trial.works else failed
            rows.append(("", f"{trial.encoder}{where}: {verdict}"))
    rows += [("GPU", f"{gpu.index}: {_gpu(gpu)}") for gpu in capabilities.gpus]
    if capabilities.gpus and capabilities.gpu_message:
        rows.append(("", capabilities.gpu_message))
    if not capabilities.gpus:
        rows.append(("GPU", f"none: {capabilities.gpu_message}" if capabilities.gpu_message else "none"))
    return rows


def _gpu(gpu: fleet_service_pb2.Gpu) -> str:
    memory = render.size(gpu.memory_bytes) if gpu.memory_bytes else "no memory of its own"
    sessions = f"{gpu.encoder_sessions} encoder sessions" if gpu.encoder_sessions else "encodes nothing"
    return f"{gpu.name}, {memory}, driver {gpu.driver_version}, {sessions}"


def _ms(binary: fleet_service_pb2.FfmpegBinary) -> str:
    return f"{binary.start_milliseconds:.0f} ms"


def _state(value: int) -> Text:
    known = fleet_service_pb2.AgentState.DESCRIPTOR.values_by_number.get(value)
    word = known.name.removeprefix("AGENT_STATE_") if known else str(value)
    return Text(word, style=_STYLES.get(value, ""))
