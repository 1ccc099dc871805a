"""What an attempt may learn by looking: that its task needs something else, or that it is really several tasks.

Only agents can see inputs. Both are applied once, in the transaction that ends the attempt, and cost no attempt.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import astuple
from graphlib import CycleError, TopologicalSorter
from typing import Any

from sqlalchemy import select

from controller.core.states import TaskEvent, TaskState
from controller.store import tables
from controller.store.lanes import grounds, lane_of, store_lanes
from controller.store.records import AttemptRecord, TaskRecord, columns
from controller.store.work import Happened, Work
from mediactl.v1 import agent_service_pb2 as pb
from presets.capabilities import Alternative, Requirements

KINDS = {pb.TASK_KIND_TRANSFORM: "transform", pb.TASK_KIND_PLAN: "plan", pb.TASK_KIND_PART: "part"}
MOST_TASKS = 1000
"""In one job. Every move of one looks at all: of ten thousand, one report would hold up everybody for a minute."""
MOST_NAME = 128
MOST_TOLD = 500
MOST_ALTERNATIVES = 16
MOST_NEEDS = 1000
MOST_AMOUNT = 2**53
MOST_DELAY_S = 86_400.0
MOST_REFILES = 20
"""Attempts that cost a task nothing, after which an agent that refiles once more is taken to go in circles."""


def refile(unit: Work, attempt: AttemptRecord, task: TaskRecord, report: pb.EndReport, used: dict[str, Any]) -> str:
    """Put the task in line again under better requirements. Returns what is wrong with the report, empty: nothing."""
    if task.attempts_made - task.attempts_used > MOST_REFILES:
        return f"the task was refiled {MOST_REFILES} times without getting any further"
    needs = _requirements(report.requirements_json)
    if needs is None:
        return "the agent refiled the task with requirements that can't be read"
    lane = _lane(unit, task, needs)
    unit.end_attempt(attempt, "refiled", **used)
    unit.move(
        task,
        TaskEvent.REFILE,
        Happened("refiled", attempt_id=attempt.id, agent_id=attempt.agent_id),
        attempt_id="",
        lane=lane,
        requirements=json.dumps(needs.to_json()),
        ready_us=unit.tx.now_us,
    )
    return ""


def after_gpu_failure(unit: Work, task: TaskRecord) -> dict[str, Any]:
    """What changes of a task whose GPU was used up or failed: it asks for one less, where it can do without."""
    t = tables.tasks.c
    stored = unit.tx.connection.execute(select(t.requirements).where(t.tenant == task.tenant, t.id == task.id))
    before = Requirements.from_json(json.loads(stored.scalar_one()))
    needs = before.after_gpu_failure()
    if needs == before:
        return {}
    return {"lane": _lane(unit, task, needs), "requirements": json.dumps(needs.to_json())}


def expand(unit: Work, attempt: AttemptRecord, task: TaskRecord, report: pb.EndReport, used: dict[str, Any]) -> str:
    """Complete the task and add those that it leaves behind. Returns what is wrong with the report, empty: nothing."""
    tx, job = unit.tx, unit.job_of(task)
    older = {other.name: other for other in unit.tasks_of(job)}
    if wrong := _unfit(report.tasks, older.keys()):
        return wrong
    publishers = [new.name for new in report.tasks if new.kind == pb.TASK_KIND_TRANSFORM]
    publishers += [other.name for other in older.values() if other.kind == "transform" and not _done(other, task)]
    if len(publishers) > 1:
        return f"only one task of a job publishes its outputs; {' and '.join(sorted(publishers))} would"
    whole = tx.connection.execute(
        select(tables.tasks).where(tables.tasks.c.tenant == task.tenant, tables.tasks.c.id == task.id)
    ).one()
    done = {name for name, other in older.items() if other.state == TaskState.COMPLETED}
    rows = []
    for number, new in enumerate(report.tasks, len(older) + 1):
        needs = _requirements(new.requirements_json or whole.requirements)
        if needs is None:
            return f"the requirements of task {new.name} can't be read"
        waits_for = len(set(new.after) - done)
        rows.append(
            {
                "seq": tx.ticket(),
                "tenant": task.tenant,
                "id": f"{task.job_id}-{number}",
                "job_id": task.job_id,
                "name": new.name,
                "kind": KINDS[new.kind],
                "state": str(TaskState.BLOCKED),
                "lane": _lane(unit, task, needs),
                "priority": task.priority,
                "requirements": json.dumps(needs.to_json()),
                "require": whole.require,
                "paths": whole.paths,
                "intent": new.intent_json or whole.intent,
                "waits_for": waits_for,
                "after": json.dumps(sorted(set(new.after))),
                "attempts_used": 0,
                "attempts_made": 0,
                "agents_lost": 0,
                "avoid": "[]",
                "infrastructure_since_us": None,
                "ready_us": tx.now_us,
                "attempt_id": "",
                "redo": None,
            }
        )
    tx.database.insert(tx.connection, tables.tasks, rows)
    added = [TaskRecord(**{name: row[name] for name in columns(TaskRecord)}) for row in rows]
    for record in added:
        unit.adopt(record)
    unit.end_attempt(attempt, "completed", **used)
    happened = Happened("expanded", attempt.id, attempt.agent_id, message=f"{len(rows)} tasks were added")
    unit.move(task, TaskEvent.COMPLETE, happened)
    for record in added:
        unit.unblock(record)
    return ""


def _done(other: TaskRecord, expanding: TaskRecord) -> bool:
    return other is expanding or other.state == TaskState.COMPLETED


def _unfit(new: Collection[pb.NewTask], older: Collection[str]) -> str:
    names = [task.name for task in new]
    known = {*names, *older}
    if not names:
        return "the agent expanded the task into nothing"
    if len(known) != len(names) + len(older) or not all(names):
        return "names of added tasks must be new and different"
    if any(len(name) > MOST_NAME or not name.isprintable() for name in names):
        return f"names of tasks have at most {MOST_NAME} printable characters"
    if len(known) > MOST_TASKS:
        return f"a job has at most {MOST_TASKS} tasks"
    for task in new:
        if task.kind not in KINDS:
            return f"task {task.name} is of no kind that this controller knows"
        if unknown := set(task.after) - known:
            return f"task {task.name} waits for {min(unknown)}, which the job doesn't have"[:MOST_TOLD]
    try:
        TopologicalSorter({task.name: set(task.after) for task in new}).prepare()
    except CycleError as error:
        return f"tasks wait for each other in a circle: {', '.join(sorted(set(error.args[1])))}"[:MOST_TOLD]
    return ""


def _requirements(document: str) -> Requirements | None:
    try:
        needs = Requirements.from_json(json.loads(document))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    fine = 0 < len(needs.alternatives) <= MOST_ALTERNATIVES and all(map(_sound, needs.alternatives))
    return needs if fine else None


def _sound(alternative: Alternative) -> bool:
    """Whether it is made of what it should be: a document says whatever its writer liked."""
    # True is an int to Python, and no number of cores.
    amounts_fit = all(type(amount) is int and 0 <= amount <= MOST_AMOUNT for amount in astuple(alternative.resources))
    names: list[Any] = [name for any_of in alternative.needs for name in any_of]
    names_fit = len(names) <= MOST_NEEDS and all(
        isinstance(name, str) and len(name) <= MOST_NAME and name.isprintable() for name in names
    )
    return amounts_fit and names_fit and 0.0 <= alternative.open_after_s <= MOST_DELAY_S


def _lane(unit: Work, task: TaskRecord, needs: Requirements) -> str:
    tx = unit.tx
    row = tx.connection.execute(
        select(
            tables.jobs.c.queue,
            tables.jobs.c.preset,
            tables.jobs.c.labels,
            tables.tasks.c.require,
            tables.tasks.c.paths,
        )
        .join(
            tables.tasks, (tables.tasks.c.tenant == tables.jobs.c.tenant) & (tables.tasks.c.job_id == tables.jobs.c.id)
        )
        .where(tables.tasks.c.tenant == task.tenant, tables.tasks.c.id == task.id)
    ).one()
    facts = lane_of(
        grounds(tx),
        tenant=task.tenant,
        queue=row.queue,
        priority=task.priority,
        preset=row.preset,
        labels=row.labels,
        class_key=needs.class_key(),
        require=row.require,
        paths=row.paths,
    )
    store_lanes(tx, [facts])
    return facts.key
