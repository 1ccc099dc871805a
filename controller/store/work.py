"""One unit of work: jobs with all that belongs to them, locked, moved in memory by the rules, written back at once.

Every transition writes the task's new state, the job's derived state and one event, in one transaction. What follows
from a transition for other tasks and jobs (successors, dependants, siblings of a dead task) happens here too, so that
no command can forget it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import delete

from controller.core.states import (
    HELD_BY_AGENT,
    JOB_ENDS,
    WAITING,
    JobState,
    TaskEvent,
    TaskState,
    job_state,
    next_state,
)
from controller.store import tables, topics
from controller.store.records import (
    ATTEMPT_COLUMNS,
    JOB_COLUMNS,
    TASK_COLUMNS,
    AttemptRecord,
    JobRecord,
    TaskRecord,
    write,
)
from controller.store.tables import JobId
from controller.store.writer import Tx
from mediactl.v1 import job_pb2
from presets.reasons import TABLE, Reason

NONE = "[]"
"""A list of nothing, as stored."""

JobKey = tuple[str, str]
"""(tenant, job id)"""


class Happened(NamedTuple):
    """What an event row tells besides the states."""

    type: str
    attempt_id: str = ""
    agent_id: str = ""
    reason: str = ""
    message: str = ""
    since_us: int = 0
    """Not stored: the moment from which what happened is measured, for those who hear of it."""


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


def failure(reason: Reason, message: str) -> job_pb2.Failure:
    """A failure that the controller itself found."""
    facts = TABLE[reason]
    return job_pb2.Failure(reason=reason, message=message, retryable=facts.retryable or facts.infrastructure)


@contextmanager
def work(tx: Tx) -> Iterator[Work]:
    """A unit of work that is written at the end of the block, unless that raises."""
    unit = Work(tx)
    yield unit
    unit.flush()


class Work:
    """What a command has in hand. Records are of this transaction alone."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.jobs: dict[JobKey, JobRecord] = {}
        self.tasks: dict[str, TaskRecord] = {}
        self.attempts: dict[str, AttemptRecord] = {}
        self._of_job: defaultdict[JobKey, list[TaskRecord]] = defaultdict(list)
        self._events: list[dict[str, Any]] = []
        self._turned: list[JobRecord] = []
        self._ending: set[str] = set()
        self._stopping: set[JobKey] = set()
        self._told: list[dict[str, Any]] = []
        self._dropped: list[AttemptRecord] = []
        self._released: Counter[str] = Counter()
        self._corrections: defaultdict[JobKey, float] = defaultdict(float)

    # Reading

    def lock(self, keys: Iterable[JobKey], *, skip_locked: bool = False) -> None:
        """Lock jobs and read them and their tasks. With `skip_locked`, those that others have locked are left out."""
        by_tenant: defaultdict[str, set[str]] = defaultdict(set)
        for tenant, job_id in keys:
            if (tenant, job_id) not in self.jobs:
                by_tenant[tenant].add(job_id)
        database, connection = self.tx.database, self.tx.connection
        for tenant, ids in sorted(by_tenant.items()):
            clause, values = database.any_of("id", "ids", sorted(ids))
            suffix = database.skip_locked if skip_locked else database.for_update
            rows = database.fetch(
                connection,
                f"SELECT {JOB_COLUMNS} FROM jobs WHERE tenant = :tenant AND {clause} ORDER BY id{suffix}",  # noqa: S608
                {"tenant": tenant, **values},
            )
            found = [JobRecord(*row) for row in rows]
            self.jobs.update({(tenant, job.id): job for job in found})
            clause, values = database.any_of("job_id", "ids", [job.id for job in found])
            for row in database.fetch(
                connection,
                f"SELECT {TASK_COLUMNS} FROM tasks WHERE tenant = :tenant AND {clause}",  # noqa: S608
                {"tenant": tenant, **values},
            ):
                self.adopt(TaskRecord(*row))

    def adopt(self, task: TaskRecord) -> None:
        """A task of a job in hand."""
        self.tasks[task.id] = task
        self._of_job[task.tenant, task.job_id].append(task)

    def read_attempts(self, ids: Collection[str]) -> None:
        """Read attempts of jobs in hand."""
        if ids:
            clause, values = self.tx.database.any_of("id", "ids", sorted(set(ids) - self.attempts.keys()))
            sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE {clause}"  # noqa: S608
            for row in self.tx.database.fetch(self.tx.connection, sql, values):
                attempt = AttemptRecord(*row)
                self.attempts[attempt.id] = attempt

    def lock_attempts(self, ids: Collection[str]) -> None:
        """Lock the jobs of attempts and read all of them. Attempts that nobody knows are left out."""
        if not ids:
            return
        clause, values = self.tx.database.any_of("id", "ids", sorted(ids))
        sql = f"SELECT DISTINCT tenant, job_id FROM attempts WHERE {clause}"  # noqa: S608
        self.lock((tenant, job_id) for tenant, job_id in self.tx.database.fetch(self.tx.connection, sql, values))
        # Only now: what they were before the lock may not be what they are.
        self.read_attempts(ids)

    def job_of(self, of: TaskRecord | AttemptRecord) -> JobRecord:
        return self.jobs[of.tenant, of.job_id]

    def tasks_of(self, job: JobRecord) -> list[TaskRecord]:
        return self._of_job[job.tenant, job.id]

    def attempt_of(self, task: TaskRecord) -> AttemptRecord | None:
        """The attempt that alone may move the task."""
        if task.attempt_id and task.attempt_id not in self.attempts:
            self.read_attempts([task.attempt_id])
        return self.attempts.get(task.attempt_id)

    def current_task(self, attempt: AttemptRecord) -> TaskRecord | None:
        """The task, if this attempt is the one that may move it and an agent still holds it."""
        task = self.tasks.get(attempt.task_id)
        if task is None or task.attempt_id != attempt.id or task.state not in HELD_BY_AGENT:
            return None
        return task

    # Moving

    def move(
        self,
        task: TaskRecord,
        event: TaskEvent,
        happened: Happened,
        *,
        failed: job_pb2.Failure | None = None,
        **columns: Any,
    ) -> None:
        """Apply `event` to a task, setting `columns` of it too. Raises IllegalTransition.

        The job's `failure` is what the newest failure says, and is cleared by a later success.
        """
        after = next_state(TaskState(task.state), event)
        task.set(state=str(after), **columns)
        job = self.job_of(task)
        if failed is not None:
            job.set(failure=failure_text(failed), reason=failed.reason)
        elif after in (TaskState.COMPLETED, TaskState.CANCELLED) and not any(
            other.state in (TaskState.FAILED, TaskState.DEAD) for other in self.tasks_of(job)
        ):
            job.set(failure=None, reason="")
        self.derive(job)
        self.note(job, happened, task_id=task.id)
        match after:
            case TaskState.PENDING:
                self.tx.changed.add(topics.DISPATCH)
                self._stand_in_line(job, task)
            case TaskState.COMPLETED:
                self._ready_successors(job, task)
            case TaskState.DEAD | TaskState.CANCELLED:
                self._stop_siblings(job, task)
            case _:
                pass

    def derive(self, job: JobRecord) -> None:
        """Bring a job's state into line with its tasks and flags."""
        before = job.state
        states = [TaskState(task.state) for task in self.tasks_of(job)]
        after = job_state(states, held=job.held)
        if after == before:
            return
        job.set(state=str(after))
        if after in JOB_ENDS:
            job.set(ended_us=self.tx.now_us, expires_us=None)
            self._turned.append(job)
            self._ending.add(job.id)
        elif before in JOB_ENDS:
            job.set(ended_us=None)
            self._turned.append(job)

    def note(self, job: JobRecord, happened: Happened, *, task_id: str = "") -> None:
        """Write one event of a job in hand, telling of the state it has now."""
        job.set(event_count=job.event_count + 1)
        event = {
            "cursor": self.tx.ticket(),
            "tenant": job.tenant,
            "job_id": job.id,
            "sequence": job.event_count,
            "at_us": self.tx.now_us,
            "job_state": job.state,
            "task_id": task_id,
            "type": happened.type,
            "attempt_id": happened.attempt_id,
            "agent_id": happened.agent_id,
            "reason": happened.reason,
            "message": happened.message,
        }
        self._events.append(event)
        ended = job.id in self._ending
        self._ending.discard(job.id)
        attempt = self.attempts.get(happened.attempt_id)
        told = {**event, "ended": ended, "since_us": happened.since_us, "preset": job.preset, "kind": job.kind}
        if attempt is not None and "ended_us" in attempt.changes:
            told["used"] = attempt.changes
        self._told.append(told)
        self.tx.changed |= {topics.job(JobId(job.id)), topics.JOBS}

    def _stand_in_line(self, job: JobRecord, task: TaskRecord) -> None:
        if job.held:
            self.move(task, TaskEvent.HOLD, Happened("held"))
        elif task.ready_us > self.tx.now_us:
            self.move(task, TaskEvent.DEFER, Happened("deferred"))

    def _ready_successors(self, job: JobRecord, done: TaskRecord) -> None:
        for task in self.tasks_of(job):
            if task.state == TaskState.BLOCKED and done.name in json.loads(task.after):
                self.unblock(task, tasks=1)

    def unblock(self, task: TaskRecord, *, tasks: int = 0) -> None:
        """`tasks` fewer to wait for; in line as soon as nothing is left, neither tasks nor jobs."""
        if tasks:
            task.set(waits_for=task.waits_for - tasks)
        job = self.job_of(task)
        if task.state == TaskState.BLOCKED and task.waits_for <= 0 and job.waits_for <= 0:
            ready_us = max(self.tx.now_us, job.not_before_us or 0)
            self.move(task, TaskEvent.READY, Happened("ready"), ready_us=ready_us)

    def _stop_siblings(self, job: JobRecord, dead: TaskRecord) -> None:
        key = (job.tenant, job.id)
        if key in self._stopping:
            # One of those that are being stopped just now: it has no siblings left to stop.
            return
        self._stopping.add(key)
        for task in self.tasks_of(job):
            if task is dead:
                continue
            if task.state in WAITING:
                self.move(task, TaskEvent.CANCEL, Happened("cancelled", message=f"task {dead.name} is {dead.state}"))
            elif task.state in (TaskState.LEASED, TaskState.RUNNING):
                self.ask_to_stop(task, Reason.DEPENDENCY_FAILED)
        self._stopping.discard(key)

    def ask_to_stop(self, task: TaskRecord, reason: Reason) -> bool:
        """Have the agent stop what it holds of the task; whether that is news.

        A former request stands, unless it would have the task begun anew: then it ends after all.
        """
        attempt = self.attempt_of(task)
        if attempt is None or attempt.stop_reason == reason:
            return False
        if attempt.stop_reason is None:
            attempt.set(stop_us=self.tx.now_us)
        elif attempt.stop_reason != Reason.AGENT_STOPPING:
            return False
        attempt.set(stop_reason=str(reason))
        self.tx.changed.add(topics.agent(attempt.holder))
        return True

    def kill(self, job: JobRecord, why: job_pb2.Failure) -> None:
        """End a job that must not go on: what waits dies, what runs is stopped, what is published completes."""
        for task in self.tasks_of(job):
            if task.state in WAITING:
                happened = Happened("dead", reason=why.reason, message=why.message)
                self.move(task, TaskEvent.KILL, happened, failed=why)
                # The rest is cancelled by that.
                return
        for task in self.tasks_of(job):
            if task.state in (TaskState.LEASED, TaskState.RUNNING):
                self.ask_to_stop(task, Reason(why.reason))

    def end_attempt(self, attempt: AttemptRecord, state: str, **columns: Any) -> None:
        """Close an attempt: nobody holds it, its resources are free, and its queue pays what was really used.

        Unless `sweep_us` is given, for its agent told how it ended, what it may have left staged is to be removed.
        """
        if attempt.ended_us is not None:
            return
        begun = attempt.started_us or self.tx.now_us
        used = attempt.cores * max(0, self.tx.now_us - begun) / 1e6
        job = self.job_of(attempt)
        self._corrections[job.tenant, job.queue] += used - attempt.charged
        if attempt.limit_keys != NONE:
            self._released.update(json.loads(attempt.limit_keys))
        task = self.tasks.get(attempt.task_id)
        stages = task is None or task.kind == "transform"
        columns.setdefault("sweep_us", self.tx.now_us if stages else None)
        attempt.set(state=state, holder="", ended_us=self.tx.now_us, **columns)
        self.tx.changed.add(topics.DISPATCH)

    def drop_attempt(self, attempt: AttemptRecord) -> None:
        """Forget an attempt that never was."""
        self._dropped.append(attempt)

    # Writing

    def flush(self) -> None:
        """Write everything. Dependants of jobs that ended come first: they may end too."""
        while self._turned:
            turned, self._turned = self._turned, []
            self._tell_dependants(turned)
        tx = self.tx
        write(tx, [*self.jobs.values(), *self.tasks.values(), *self.attempts.values()])
        tx.database.insert(tx.connection, tables.events, self._events)
        tx.events += self._told
        self._events, self._told = [], []
        for dropped in self._dropped:
            tx.connection.execute(
                delete(tables.attempts).where(
                    tables.attempts.c.tenant == dropped.tenant, tables.attempts.c.id == dropped.id
                )
            )
        self._dropped = []
        for limit_key, count in sorted(self._released.items()):
            sql = "UPDATE limit_counts SET running = running - :count WHERE key = :key"
            tx.database.execute(tx.connection, sql, {"count": count, "key": limit_key})
        self._released.clear()
        for (tenant, queue), core_seconds in sorted(self._corrections.items()):
            self._correct(tenant, "", core_seconds)
            self._correct(tenant, queue, core_seconds)
        self._corrections.clear()

    def _correct(self, tenant: str, queue: str, core_seconds: float) -> None:
        if core_seconds:
            sql = "UPDATE shares SET passed = passed + :used / weight WHERE tenant = :tenant AND queue = :queue"
            values = {"used": core_seconds, "tenant": tenant, "queue": queue}
            self.tx.database.execute(self.tx.connection, sql, values)

    def _tell_dependants(self, turned: list[JobRecord]) -> None:
        """Settle what waits for jobs that ended, or that were brought back from their end."""
        parents: dict[JobKey, JobRecord] = {(job.tenant, job.id): job for job in turned}
        children: dict[JobKey, list[JobRecord]] = {}
        for tenant in sorted({tenant for tenant, _ in parents}):
            clause, values = self.tx.database.any_of("parent_id", "ids", sorted(i for t, i in parents if t == tenant))
            for edge in self.tx.rows(
                f"SELECT parent_id, child_id FROM job_edges WHERE tenant = :tenant AND {clause}",  # noqa: S608
                tenant=tenant,
                **values,
            ):
                children.setdefault((tenant, edge.child_id), []).append(parents[tenant, edge.parent_id])
        self.lock(children)
        # Those that wait for nothing any more are on their way, whatever becomes of their parents.
        waiting = [key for key in children if key in self.jobs and self.jobs[key].waits_for > 0]
        waiting = [key for key in waiting if self.jobs[key].state not in JOB_ENDS]
        self.count_dependencies(waiting)
        for key in waiting:
            child = self.jobs[key]
            failed = [parent for parent in children[key] if parent.state in (JobState.DEAD, JobState.CANCELLED)]
            if failed and not child.after_any_end:
                parent = failed[0]
                self.kill(
                    child, failure(Reason.DEPENDENCY_FAILED, f"job {parent.id}, which it waits for, is {parent.state}")
                )
                continue
            for task in list(self.tasks_of(child)):
                self.unblock(task)

    def count_dependencies(self, keys: Collection[JobKey]) -> None:
        """Set anew for how many jobs each of these, which are in hand, still waits.

        Counted rather than counted down: the child's lock is held and every parent is seen as it was committed, so of
        two parents that end at once exactly the later one readies the child, and a parent that ends twice counts once.
        """
        write(self.tx, self.jobs.values())
        for tenant in sorted({tenant for tenant, _ in keys}):
            clause, values = self.tx.database.any_of("e.child_id", "ids", sorted(i for t, i in keys if t == tenant))
            rows = self.tx.rows(
                "SELECT e.child_id, count(*) AS parents FROM job_edges e"  # noqa: S608 - of the engine's own text
                " JOIN jobs p ON p.tenant = e.tenant AND p.id = e.parent_id"
                " JOIN jobs c ON c.tenant = e.tenant AND c.id = e.child_id"
                f" WHERE e.tenant = :tenant AND {clause} AND p.state <> 'COMPLETED'"
                " AND NOT (c.after_any_end AND p.state IN ('DEAD', 'CANCELLED')) GROUP BY e.child_id",
                tenant=tenant,
                **values,
            )
            counts = {str(row.child_id): int(row.parents) for row in rows}
            for key in keys:
                if key[0] == tenant and self.jobs[key].waits_for != counts.get(key[1], 0):
                    self.jobs[key].set(waits_for=counts.get(key[1], 0))
