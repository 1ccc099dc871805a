"""`mediactl agents …`."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import click
from rich.text import Text

from ctl import render
from ctl.connection import with_client
from ctl.settings import Format, Settings
from ctl.times import Duration
from ctl.tree import command
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import fleet_service_pb2
from presets.reasons import Reason

_STYLES: Final[Mapping[int, str]] = {
    fleet_service_pb2.AGENT_STATE_READY: "green",
    fleet_service_pb2.AGENT_STATE_UNREACHABLE: "yellow",
    fleet_service_pb2.AGENT_STATE_LOST: "red",
    fleet_service_pb2.AGENT_STATE_DRAINING: "magenta",
}
_POLL_S: Final = 0.5


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
    _table(settings, agents)
    return 0


@command("drain")
@click.argument("agent_id", metavar="ID")
@click.option(
    "--deadline",
    type=Duration(),
    metavar="D",
    help="What still runs after it is handed back and begun anew by another agent, e.g. 10m. Default: none.",
)
@click.option("--wait", is_flag=True, help="Wait until the agent holds nothing any more.")
def drain(settings: Settings, *, agent_id: str, deadline: float | None, wait: bool) -> int:
    """Have an agent finish what it has and take nothing new, also over restarts, until `mediactl agents resume`.

    ID is the id of an agent, a prefix of it or its name. A repeat sets the deadline anew.

    \b
    Examples:
      mediactl agents drain studio-1
      mediactl agents drain studio-1 --deadline 10m --wait
    """
    # The whole id from here on: names may move to others.
    agent = with_client(settings, lambda client: client.drain_agent(agent_id, deadline_s=deadline))
    if wait:
        agent = with_client(settings, lambda client: _until_idle(client, agent.id))
    _tell(settings, agent)
    return 0


def _until_idle(client: Client, agent_id: str) -> fleet_service_pb2.Agent:
    while True:
        agent = client.agent(agent_id)
        if not agent.attempt_ids:
            return agent
        if agent.state == fleet_service_pb2.AGENT_STATE_READY:
            raise MediactlError(Reason.CANCELLED, f"agent {agent.name} was resumed before it held nothing any more")
        time.sleep(_POLL_S)


@command("resume")
@click.argument("agent_id", metavar="ID")
def resume(settings: Settings, *, agent_id: str) -> int:
    """Let a drained agent take work again. What it has against work itself, such as a full disk, goes on.

    ID is the id of an agent, a prefix of it or its name.

    \b
    Example:
      mediactl agents resume studio-1
    """
    _tell(settings, with_client(settings, lambda client: client.resume_agent(agent_id)))
    return 0


@command("remove")
@click.argument("agent_id", metavar="ID")
def remove(settings: Settings, *, agent_id: str) -> int:
    """Forget an agent that is LOST. What it did stays in the jobs' history; should it come back, it is a new one.

    ID is the id of an agent, a prefix of it or its name.

    \b
    Example:
      mediactl agents remove studio-1
    """

    def work(client: Client) -> fleet_service_pb2.Agent:
        agent = client.agent(agent_id)
        client.remove_agent(agent.id)
        return agent

    _tell(settings, with_client(settings, work))
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
            ("no new work", _why(agent)),
            ("version", agent.version),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(agent.labels.items()))),
            ("first seen", render.moment(agent.create_time)),
            ("last seen", render.moment(agent.last_seen_time)),
            *(("attempt", attempt_id) for attempt_id in agent.attempt_ids),
            ("input cache", cache_in_words(agent.cache) if agent.HasField("cache") else ""),
            *capability_rows(agent.capabilities),
        ],
    )
    return 0


def _tell(settings: Settings, agent: fleet_service_pb2.Agent) -> None:
    if settings.format is not Format.TABLE:
        render.write(render.data(agent), settings)
    else:
        _table(settings, [agent])


def _table(settings: Settings, agents: Sequence[fleet_service_pb2.Agent]) -> None:
    # Most of the time nobody has anything to say in it.
    told = any(agent.drain_reason for agent in agents)
    render.table(
        settings,
        (
            *("ID", "NAME", "STATE", "TASKS", "CORES", "MEMORY", "FFMPEG", "LAST SEEN"),
            *(("NO NEW WORK BECAUSE",) if told else ()),
        ),
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
                *((_why(agent),) if told else ()),
            )
            for agent in agents
        ],
        empty="no agents",
    )


def _why(agent: fleet_service_pb2.Agent) -> str:
    if not agent.HasField("drain_deadline"):
        return agent.drain_reason
    return f"{agent.drain_reason}; what still runs at {render.moment(agent.drain_deadline)} is handed back"


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
        *(("store", store) for store in capabilities.stores),
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


def cache_in_words(cache: fleet_service_pb2.CacheStatus) -> str:
    """What it holds, and what it was good for."""
    return (
        f"{render.size(cache.held_bytes)} of {render.size(cache.limit_bytes)}; since the agent began: {cache.hits} "
        f"hits, {cache.misses} misses, {render.size(cache.saved_bytes)} not fetched"
    )


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
