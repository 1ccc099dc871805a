"""Moving a task: its new state, the job's derived state and the event, always together in one transaction."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sqlalchemy import Row, insert, select, update

from controller.core.states import JOB_ENDS, TaskEvent, TaskState, job_state, next_state
from controller.store.tables import JobId, Tenant, events, jobs, tasks
from controller.store.topics import DISPATCH, JOBS, job
from controller.store.writer import Tx
from mediactl.v1 import job_pb2


class Happened(NamedTuple):
    """What an event row tells besides the states."""

    type: str
    attempt_id: str = ""
    agent_id: str = ""
    reason: str = ""
    message: str = ""


def failure_text(failure: job_pb2.Failure) -> str:
    """As stored in `failure` columns."""
    return json.dumps(
        {
            "reason": failure.reason,
            "message": failure.message,
            "retryable": failure.retryable,
            "log_tail": failure.log_tail,
        }
    )


def append_event(tx: Tx, tenant: Tenant, job_id: JobId, state: str, task_id: str, happened: Happened) -> None:
    """Number and write one event of a job; the caller wrote the state it tells of in the same transaction."""
    count = tx.connection.execute(
        update(jobs)
        .where(jobs.c.tenant == tenant, jobs.c.id == job_id)
        .values(event_count=jobs.c.event_count + 1)
        .returning(jobs.c.event_count)
    ).scalar_one()
    event = {
        "tenant": tenant,
        "job_id": job_id,
        "sequence": count,
        "at_us": tx.now_us,
        "job_state": state,
        "task_id": task_id,
        **happened._asdict(),
    }
    tx.connection.execute(insert(events).values(event))
    tx.events.append(event)
    tx.changed |= {job(job_id), JOBS}


def move(
    tx: Tx,
    task: Row[Any],
    event: TaskEvent,
    happened: Happened,
    *,
    failure: job_pb2.Failure | None = None,
    **columns: object,
) -> TaskState:
    """Apply `event` to a task read in this transaction, setting `columns` of it too.

    Raises IllegalTransition. The job's `failure` is what the newest failure says, and is cleared by a later success.
    """
    after = next_state(TaskState(task.state), event)
    tx.connection.execute(
        update(tasks).where(tasks.c.tenant == task.tenant, tasks.c.id == task.id).values(state=after, **columns)
    )
    states = tx.connection.scalars(
        select(tasks.c.state).where(tasks.c.tenant == task.tenant, tasks.c.job_id == task.job_id)
    )
    whole = job_state([TaskState(state) for state in states])
    values: dict[str, object] = {"state": whole}
    if whole in JOB_ENDS:
        values["ended_us"] = tx.now_us
    if failure is not None:
        values["failure"] = failure_text(failure)
    elif after in (TaskState.COMPLETED, TaskState.CANCELLED):
        values["failure"] = None
    tx.connection.execute(update(jobs).where(jobs.c.tenant == task.tenant, jobs.c.id == task.job_id).values(**values))
    append_event(tx, task.tenant, task.job_id, whole, task.id, happened)
    if after is TaskState.PENDING:
        tx.changed.add(DISPATCH)
    return after
