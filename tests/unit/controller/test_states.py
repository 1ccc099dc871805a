"""The task state machine and the job state derived from it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.states import (
    ENDS,
    HELD_BY_AGENT,
    IN_LINE,
    JOB_ENDS,
    WAITING,
    IllegalTransition,
    JobState,
    TaskEvent,
    TaskState,
    job_state,
    next_state,
)

S, E = TaskState, TaskEvent

# Written down a second time on purpose: a change of the table must be meant twice.
_OUT = {E.KILL: S.DEAD, E.CANCEL: S.CANCELLED}
LEGAL = {
    S.BLOCKED: {E.READY: S.PENDING, **_OUT},
    S.HELD: {E.RELEASE: S.PENDING, **_OUT},
    S.SCHEDULED: {E.DUE: S.PENDING, E.HOLD: S.HELD, **_OUT},
    S.PENDING: {E.DEFER: S.SCHEDULED, E.HOLD: S.HELD, E.LEASE: S.LEASED, **_OUT},
    S.LEASED: {E.START: S.RUNNING, E.GIVE_BACK: S.PENDING, E.FAIL: S.FAILED, **_OUT},
    S.RUNNING: {
        E.STAGE: S.PUBLISHING,
        E.COMPLETE: S.COMPLETED,
        E.GIVE_BACK: S.PENDING,
        E.REFILE: S.PENDING,
        E.FAIL: S.FAILED,
        **_OUT,
    },
    S.PUBLISHING: {E.COMPLETE: S.COMPLETED, E.FAIL: S.FAILED, E.KILL: S.DEAD},
    S.FAILED: {E.DUE: S.PENDING, E.HOLD: S.HELD, **_OUT},
    S.COMPLETED: {},
    S.DEAD: {E.REVIVE: S.BLOCKED},
    S.CANCELLED: {E.REVIVE: S.BLOCKED},
}


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("event", E)
def test_every_state_and_event(state: TaskState, event: TaskEvent) -> None:
    """A pair is either a transition of the table or refused with both named."""
    after = LEGAL[state].get(event)
    if after is not None:
        assert next_state(state, event) is after
        return
    with pytest.raises(IllegalTransition, match=f"a {state} task can't {event}") as caught:
        next_state(state, event)
    assert (caught.value.state, caught.value.event) == (state, event)


def test_publishing_is_the_commit_point() -> None:
    """A publishing task can't be cancelled, given back, held, refiled or leased again."""
    for event in (E.CANCEL, E.GIVE_BACK, E.HOLD, E.REFILE, E.LEASE, E.START):
        with pytest.raises(IllegalTransition):
            next_state(S.PUBLISHING, event)


@given(st.lists(st.sampled_from(E), max_size=40))
def test_nothing_but_a_person_leaves_an_end(events: list[TaskEvent]) -> None:
    """On any walk, refused events change nothing; COMPLETED is never left, the other ends by REVIVE alone."""
    state = S.PENDING
    for event in events:
        before = state
        try:
            state = next_state(state, event)
        except IllegalTransition:
            assert event not in LEGAL[before]
        if before in ENDS and state is not before:
            assert (event, before is S.COMPLETED) == (E.REVIVE, False)


def test_the_groups_of_states() -> None:
    """Every state either waits, is held by an agent, or is an end; what is in line can be held back and is not yet."""
    assert set(S) == WAITING | HELD_BY_AGENT | ENDS
    assert len(WAITING) + len(HELD_BY_AGENT) + len(ENDS) == len(S)
    assert {state for state in S if E.HOLD in LEGAL[state]} == IN_LINE
    assert {state for state in S if {E.KILL, E.CANCEL} <= LEGAL[state].keys()} >= WAITING


def test_every_state_is_reached_and_can_end() -> None:
    """No state of the table is unreachable, and from each one some end can be reached."""
    reached, frontier = {S.BLOCKED}, [S.BLOCKED]
    while frontier:
        for after in LEGAL[frontier.pop()].values():
            if after not in reached:
                reached.add(after)
                frontier.append(after)
    assert reached == set(S)
    ending = set(ENDS)
    for _ in S:
        ending |= {state for state in S if set(LEGAL[state].values()) & ending}
    assert ending == set(S)


@pytest.mark.parametrize(
    ("task", "job"),
    [
        (S.BLOCKED, JobState.BLOCKED),
        (S.HELD, JobState.HELD),
        (S.SCHEDULED, JobState.PENDING),
        (S.PENDING, JobState.PENDING),
        (S.LEASED, JobState.PROCESSING),
        (S.RUNNING, JobState.PROCESSING),
        (S.PUBLISHING, JobState.PROCESSING),
        (S.FAILED, JobState.FAILED),
        (S.COMPLETED, JobState.COMPLETED),
        (S.DEAD, JobState.DEAD),
        (S.CANCELLED, JobState.CANCELLED),
    ],
)
def test_job_of_one_task(task: TaskState, job: JobState) -> None:
    """What callers see of a job that has one task, however often it is counted."""
    assert job_state([task]) is job
    assert job_state([task, task]) is job
    if task in WAITING:
        assert job_state([task], held=True) is JobState.HELD
    else:
        assert job_state([task], held=True) is job


def test_a_job_has_a_task() -> None:
    """No task at all is a defect of the caller."""
    with pytest.raises(ValueError, match="at least one task"):
        job_state([])


@given(st.lists(st.sampled_from(S), min_size=1, max_size=6), st.randoms())
def test_job_state_of_many_tasks(tasks: list[TaskState], dice: Random) -> None:
    """Work going on is PROCESSING; COMPLETED means every task; an end means that no agent holds anything."""
    whole = job_state(tasks)
    shuffled = list(tasks)
    dice.shuffle(shuffled)
    assert job_state(shuffled) is whole
    assert (whole is JobState.COMPLETED) == (set(tasks) == {S.COMPLETED})
    if set(tasks) & HELD_BY_AGENT:
        assert whole is JobState.PROCESSING
    if whole in JOB_ENDS:
        assert not set(tasks) & HELD_BY_AGENT
    elif S.DEAD in tasks or S.CANCELLED in tasks:
        assert set(tasks) & HELD_BY_AGENT


def test_between_two_tasks_a_job_is_processing() -> None:
    """One task done and the next not begun: the job is on its way, not at its beginning."""
    assert job_state([S.COMPLETED, S.PENDING]) is JobState.PROCESSING
    assert job_state([S.COMPLETED, S.BLOCKED]) is JobState.PROCESSING
    assert job_state([S.COMPLETED, S.FAILED]) is JobState.FAILED
    assert job_state([S.COMPLETED, S.PENDING], held=True) is JobState.HELD


def test_a_job_is_blocked_only_as_a_whole() -> None:
    """One task in line is enough to make it PENDING."""
    assert job_state([S.BLOCKED, S.BLOCKED]) is JobState.BLOCKED
    assert job_state([S.BLOCKED, S.PENDING]) is JobState.PENDING
