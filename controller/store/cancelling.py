"""Cancelling: what waits ends at once; what runs ends when its agent has stopped it, or after a grace."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, update

from controller.core.states import JOB_ENDS, JobState, TaskEvent, TaskState
from controller.store.attempts import cancel, current_task
from controller.store.tables import JobId, Tenant, attempts, jobs, tasks
from controller.store.topics import agent
from controller.store.transitions import Happened, append_event, move
from controller.store.writer import Tx
from presets.reasons import Reason

STOP_GRACE_US = 20_000_000
"""How long an agent may take to confirm a stop before the attempt is ended without it."""


class JobEnded(Exception):
    """The job reached another end before."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the job is {state} already")
        self.state = state


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Ask for a job to be stopped. Repeats do nothing; raises JobEnded. What is publishing completes."""

    tenant: Tenant
    job_id: JobId
    message: str

    def apply(self, tx: Tx) -> None:
        row = tx.connection.execute(
            select(jobs.c.state, jobs.c.cancel_requested).where(jobs.c.tenant == self.tenant, jobs.c.id == self.job_id)
        ).one()
        if row.state in JOB_ENDS and row.state != JobState.CANCELLED:
            raise JobEnded(row.state)
        if row.cancel_requested:
            return
        tx.connection.execute(
            update(jobs).where(jobs.c.tenant == self.tenant, jobs.c.id == self.job_id).values(cancel_requested=True)
        )
        asked = Happened("cancel_requested", message=self.message)
        append_event(tx, self.tenant, self.job_id, row.state, "", asked)
        for task in tx.connection.execute(
            select(tasks).where(tasks.c.tenant == self.tenant, tasks.c.job_id == self.job_id)
        ).all():
            if task.state in (TaskState.PENDING, TaskState.FAILED):
                move(tx, task, TaskEvent.CANCEL, Happened("cancelled", message=self.message))
            elif task.state in (TaskState.LEASED, TaskState.RUNNING):
                holder = tx.connection.execute(
                    update(attempts)
                    .where(attempts.c.tenant == self.tenant, attempts.c.id == task.attempt_id)
                    .values(stop_reason=Reason.CANCELLED, stop_us=tx.now_us)
                    .returning(attempts.c.holder)
                ).scalar_one()
                tx.changed.add(agent(holder))


@dataclass(frozen=True, slots=True)
class EnforceStops:
    """End attempts whose agent did not confirm a stop in time. Such an agent can publish nothing any more."""

    def apply(self, tx: Tx) -> None:
        overdue = tx.connection.execute(
            select(attempts).where(attempts.c.holder != "", attempts.c.stop_us <= tx.now_us - STOP_GRACE_US)
        ).all()
        for attempt in overdue:
            task = current_task(tx, attempt)
            if task is not None and task.state != TaskState.PUBLISHING:
                cancel(tx, attempt, task, {})
