"""What the agent holds and what it still owes the controller. Pure: events in, effects out; no clock, no I/O.

Rules first:

* An attempt is held from its lease until the controller has acknowledged its end.
* A lease, stop, publish or acknowledgement may come twice or out of date; then it has no effect.
* Log chunks, stage reports and end reports are owed until they are answered, and are said again, in their order, on
  every new session.
* What is held and owed outlives the agent as far as it was written down; what is not held any more is not mentioned.
* An attempt ends once: a lease or stop that comes after its end was acknowledged on the same session is a late repeat.
* A stop of an attempt that isn't held is answered with an end: the controller waits for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

LogT = TypeVar("LogT")
StageT = TypeVar("StageT")
EndT = TypeVar("EndT")

LOG_BYTES = 64 * 2**20
"""Unacknowledged log that an attempt may keep; what comes beyond is dropped and the loss noted in the log."""
REMEMBERED_ENDS = 10_000
ALL_LOG_BYTES = 2**30
"""The same for all attempts together."""


class Phase(StrEnum):
    ACCEPTED = "accepted"
    RUNNING = "running"
    STAGED = "staged"
    PUBLISHING = "publishing"
    ENDED = "ended"


class Effect(StrEnum):
    """What must be done because of an event."""

    NOTHING = "nothing"
    START = "start"
    STOP = "stop"
    PUBLISH = "publish"
    REPORT_STOPPED = "report_stopped"


@dataclass(slots=True)
class Held(Generic[LogT, StageT, EndT]):
    """One attempt. `activity`, `progress` and `speed` are what its status says; chunks of its log follow `first`."""

    attempt_id: str
    phase: Phase = Phase.ACCEPTED
    first: int = 0
    progress: float = 0.0
    activity: str = ""
    speed: float = 0.0
    logs: dict[tuple[str, int], tuple[LogT, int]] = field(default_factory=dict)
    log_bytes: int = 0
    sequences: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    staged: StageT | None = None
    ended: EndT | None = None


class Ledger(Generic[LogT, StageT, EndT]):
    """All attempts of this agent. The message types are the session's affair."""

    def __init__(self) -> None:
        self._held: dict[str, Held[LogT, StageT, EndT]] = {}
        self._over: dict[str, None] = {}

    def __iter__(self) -> Iterator[Held[LogT, StageT, EndT]]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def get(self, attempt_id: str) -> Held[LogT, StageT, EndT] | None:
        return self._held.get(attempt_id)

    def is_new(self, attempt_id: str, *, to_publish: bool = False) -> bool:
        """Whether a lease of it is to be begun.

        One `to_publish` is, whether or not its end was told: whoever granted it did not count that, as nobody held the
        attempt when it came; and to publish once more does no harm.
        """
        return attempt_id not in self._held and (to_publish or attempt_id not in self._over)

    def lease(self, attempt_id: str, first: int = 0, *, to_publish: bool = False) -> Effect:
        """`first` must be higher for every life of an attempt, here or at any agent: a chunk of its log with a number
        that was used before is taken for a repeat.
        """
        if not self.is_new(attempt_id, to_publish=to_publish):
            return Effect.NOTHING
        self._held[attempt_id] = Held(attempt_id, first=first)
        return Effect.START

    def take_up(
        self,
        attempt_id: str,
        *,
        first: int,
        sequences: dict[str, int],
        logs: dict[tuple[str, int], tuple[LogT, int]],
        staged: StageT | None,
        publishing: bool,
        ended: EndT | None,
    ) -> None:
        """Hold again what a former life of the agent held, as far as that was written down."""
        if ended is not None:
            phase, staged = Phase.ENDED, None
        elif publishing:
            phase, staged = Phase.PUBLISHING, None
        else:
            phase = Phase.ACCEPTED if staged is None else Phase.STAGED
        self._held[attempt_id] = Held(
            attempt_id,
            phase,
            first,
            logs=logs,
            log_bytes=sum(size for _, size in logs.values()),
            sequences=sequences,
            staged=staged,
            ended=ended,
        )

    def forget(self, attempt_id: str) -> None:
        """Hold it no longer; the controller hears that by its absence."""
        self._held.pop(attempt_id, None)

    def stop(self, attempt_id: str) -> Effect:
        held = self._held.get(attempt_id)
        if held is None:
            return Effect.NOTHING if attempt_id in self._over else Effect.REPORT_STOPPED
        if held.phase in (Phase.PUBLISHING, Phase.ENDED):
            return Effect.NOTHING
        return Effect.STOP

    def publish(self, attempt_id: str) -> Effect:
        held = self._held.get(attempt_id)
        if held is None or held.phase is not Phase.STAGED:
            return Effect.NOTHING
        held.phase = Phase.PUBLISHING
        held.staged = None
        return Effect.PUBLISH

    def log_sequence(self, attempt_id: str, stream: str, size: int, *, note: bool = False) -> int | None:
        """The number of the next chunk of a log; None where it must be dropped. A note of a loss always fits."""
        held = self._held[attempt_id]
        if not note and not self.has_room(attempt_id, size):
            self.drop(attempt_id, stream, size)
            return None
        held.sequences[stream] = held.sequences.get(stream, held.first) + 1
        return held.sequences[stream]

    def drop(self, attempt_id: str, stream: str, size: int) -> None:
        """Count what is lost of a log."""
        dropped = self._held[attempt_id].dropped
        dropped[stream] = dropped.get(stream, 0) + size

    def take_dropped(self, attempt_id: str, stream: str) -> int:
        """Bytes of the log that were dropped since this was last asked."""
        return self._held[attempt_id].dropped.pop(stream, 0)

    def has_room(self, attempt_id: str, size: int) -> bool:
        """Whether a chunk of this size would be kept."""
        return (
            self._held[attempt_id].log_bytes + size <= LOG_BYTES
            and sum(held.log_bytes for held in self._held.values()) + size <= ALL_LOG_BYTES
        )

    def owe_log(self, attempt_id: str, stream: str, sequence: int, size: int, chunk: LogT) -> None:
        held = self._held[attempt_id]
        held.logs[stream, sequence] = (chunk, size)
        held.log_bytes += size

    def owe_stage(self, attempt_id: str, report: StageT) -> None:
        held = self._held[attempt_id]
        held.phase = Phase.STAGED
        held.staged = report

    def owe_end(self, attempt_id: str, report: EndT) -> None:
        held = self._held[attempt_id]
        held.phase = Phase.ENDED
        held.staged = None
        held.ended = report

    def acknowledge_log(self, attempt_id: str, stream: str, sequence: int) -> None:
        """Every chunk of the stream up to `sequence` is durable at the controller."""
        held = self._held.get(attempt_id)
        if held is None:
            return
        for key in [key for key in held.logs if key[0] == stream and key[1] <= sequence]:
            held.log_bytes -= held.logs.pop(key)[1]

    def acknowledge_end(self, attempt_id: str) -> None:
        held = self._held.get(attempt_id)
        if held is not None and held.ended is not None:
            del self._held[attempt_id]
            self._over[attempt_id] = None
            if len(self._over) > REMEMBERED_ENDS:
                del self._over[next(iter(self._over))]

    def begin_session(self) -> None:
        """What was sent on former sessions comes no more; a restored database may grant again what had ended."""
        self._over.clear()

    def owed(self) -> Iterator[LogT | StageT | EndT]:
        """Everything unanswered, in the order in which it must be said."""
        for held in self._held.values():
            for chunk, _ in held.logs.values():
                yield chunk
            if held.staged is not None:
                yield held.staged
            if held.ended is not None:
                yield held.ended
