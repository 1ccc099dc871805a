"""What people do to jobs: hold, release, retry. Each takes many jobs and says of each what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from sqlalchemy import text

from controller.core.states import IN_LINE, JOB_ENDS, JobState, TaskEvent, TaskState
from controller.store.engine import AnyRow
from controller.store.records import JobRecord, write
from controller.store.submission import RequestIdReused, remembered, to_remember
from controller.store.tables import JobId, Tenant, requests
from controller.store.work import Happened, Work, work
from controller.store.writer import Tx
from presets.reasons import Reason

DUE_PAGE = 500


@dataclass(slots=True)
class Outcome:
    """Jobs it was done to, and jobs it can't be done to with the reason."""

    done: list[JobId] = field(default_factory=list)
    refused: list[tuple[JobId, Reason, str]] = field(default_factory=list)


def _each(
    tx: Tx, tenant: Tenant, ids: Collection[JobId], act: Callable[[Work, JobRecord], tuple[Reason, str] | None]
) -> Outcome:
    outcome = Outcome()
    with work(tx) as unit:
        unit.lock((tenant, job_id) for job_id in ids)
        for job_id in ids:
            job = unit.jobs.get((tenant, job_id))
            if job is None:
                outcome.refused.append((job_id, Reason.JOB_NOT_FOUND, "no job has this id any more"))
            elif (refusal := act(unit, job)) is not None:
                outcome.refused.append((job_id, *refusal))
            else:
                outcome.done.append(job_id)
    return outcome


@dataclass(frozen=True, slots=True)
class HoldJobs:
    """Pause jobs: nothing of them is leased; what runs goes on. Repeats do nothing."""

    tenant: Tenant
    ids: tuple[JobId, ...]
    message: str

    def apply(self, tx: Tx) -> Outcome:
        return _each(tx, self.tenant, self.ids, self._hold)

    def _hold(self, unit: Work, job: JobRecord) -> tuple[Reason, str] | None:
        if job.state in JOB_ENDS:
            return Reason.JOB_ENDED, f"the job is {job.state} already; there is nothing to hold"
        if job.held:
            return None
        job.set(held=True)
        moved = False
        for task in unit.tasks_of(job):
            if task.state in IN_LINE:
                unit.move(task, TaskEvent.HOLD, Happened("held", message=self.message))
                moved = True
        if not moved:
            unit.derive(job)
            unit.note(job, Happened("hold_requested", message=self.message))
        return None


@dataclass(frozen=True, slots=True)
class ReleaseJobs:
    """End the pause. A job stands in line where it stood. Repeats do nothing."""

    tenant: Tenant
    ids: tuple[JobId, ...]
    message: str

    def apply(self, tx: Tx) -> Outcome:
        return _each(tx, self.tenant, self.ids, self._release)

    def _release(self, unit: Work, job: JobRecord) -> tuple[Reason, str] | None:
        if job.state in JOB_ENDS:
            return Reason.JOB_ENDED, f"the job is {job.state} already; there is nothing to release"
        if not job.held:
            return None
        job.set(held=False)
        moved = False
        for task in unit.tasks_of(job):
            if task.state == TaskState.HELD:
                # It waits since now: a pause earns no age.
                ready_us = max(unit.tx.now_us, task.ready_us)
                unit.move(task, TaskEvent.RELEASE, Happened("released", message=self.message), ready_us=ready_us)
                moved = True
        if not moved:
            unit.derive(job)
            unit.note(job, Happened("released", message=self.message))
        return None


@dataclass(frozen=True, slots=True)
class RetryJobs:
    """Bring DEAD jobs back, their attempts counted anew. Tasks that had completed stay so.

    A job that waits for one that failed and is not brought back with it is refused.

    The same `request_id` again returns what the first one did. Raises RequestIdReused.
    """

    tenant: Tenant
    ids: tuple[JobId, ...]
    request_id: str
    digest: str

    def apply(self, tx: Tx) -> Outcome:
        if self.request_id:
            key = (self.tenant, self.request_id)
            before = remembered(tx, [key]).get(key)
            if before is not None:
                digest, ids = before
                if digest != self.digest:
                    raise RequestIdReused
                return Outcome(done=ids)
        # Parents first: they are older than what waits for them, and ids rise.
        outcome = _each(tx, self.tenant, sorted(self.ids), _revive)
        place = {job_id: number for number, job_id in enumerate(self.ids)}
        outcome.done.sort(key=place.__getitem__)
        outcome.refused.sort(key=lambda refused: place[refused[0]])
        if self.request_id:
            row = to_remember(tx, self.tenant, self.request_id, self.digest, outcome.done)
            tx.database.insert(tx.connection, requests, [row])
        return outcome


def _failed_parent(unit: Work, job: JobRecord) -> AnyRow | None:
    """Id and state of a job that this one waits for in vain."""
    # Those that this command brought back count as they are now.
    write(unit.tx, unit.jobs.values())
    rows = unit.tx.rows(
        "SELECT p.id, p.state FROM job_edges e JOIN jobs p ON p.tenant = e.tenant AND p.id = e.parent_id"
        " WHERE e.tenant = :tenant AND e.child_id = :job AND p.state IN ('DEAD', 'CANCELLED') ORDER BY p.id LIMIT 1",
        tenant=job.tenant,
        job=job.id,
    )
    return rows[0] if rows else None


def _revive(unit: Work, job: JobRecord) -> tuple[Reason, str] | None:
    if job.state != JobState.DEAD:
        return Reason.JOB_NOT_DEAD, f"the job is {job.state}; only a DEAD job can be retried"
    tx = unit.tx
    if not job.after_any_end and (parent := _failed_parent(unit, job)) is not None:
        message = f"job {parent.id}, which it waits for, is {parent.state}: it would wait for ever"
        return Reason.DEPENDENCY_FAILED, message
    # The time allowed counts from the first start of its new life; a deadline that has passed is waived.
    job.set(failure=None, reason="", started_us=None, ended_us=None, expires_us=None, cancel_requested=False)
    blamed = [task for task in unit.tasks_of(job) if task.state in (TaskState.DEAD, TaskState.CANCELLED)]
    # The dead ones last: until all are back the job is DEAD, and never seems to have been cancelled.
    blamed.sort(key=lambda task: task.state == TaskState.DEAD)
    for task in blamed:
        done = {other.name for other in unit.tasks_of(job) if other.state == TaskState.COMPLETED}
        unit.move(
            task,
            TaskEvent.REVIVE,
            Happened("retried"),
            attempts_used=0,
            agents_lost=0,
            infrastructure_since_us=None,
            attempt_id="",
            redo=None,
            waits_for=len(set(json.loads(task.after)) - done),
            ready_us=tx.now_us,
        )
    unit.count_dependencies([(job.tenant, job.id)])
    for task in blamed:
        unit.unblock(task)
    return None


@dataclass(frozen=True, slots=True)
class FallDue:
    """Put tasks in line whose back-off is over or whose appointed time has come. Returns whether there may be more."""

    def apply(self, tx: Tx) -> bool:
        due = tx.connection.execute(
            text(
                "SELECT tenant, job_id FROM tasks WHERE state IN ('FAILED', 'SCHEDULED') AND ready_us <= :now"
                " ORDER BY ready_us LIMIT :most"
            ),
            {"now": tx.now_us, "most": DUE_PAGE},
        ).all()
        if not due:
            return False
        with work(tx) as unit:
            unit.lock((row.tenant, row.job_id) for row in due)
            for task in list(unit.tasks.values()):
                if task.state in (TaskState.FAILED, TaskState.SCHEDULED) and task.ready_us <= tx.now_us:
                    unit.move(task, TaskEvent.DUE, Happened("retry_due" if task.state == TaskState.FAILED else "due"))
        return len(due) == DUE_PAGE
