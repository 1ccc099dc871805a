"""The task state machine as one literal table, and the job state derived from it.

Rules first:

* A task is leased to one attempt at a time; only that attempt moves it.
* PUBLISHING is the commit point: from there a task can't be cancelled, expire or be tried by another attempt.
* COMPLETED, DEAD and CANCELLED are the ends. Nothing leaves them.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class TaskState(StrEnum):
    PENDING = "PENDING"
    LEASED = "LEASED"
    RUNNING = "RUNNING"
    PUBLISHING = "PUBLISHING"
    FAILED = "FAILED"
    COMPLETED = "COMPLETED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"


class TaskEvent(StrEnum):
    LEASE = "lease"
    """An agent was granted the task."""
    START = "start"
    """The agent began."""
    STAGE = "stage"
    """Every output is staged and its redo record is durable."""
    COMPLETE = "complete"
    """Everything is published, or the task publishes nothing and is done."""
    GIVE_BACK = "give_back"
    """The attempt ended through no fault of the task: it waits again at once."""
    FAIL = "fail"
    """The attempt failed and another one follows after its back-off."""
    RETRY = "retry"
    """The back-off is over."""
    KILL = "kill"
    """The attempt failed and no other one follows."""
    CANCEL = "cancel"
    """A person stopped it and no process of it is left."""


class JobState(StrEnum):
    """What callers see; the names of the API's enum without its prefix."""

    BLOCKED = "BLOCKED"
    HELD = "HELD"
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"


S, E = TaskState, TaskEvent

TRANSITIONS: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (S.PENDING, E.LEASE): S.LEASED,
    (S.PENDING, E.CANCEL): S.CANCELLED,
    (S.LEASED, E.START): S.RUNNING,
    (S.LEASED, E.GIVE_BACK): S.PENDING,
    (S.LEASED, E.FAIL): S.FAILED,
    (S.LEASED, E.KILL): S.DEAD,
    (S.LEASED, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.STAGE): S.PUBLISHING,
    (S.RUNNING, E.COMPLETE): S.COMPLETED,
    (S.RUNNING, E.GIVE_BACK): S.PENDING,
    (S.RUNNING, E.FAIL): S.FAILED,
    (S.RUNNING, E.KILL): S.DEAD,
    (S.RUNNING, E.CANCEL): S.CANCELLED,
    (S.PUBLISHING, E.COMPLETE): S.COMPLETED,
    (S.PUBLISHING, E.FAIL): S.FAILED,
    (S.PUBLISHING, E.KILL): S.DEAD,
    (S.FAILED, E.RETRY): S.PENDING,
    (S.FAILED, E.CANCEL): S.CANCELLED,
}

ENDS = frozenset({S.COMPLETED, S.DEAD, S.CANCELLED})
HELD_BY_AGENT = frozenset({S.LEASED, S.RUNNING, S.PUBLISHING})
JOB_ENDS = frozenset({JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED})


class IllegalTransition(Exception):
    """The event can't happen in this state."""

    def __init__(self, state: TaskState, event: TaskEvent) -> None:
        super().__init__(f"a {state} task can't {event}")
        self.state = state
        self.event = event


def next_state(state: TaskState, event: TaskEvent) -> TaskState:
    """The state after `event`; raises IllegalTransition where the table has no row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None


def job_state(tasks: Collection[TaskState]) -> JobState:
    """State of the job that has these tasks (at least one)."""
    if not tasks:
        raise ValueError("a job has at least one task")
    present = set(tasks)
    if present & HELD_BY_AGENT:
        return JobState.PROCESSING
    if S.DEAD in present:
        return JobState.DEAD
    if S.CANCELLED in present:
        return JobState.CANCELLED
    if S.FAILED in present:
        return JobState.FAILED
    if present == {S.COMPLETED}:
        return JobState.COMPLETED
    return JobState.PROCESSING if S.COMPLETED in present else JobState.PENDING
