"""The task state machine and the job state derived from it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.states import (
    ENDS,
    HELD_BY_AGENT,
    JOB_ENDS,
    IllegalTransition,
    JobState,
    TaskEvent,
    TaskState,
    job_state,
    next_state,
)

S, E = TaskState, TaskEvent

# Written down a second time on purpose: a change of the table must be meant twice.
LEGAL = {
    S.PENDING: {E.LEASE: S.LEASED, E.CANCEL: S.CANCELLED},
    S.LEASED: {
        E.START: S.RUNNING,
        E.GIVE_BACK: S.PENDING,
        E.FAIL: S.FAILED,
        E.KILL: S.DEAD,
        E.CANCEL: S.CANCELLED,
    },
    S.RUNNING: {
        E.STAGE: S.PUBLISHING,
        E.COMPLETE: S.COMPLETED,
        E.GIVE_BACK: S.PENDING,
        E.FAIL: S.FAILED,
        E.KILL: S.DEAD,
        E.CANCEL: S.CANCELLED,
    },
    S.PUBLISHING: {E.COMPLETE: S.COMPLETED, E.FAIL: S.FAILED, E.KILL: S.DEAD},
    S.FAILED: {E.RETRY: S.PENDING, E.CANCEL: S.CANCELLED},
    S.COMPLETED: {},
    S.DEAD: {},
    S.CANCELLED: {},
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
    """A publishing task can't be cancelled, given back or leased again."""
    for event in (E.CANCEL, E.GIVE_BACK, E.LEASE, E.START):
        with pytest.raises(IllegalTransition):
            next_state(S.PUBLISHING, event)


@given(st.lists(st.sampled_from(E), max_size=40))
def test_nothing_leaves_an_end(events: list[TaskEvent]) -> None:
    """On any walk, refused events change nothing and an end is never left."""
    state = S.PENDING
    for event in events:
        before = state
        try:
            state = next_state(state, event)
        except IllegalTransition:
            assert event not in LEGAL[before]
        assert before not in ENDS or state is before


def test_every_state_is_reached_and_can_end() -> None:
    """No state of the table is unreachable, and from each one some end can be reached."""
    reached, frontier = {S.PENDING}, [S.PENDING]
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
