"""The task state machine as one literal table, and the job state derived from it.

Rules first:

* A task is leased to one attempt at a time; only that attempt moves it.
* PUBLISHING is the commit point: from there a task can't be cancelled, expire or be tried by another attempt.
* COMPLETED, DEAD and CANCELLED are the ends. Only a person who brings a dead job back moves its tasks out of them,
  and never out of COMPLETED.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class TaskState(StrEnum):
    BLOCKED = "BLOCKED"
    """Waits for other tasks or jobs."""
    HELD = "HELD"
    """Paused by a person."""
    SCHEDULED = "SCHEDULED"
    """Waits for its appointed time."""
    PENDING = "PENDING"
    LEASED = "LEASED"
    RUNNING = "RUNNING"
    PUBLISHING = "PUBLISHING"
    FAILED = "FAILED"
    """The last attempt failed; the next one waits for its back-off."""
    COMPLETED = "COMPLETED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"


class TaskEvent(StrEnum):
    READY = "ready"
    """Everything it waited for is done."""
    DEFER = "defer"
    """In line, but its appointed time or the end of its back-off is still ahead."""
    DUE = "due"
    """The appointed time has come, or the back-off is over."""
    HOLD = "hold"
    """A person paused it."""
    RELEASE = "release"
    """A person ended the pause."""
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
    REFILE = "refile"
    """The attempt learnt what the task really needs: it waits again, in another lane."""
    FAIL = "fail"
    """The attempt failed and another one follows after its back-off."""
    KILL = "kill"
    """It failed, or ran out of time, or what it waits for failed; nothing follows."""
    CANCEL = "cancel"
    """A person stopped it, or its job died, and no process of it is left."""
    REVIVE = "revive"
    """A person brought its dead job back."""


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
    (S.BLOCKED, E.READY): S.PENDING,
    (S.BLOCKED, E.KILL): S.DEAD,
    (S.BLOCKED, E.CANCEL): S.CANCELLED,
    (S.HELD, E.RELEASE): S.PENDING,
    (S.HELD, E.KILL): S.DEAD,
    (S.HELD, E.CANCEL): S.CANCELLED,
    (S.SCHEDULED, E.DUE): S.PENDING,
    (S.SCHEDULED, E.HOLD): S.HELD,
    (S.SCHEDULED, E.KILL): S.DEAD,
    (S.SCHEDULED, E.CANCEL): S.CANCELLED,
    (S.PENDING, E.DEFER): S.SCHEDULED,
    (S.PENDING, E.HOLD): S.HELD,
    (S.PENDING, E.LEASE): S.LEASED,
    (S.PENDING, E.KILL): S.DEAD,
    (S.PENDING, E.CANCEL): S.CANCELLED,
    (S.LEASED, E.START): S.RUNNING,
    (S.LEASED, E.GIVE_BACK): S.PENDING,
    (S.LEASED, E.FAIL): S.FAILED,
    (S.LEASED, E.KILL): S.DEAD,
    (S.LEASED, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.STAGE): S.PUBLISHING,
    (S.RUNNING, E.COMPLETE): S.COMPLETED,
    (S.RUNNING, E.GIVE_BACK): S.PENDING,
    (S.RUNNING, E.REFILE): S.PENDING,
    (S.RUNNING, E.FAIL): S.FAILED,
    (S.RUNNING, E.KILL): S.DEAD,
    (S.RUNNING, E.CANCEL): S.CANCELLED,
    (S.PUBLISHING, E.COMPLETE): S.COMPLETED,
    (S.PUBLISHING, E.FAIL): S.FAILED,
    (S.PUBLISHING, E.KILL): S.DEAD,
    (S.FAILED, E.DUE): S.PENDING,
    (S.FAILED, E.HOLD): S.HELD,
    (S.FAILED, E.KILL): S.DEAD,
    (S.FAILED, E.CANCEL): S.CANCELLED,
    (S.DEAD, E.REVIVE): S.BLOCKED,
    (S.CANCELLED, E.REVIVE): S.BLOCKED,
}

ENDS = frozenset({S.COMPLETED, S.DEAD, S.CANCELLED})
HELD_BY_AGENT = frozenset({S.LEASED, S.RUNNING, S.PUBLISHING})
IN_LINE = frozenset({S.PENDING, S.SCHEDULED, S.FAILED})
WAITING = IN_LINE | {S.BLOCKED, S.HELD}
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


def job_state(tasks: Collection[TaskState], *, held: bool = False) -> JobState:
    """State of the job that has these tasks (at least one); `held`: a person paused it."""
    if not tasks:
        raise ValueError("a job has at least one task")
    present = set(tasks)
    if present & HELD_BY_AGENT:
        return JobState.PROCESSING
    if S.DEAD in present:
        return JobState.DEAD
    if S.CANCELLED in present:
        return JobState.CANCELLED
    if present == {S.COMPLETED}:
        return JobState.COMPLETED
    if held or S.HELD in present:
        return JobState.HELD
    if S.FAILED in present:
        return JobState.FAILED
    if S.COMPLETED in present:
        return JobState.PROCESSING
    return JobState.BLOCKED if present == {S.BLOCKED} else JobState.PENDING
