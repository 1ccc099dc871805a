"""What follows a failed attempt: pure arithmetic on counters, a clock reading and a random fraction.

Three kinds of failure:

* permanent (no retry can mend it): DEAD at once;
* the infrastructure's (agent stopping, scratch full, encoder session limit, the *first* lost agent): tried again
  without using the caller's attempts, but only for `INFRASTRUCTURE_PATIENCE_S` after the first of them;
* everything else, a second lost agent included, uses an attempt, with exponential back-off and full jitter between
  half and the whole of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from presets.reasons import TABLE, Reason

BACKOFF_BASE_S = 2.0
BACKOFF_CAP_S = 300.0
INFRASTRUCTURE_DELAY_S = 1.0
INFRASTRUCTURE_PATIENCE_S = 3600.0


@dataclass(frozen=True, slots=True)
class History:
    """What a task has been through, this failure not included."""

    attempts_used: int
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
    if facts.infrastructure and not (reason is Reason.AGENT_LOST and history.agents_lost >= 1):
        since = history.infrastructure_since_s
        if since is None or now_s - since < INFRASTRUCTURE_PATIENCE_S:
            delay = 0.0 if reason in (Reason.AGENT_STOPPING, Reason.AGENT_LOST) else INFRASTRUCTURE_DELAY_S
            return TryAgain(not_before_s=now_s + delay, uses_attempt=False)
        return GiveUp(f"the fleet could not run it for {INFRASTRUCTURE_PATIENCE_S / 60:.0f} minutes")
    if not (facts.retryable or facts.infrastructure):
        return GiveUp("no retry can mend this")
    used = history.attempts_used + 1
    if used >= history.max_attempts:
        return GiveUp(f"all {history.max_attempts} attempts are used up")
    backoff = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** (used - 1))
    return TryAgain(not_before_s=now_s + backoff * (0.5 + 0.5 * jitter), uses_attempt=True)


def uses_attempt(verdict: Verdict) -> bool:
    """Whether the failed attempt counts against the caller's."""
    match verdict:
        case TryAgain(uses_attempt=uses):
            return uses
        case GiveUp():
            return True
        case _:
            assert_never(verdict)
