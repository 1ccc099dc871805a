"""What tests and benchmarks hear of simulated agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mediactl.v1 import agent_service_pb2 as pb

if TYPE_CHECKING:
    from bench.fleet.agent import SimulatedAgent


@dataclass(slots=True)
class Tally:
    """What happened so far; several agents may share one. Moments are seconds of this machine's monotonic clock, which
    is the same in all of its processes."""

    connected: int = 0
    """Agents with a session now."""
    sessions: int = 0
    leased: int = 0
    """Attempts taken up, repeats of their leases not counted."""
    declined: int = 0
    published: int = 0
    """Attempts that were permitted to publish, and did."""
    stopped: int = 0
    ended: int = 0
    """Attempts whose end was reported, repeats not counted."""
    acknowledged: int = 0
    """Attempts whose end the controller has made durable."""
    first_leased_at: float = 0.0
    acknowledged_at: float = 0.0
    """The last one."""


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Called from the event loop, in order; none may block. An exception ends the agent that called."""

    connected: Callable[[SimulatedAgent, pb.Welcome], None] = _nothing
    leased: Callable[[SimulatedAgent, pb.Lease], None] = _nothing
    """An attempt is taken up: not for a repeated lease."""
    stopped: Callable[[SimulatedAgent, pb.Stop], None] = _nothing
    """The controller said stop, whether or not it changes anything."""
    published: Callable[[SimulatedAgent, str, Sequence[pb.RedoRecord]], None] = _nothing
    """Outputs of an attempt became visible: what outside of a simulation would be irreversible."""
    ended: Callable[[SimulatedAgent, pb.EndReport], None] = _nothing
    """An end is owed to the controller: once for each attempt."""
    acknowledged: Callable[[SimulatedAgent, str], None] = _nothing
