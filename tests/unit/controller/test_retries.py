"""What follows a failed attempt, for every reason of the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.retries import (
    BLAMES_AGENT,
    INFRASTRUCTURE,
    INFRASTRUCTURE_PATIENCE_S,
    STORAGE,
    WORK,
    Backoff,
    GiveUp,
    History,
    TryAgain,
    after_failure,
    uses_attempt,
)
from presets.reasons import Reason

AT_ONCE = {Reason.AGENT_STOPPING, Reason.AGENT_LOST}
ELSEWHERE = {Reason.ENCODER_SESSION_LIMIT, Reason.GPU_UNAVAILABLE, Reason.SCRATCH_FULL, *AT_ONCE}
PAID = {
    Reason.INPUT_UNAVAILABLE,
    Reason.OUTPUT_INVALID,
    Reason.PUBLISH_FAILED,
    Reason.FFMPEG_FAILED,
    Reason.MEMORY_EXCEEDED,
    Reason.STALLED,
    Reason.TIMED_OUT,
    Reason.INTERNAL,
    Reason.CONTROLLER_UNREACHABLE,
    Reason.CONTROLLER_STOPPING,
    Reason.STORE_UNAVAILABLE,
}
CLASSES = {
    Reason.INPUT_UNAVAILABLE: STORAGE,
    Reason.PUBLISH_FAILED: STORAGE,
    Reason.ENCODER_SESSION_LIMIT: INFRASTRUCTURE,
    Reason.GPU_UNAVAILABLE: INFRASTRUCTURE,
    Reason.SCRATCH_FULL: INFRASTRUCTURE,
}

NOW_S = 1_000_000.0


def _history(
    used: int = 0, most: int = 3, lost: int = 0, since_s: float | None = None, made: int | None = None
) -> History:
    return History(
        attempts_used=used,
        attempts_made=used + 1 if made is None else made,
        max_attempts=most,
        agents_lost=lost,
        infrastructure_since_s=since_s,
    )


def _class(reason: Reason) -> Backoff:
    return CLASSES.get(reason, WORK)


@pytest.mark.parametrize("reason", Reason)
def test_first_failure_by_reason(reason: Reason) -> None:
    """The infrastructure's failures cost nothing, what a retry may mend costs an attempt, the rest is the end."""
    verdict = after_failure(reason, _history(), now_s=NOW_S, jitter=1.0)
    if reason in ELSEWHERE:
        delay = 0.0 if reason in AT_ONCE else INFRASTRUCTURE.first_s
        assert verdict == TryAgain(NOW_S + delay, uses_attempt=False)
    elif reason in PAID:
        assert verdict == TryAgain(NOW_S + _class(reason).first_s, uses_attempt=True)
    else:
        assert verdict == GiveUp("no retry can mend this")


@pytest.mark.parametrize("reason", Reason)
def test_last_attempt_by_reason(reason: Reason) -> None:
    """With every attempt used up but one, a paid failure ends the task; the infrastructure's still does not."""
    verdict = after_failure(reason, _history(used=2), now_s=NOW_S, jitter=0.0)
    if reason in ELSEWHERE:
        assert isinstance(verdict, TryAgain)
        assert not uses_attempt(verdict)
    else:
        assert isinstance(verdict, GiveUp)
        assert uses_attempt(verdict)
        assert ("all 3 attempts" in verdict.because) == (reason in PAID)


@given(
    used=st.integers(0, 98),
    first=st.floats(0, 1),
    second=st.floats(0, 1),
    reason=st.sampled_from(sorted(PAID)),
)
def test_backoff_is_bounded(used: int, first: float, second: float, reason: Reason) -> None:
    """The n-th wait lies between half and all of 2^(n-1) first ones, below the class's longest; jitter lengthens it."""
    whole = min(_class(reason).most_s, _class(reason).first_s * 2**used)
    waits = []
    for jitter in sorted((first, second)):
        verdict = after_failure(reason, _history(used, most=100), now_s=0.0, jitter=jitter)
        assert isinstance(verdict, TryAgain)
        assert verdict.uses_attempt
        waits.append(verdict.not_before_s)
    assert whole / 2 <= waits[0] <= waits[1] <= whole


@given(most=st.integers(1, 100), reason=st.sampled_from(sorted(PAID)))
def test_paid_failures_end(most: int, reason: Reason) -> None:
    """A task that fails again and again has exactly as many attempts as it was given."""
    used = 0
    while isinstance(after_failure(reason, _history(used, most), now_s=0.0, jitter=0.5), TryAgain):
        used += 1
    assert used == most - 1


def test_the_second_lost_agent_pays() -> None:
    """The first lost agent is bad luck; from the second on the task may be what kills them."""
    assert after_failure(Reason.AGENT_LOST, _history(lost=0), now_s=NOW_S, jitter=1.0) == TryAgain(NOW_S, False)
    assert after_failure(Reason.AGENT_LOST, _history(lost=1), now_s=NOW_S, jitter=1.0) == TryAgain(
        NOW_S + WORK.first_s, True
    )
    last = after_failure(Reason.AGENT_LOST, _history(used=2, lost=3), now_s=NOW_S, jitter=1.0)
    assert last == GiveUp("all 3 attempts are used up")


@pytest.mark.parametrize("reason", sorted(ELSEWHERE))
def test_infrastructure_is_bounded_in_time(reason: Reason) -> None:
    """However often it happens, retrying for free ends an hour after the first time."""
    early = NOW_S - INFRASTRUCTURE_PATIENCE_S + 1
    late = NOW_S - INFRASTRUCTURE_PATIENCE_S
    assert isinstance(after_failure(reason, _history(since_s=early), now_s=NOW_S, jitter=0.5), TryAgain)
    verdict = after_failure(reason, _history(since_s=late), now_s=NOW_S, jitter=0.5)
    assert verdict == GiveUp("the fleet could not run it for 60 minutes")


@pytest.mark.parametrize("reason", [Reason.ENCODER_SESSION_LIMIT, Reason.GPU_UNAVAILABLE, Reason.SCRATCH_FULL])
@pytest.mark.parametrize("used", [0, 2])
def test_the_infrastructures_pauses_grow_with_its_own_failures(reason: Reason, used: int) -> None:
    """Each free attempt doubles the pause up to a minute; attempts that were paid for don't count."""
    pauses = []
    for free in range(1, 9):
        verdict = after_failure(reason, _history(used, most=9, made=used + free), now_s=0.0, jitter=1.0)
        assert isinstance(verdict, TryAgain)
        pauses.append(verdict.not_before_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


@given(failures=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_a_pause_is_never_longer_than_the_longest(failures: int, jitter: float) -> None:
    """However often it failed, without overflowing."""
    for backoff in (WORK, STORAGE, INFRASTRUCTURE):
        assert backoff.first_s / 2 <= backoff.after(failures, jitter) <= backoff.most_s


def test_only_failures_that_may_be_the_machines_blame_it() -> None:
    """Neither inputs nor storage nor what the infrastructure says of itself."""
    assert BLAMES_AGENT <= PAID
    assert not BLAMES_AGENT & {Reason.INPUT_UNAVAILABLE, Reason.PUBLISH_FAILED, Reason.TIMED_OUT}
