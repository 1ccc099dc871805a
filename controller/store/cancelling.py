"""Cancelling: what waits ends at once; what runs ends when its agent has stopped it, or after a grace."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from controller.core.states import JOB_ENDS, WAITING, JobState, TaskEvent, TaskState
from controller.store.attempts import stopped
from controller.store.tables import JobId, Tenant
from controller.store.work import Happened, failure, work
from controller.store.writer import Tx
from presets.reasons import Reason

STOP_GRACE_US = 20_000_000
"""How long an agent may take to confirm a stop before the attempt is ended without it."""
PAGE = 500


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
        with work(tx) as unit:
            unit.lock([(self.tenant, self.job_id)])
            job = unit.jobs[self.tenant, self.job_id]
            if job.state in JOB_ENDS and job.state != JobState.CANCELLED:
                raise JobEnded(job.state)
            if job.cancel_requested:
                return
            job.set(cancel_requested=True)
            unit.note(job, Happened("cancel_requested", message=self.message))
            for task in unit.tasks_of(job):
                if task.state in WAITING:
                    unit.move(task, TaskEvent.CANCEL, Happened("cancelled", message=self.message))
                elif task.state in (TaskState.LEASED, TaskState.RUNNING):
                    unit.ask_to_stop(task, Reason.CANCELLED)


@dataclass(frozen=True, slots=True)
class EnforceStops:
    """End attempts whose agent did not confirm a stop in time. Such an agent can publish nothing any more."""

    def apply(self, tx: Tx) -> None:
        overdue = tx.connection.scalars(
            text("SELECT id FROM attempts WHERE holder <> '' AND stop_us <= :before ORDER BY id LIMIT :most"),
            {"before": tx.now_us - STOP_GRACE_US, "most": PAGE},
        ).all()
        if not overdue:
            return
        with work(tx) as unit:
            unit.lock_attempts(overdue)
            for attempt in list(unit.attempts.values()):
                task = unit.current_task(attempt)
                if task is not None and attempt.holder and task.state != TaskState.PUBLISHING:
                    stopped(unit, attempt, task, {})


@dataclass(frozen=True, slots=True)
class ExpireJobs:
    """End jobs whose time is used up: what waits dies, what runs is stopped, what is publishing completes."""

    def apply(self, tx: Tx) -> None:
        due = tx.connection.execute(
            text(
                "SELECT tenant, id FROM jobs WHERE expires_us IS NOT NULL AND expires_us <= :now"
                " ORDER BY id LIMIT :most"
            ),
            {"now": tx.now_us, "most": PAGE},
        ).all()
        if not due:
            return
        with work(tx) as unit:
            unit.lock((row.tenant, row.id) for row in due)
            for job in list(unit.jobs.values()):
                if job.state not in JOB_ENDS and job.expires_us is not None and job.expires_us <= tx.now_us:
                    # Once: what runs is stopped by the request that this leaves behind. What is being published is
                    # looked at again, for it may fail.
                    if not any(task.state == TaskState.PUBLISHING for task in unit.tasks_of(job)):
                        job.set(expires_us=None)
                    unit.kill(job, failure(Reason.TIMED_OUT, "the time allowed for the job was used up"))
