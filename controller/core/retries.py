"""What follows a failed attempt: pure arithmetic on counters, a clock reading and a random fraction.

Three kinds of failure:

* permanent (no retry can mend it): DEAD at once;
* the infrastructure's (agent stopping, scratch full, GPU busy or gone, the *first* lost agent): tried again
  without using the caller's attempts, but only for `INFRASTRUCTURE_PATIENCE_S` after the first of them;
* everything else, a second lost agent included, uses an attempt.

The pause grows exponentially within its class of failure, with jitter between half and the whole of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import assert_never

from presets.reasons import TABLE, Reason


@dataclass(frozen=True, slots=True)
class Backoff:
    """The first pause and the longest one, in seconds; each is twice the one before."""

    first_s: float
    most_s: float

    def after(self, failures: int, jitter: float) -> float:
        """The pause after this many failures, at least one; `jitter` is 0 to 1."""
        whole = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 40))
        return whole * (0.5 + 0.5 * jitter)


WORK = Backoff(2, 300)
"""FFmpeg failed, stalled, or made something invalid: the next try may be elsewhere."""
STORAGE = Backoff(5, 600)
"""An input or an output could not be reached: outages of storage last longer than a glitch."""
INFRASTRUCTURE = Backoff(1, 60)
"""The place was not right: another one may be at once."""

BACKOFFS: Mapping[Reason, Backoff] = MappingProxyType(
    {
        Reason.INPUT_UNAVAILABLE: STORAGE,
        Reason.PUBLISH_FAILED: STORAGE,
        Reason.ENCODER_SESSION_LIMIT: INFRASTRUCTURE,
        Reason.GPU_UNAVAILABLE: INFRASTRUCTURE,
        Reason.SCRATCH_FULL: INFRASTRUCTURE,
    }
)
AT_ONCE = frozenset({Reason.AGENT_STOPPING, Reason.AGENT_LOST})
"""The agent is gone, not the place wrong: nothing is gained by waiting."""
BLAMES_GPU = frozenset({Reason.ENCODER_SESSION_LIMIT, Reason.GPU_UNAVAILABLE})
"""Failures that another way of doing the task, without a GPU, would not meet."""
BLAMES_AGENT = frozenset({Reason.FFMPEG_FAILED, Reason.OUTPUT_INVALID, Reason.STALLED, Reason.INTERNAL})
"""Failures that may be the machine's: two different tasks of a class that fail so block the class there."""

INFRASTRUCTURE_PATIENCE_S = 3600.0
BLOCK_S = 1800.0
"""How long an agent gets no tasks of a class that two different tasks failed at."""


@dataclass(frozen=True, slots=True)
class History:
    """What a task has been through, this failure not included."""

    attempts_used: int
    attempts_made: int
    max_attempts: int
    agents_lost: int
    infrastructure_since_s: float | None


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Another attempt follows."""

    not_before_s: float
    uses_attempt: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No attempt follows; `because` completes "… is dead: "."""

    because: str


Verdict = TryAgain | GiveUp


def after_failure(reason: Reason, history: History, *, now_s: float, jitter: float) -> Verdict:
    """Decide what follows a failure.

    `now_s` is any clock whose readings are compared with `History.infrastructure_since_s`; `jitter` is 0 to 1.
    """
    facts = TABLE[reason]
    backoff = BACKOFFS.get(reason, WORK)
    if facts.infrastructure and not (reason is Reason.AGENT_LOST and history.agents_lost >= 1):
        since = history.infrastructure_since_s
        if since is None or now_s - since < INFRASTRUCTURE_PATIENCE_S:
            free = max(1, history.attempts_made - history.attempts_used)
            pause = 0.0 if reason in AT_ONCE else backoff.after(free, jitter)
            return TryAgain(not_before_s=now_s + pause, uses_attempt=False)
        return GiveUp(f"the fleet could not run it for {INFRASTRUCTURE_PATIENCE_S / 60:.0f} minutes")
    if not (facts.retryable or facts.infrastructure):
        return GiveUp("no retry can mend this")
    used = history.attempts_used + 1
    if used >= history.max_attempts:
        return GiveUp(f"all {history.max_attempts} attempts are used up")
    return TryAgain(not_before_s=now_s + backoff.after(used, jitter), uses_attempt=True)


def uses_attempt(verdict: Verdict) -> bool:
    """Whether the failed attempt counts against the caller's."""
    match verdict:
        case TryAgain(uses_attempt=uses):
            return uses
        case GiveUp():
            return True
        case _:
            assert_never(verdict)
