"""What the rules can't bring about and a fault of a program or of a person at the database can: found and mended.

Finding reads pages of jobs and holds nobody up; mending looks again, with the jobs locked, by the rules of all work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from controller.core.states import HELD_BY_AGENT, JOB_ENDS, WAITING, TaskEvent, TaskState, job_state
from controller.store.records import AttemptRecord, JobRecord, TaskRecord
from controller.store.work import Happened, JobKey, Work, failure, work
from controller.store.writer import Store, Tx
from presets.reasons import Reason

PAGE = 5000
BATCH = 50

_HELD = ", ".join(f"'{state}'" for state in sorted(HELD_BY_AGENT))


@dataclass(frozen=True, slots=True)
class Mended:
    """What was wrong with a job, in words."""

    tenant: str
    job_id: str
    told: str


def suspects(connection: Connection, after_seq: int, limit: int) -> tuple[int | None, list[JobKey]]:
    """Among the `limit` jobs behind `after_seq`, those that need a closer look; with it where to go on, if anywhere.

    A job of one task in the same state, or in work at an attempt that has not ended, needs none.
    """
    last = connection.execute(
        text(
            "SELECT max(seq), count(*) FROM (SELECT seq FROM jobs WHERE seq > :after ORDER BY seq LIMIT :limit) AS page"
        ),
        {"after": after_seq, "limit": limit},
    ).one()
    if not last[1]:
        return None, []
    rows = connection.execute(
        text(
            "SELECT DISTINCT jobs.seq, jobs.tenant, jobs.id FROM jobs"  # noqa: S608 - the states are this program's
            " LEFT JOIN tasks ON tasks.tenant = jobs.tenant AND tasks.job_id = jobs.id"
            " LEFT JOIN attempts ON attempts.tenant = tasks.tenant AND attempts.id = tasks.attempt_id"
            " WHERE jobs.seq > :after AND jobs.seq <= :last AND (tasks.id IS NULL OR NOT ("
            "  (jobs.state = tasks.state AND (NOT jobs.held OR jobs.state = 'HELD' OR jobs.ended_us IS NOT NULL))"
            f"  OR (jobs.state = 'PROCESSING' AND tasks.state IN ({_HELD})"
            "      AND attempts.id IS NOT NULL AND attempts.ended_us IS NULL)))"
            " ORDER BY jobs.seq"
        ),
        {"after": after_seq, "last": last[0]},
    )
    return int(last[0]), [(row.tenant, row.id) for row in rows]


def stray_holdings(connection: Connection) -> list[JobKey]:
    """Jobs with attempts held by agents that nobody knows, or held after their tasks went on without them."""
    rows: Sequence[Row[Any]] = connection.execute(
        text(
            "SELECT DISTINCT attempts.tenant, attempts.job_id FROM attempts"
            " LEFT JOIN agents ON agents.id = attempts.holder"
            " LEFT JOIN tasks ON tasks.tenant = attempts.tenant AND tasks.id = attempts.task_id"
            " WHERE attempts.holder <> '' AND (agents.id IS NULL OR tasks.attempt_id <> attempts.id)"
            " ORDER BY attempts.tenant, attempts.job_id"
        )
    ).all()
    return [(row.tenant, row.job_id) for row in rows]


async def repair(store: Store) -> list[Mended]:
    """Look at every job and mend what is wrong; returns what was. Meant for a start, beside the usual work."""
    mended = await _mend(store, await store.read(stray_holdings))
    after: int | None = -1
    while after is not None:
        after, keys = await store.read(suspects, after, PAGE)
        mended += await _mend(store, keys)
    return mended


async def _mend(store: Store, keys: list[JobKey]) -> list[Mended]:
    mended: list[Mended] = []
    for begin in range(0, len(keys), BATCH):
        mended += await store.execute(RepairOrphans(tuple(keys[begin : begin + BATCH])))
    return mended


@dataclass(frozen=True, slots=True)
class RepairOrphans:
    """Bring these jobs in order; returns what was wrong, nothing where they are as they should be."""

    keys: tuple[JobKey, ...]

    def apply(self, tx: Tx) -> list[Mended]:
        mended: list[Mended] = []
        with work(tx) as unit:
            unit.lock(self.keys)
            known = _agents(tx)
            for key in self.keys:
                # It may have been deleted meanwhile.
                if (job := unit.jobs.get(key)) is not None:
                    mended += [Mended(*key, told) for told in _in_order(unit, job, known)]
        return mended


def _agents(tx: Tx) -> frozenset[str]:
    return frozenset(tx.connection.scalars(text("SELECT id FROM agents")))


def _in_order(unit: Work, job: JobRecord, known: frozenset[str]) -> list[str]:
    _read_holdings(unit, job)
    told: list[str] = []
    for attempt in list(unit.attempts.values()):
        if (attempt.tenant, attempt.job_id) == (job.tenant, job.id) and attempt.holder:
            told += _holding(unit, attempt, known)
    for task in list(unit.tasks_of(job)):
        told += _task(unit, job, task)
    return told + _state(unit, job)


def _read_holdings(unit: Work, job: JobRecord) -> None:
    rows = unit.tx.rows(
        "SELECT id FROM attempts WHERE tenant = :tenant AND job_id = :job AND holder <> ''",
        tenant=job.tenant,
        job=job.id,
    )
    unit.read_attempts([row.id for row in rows] + [task.attempt_id for task in unit.tasks_of(job) if task.attempt_id])


def _holding(unit: Work, attempt: AttemptRecord, known: frozenset[str]) -> list[str]:
    task = unit.current_task(attempt)
    if task is None:
        unit.end_attempt(attempt, "lost")
        return [f"attempt {attempt.id} was held though its task went on without it"]
    if attempt.holder in known:
        return []
    told = f"attempt {attempt.id} was held by agent {attempt.holder}, which nobody knows"
    if task.state == TaskState.PUBLISHING:
        # Any agent that reaches the outputs may finish it.
        attempt.set(holder="")
    else:
        unit.end_attempt(attempt, "lost")
        _wait_again(unit, task, told)
    return [told]


def _task(unit: Work, job: JobRecord, task: TaskRecord) -> list[str]:
    if task.state in HELD_BY_AGENT:
        attempt = unit.attempt_of(task)
        if attempt is not None and attempt.ended_us is None:
            return []
        told = (
            f"task {task.name} was {task.state} at attempt {task.attempt_id or '(none)'}, which has ended or never was"
        )
        _wait_again(unit, task, told)
        return [told]
    if job.state in JOB_ENDS and task.state in WAITING:
        told = f"task {task.name} was {task.state} though its job is {job.state}"
        unit.move(task, TaskEvent.CANCEL, Happened("cancelled", message=told))
        return [told]
    return []


def _wait_again(unit: Work, task: TaskRecord, told: str) -> None:
    why = failure(Reason.AGENT_LOST, told)
    happened = Happened("given_back", task.attempt_id, "", why.reason, told)
    columns = {"attempt_id": "", "redo": None, "ready_us": unit.tx.now_us}
    if task.state == TaskState.PUBLISHING:
        unit.move(task, TaskEvent.FAIL, happened._replace(type="failed"), failed=why, **columns)
    else:
        unit.move(task, TaskEvent.GIVE_BACK, happened, failed=why, **columns)


def _state(unit: Work, job: JobRecord) -> list[str]:
    states = [TaskState(task.state) for task in unit.tasks_of(job)]
    if not states:
        return [f"job {job.id} is {job.state} and has no task: it can only be deleted"]
    if (right := job_state(states, held=job.held)) == job.state:
        return []
    told = f"job was {job.state} though its tasks say {right}"
    unit.derive(job)
    unit.note(job, Happened("repaired", message=told))
    return [told]
