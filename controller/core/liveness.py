"""When an agent is unreachable and when it is lost, from the age of its last sign of life."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    READY = "ready"
    UNREACHABLE = "unreachable"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Timers:
    """All in seconds. An agent is shown as unreachable before its attempts are taken from it."""

    heartbeat_s: float = 5.0
    unreachable_s: float = 15.0
    lost_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_s < self.unreachable_s < self.lost_s:
            raise ValueError("heartbeat < unreachable < lost is required")


def health(silent_s: float, timers: Timers) -> Health:
    """Health of an agent that was last heard of `silent_s` seconds ago."""
    if silent_s >= timers.lost_s:
        return Health.LOST
    if silent_s >= timers.unreachable_s:
        return Health.UNREACHABLE
    return Health.READY


def may_expire(awake_s: float, timers: Timers) -> bool:
    """Whether a controller that has been watching for `awake_s` may call agents lost.

    After a start or a database outage every agent gets one whole interval to report.
    """
    return awake_s >= timers.lost_s
