"""Why a job waits, in words: what the matcher would see now."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from controller.core import fitting
from controller.core.fitting import Offer
from controller.core.limits import limit_of
from controller.core.states import JobState, TaskState
from controller.store import tables
from controller.store.draining import drain_reason
from controller.store.engine import AnyRow, Database
from controller.store.queries import Record, ahead_in_line, job_tasks
from controller.store.room import blocked, charged
from controller.store.tables import JobId, Tenant
from controller.store.waiting import candidate
from presets.capabilities import Requirements


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one agent lacks; nothing: it could start the task now."""

    agent_id: str
    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    summary: str
    verdicts: tuple[Verdict, ...] = ()


def explain(
    connection: Connection,
    database: Database,
    tenant: Tenant,
    job_id: JobId,
    *,
    offers: Collection[Offer],
    absent: Callable[[Record], Offer],
    objection: Callable[[Record], str],
) -> Explanation:
    """`offers` are of the agents that may be given work here; `absent` makes one of any other agent's row, and
    `objection` tells why the agent itself takes no new work.
    """
    job = connection.execute(
        select(tables.jobs).where(tables.jobs.c.tenant == tenant, tables.jobs.c.id == job_id)
    ).one()
    tasks = job_tasks(connection, tenant, job_id)
    now_us = database.now_us(connection)
    waiting = next((task for task in tasks if task.state == TaskState.PENDING), None)
    if waiting is None:
        return Explanation(_state(connection, job, tasks, now_us))
    asked = candidate(waiting, now_us)
    lane = connection.execute(select(tables.lanes).where(tables.lanes.c.key == waiting.lane)).one_or_none()
    class_key = (
        lane.class_key if lane is not None else Requirements.from_json(json.loads(waiting.requirements)).class_key()
    )
    barred = {agent_id for agent_id, key in blocked(connection, database, now_us) if key == class_key}
    known = {offer.agent_id: offer for offer in charged(connection, database, offers)}
    rows = connection.execute(select(tables.agents).order_by(tables.agents.c.name, tables.agents.c.id)).all()
    away = {row.id: absent(row) for row in rows if row.draining or row.id not in known}
    # As in granting, who is only not here is waited for.
    waited_for = [
        away.get(row.id) or known[row.id]
        for row in rows
        if not (row.lost or drain_reason(row.draining, objection(row)))
    ]
    open_ways = fitting.opened_in(asked, waited_for)
    verdicts = []
    for row in rows:
        if row.id in away:
            reasons = [_standing(row, objection(row)), *fitting.never(asked, away[row.id])]
        else:
            reasons = fitting.verdict(asked, known[row.id], open_ways)
        if row.id in barred:
            reasons = ["gets no tasks of this class for a while: two different ones failed there", *reasons]
        verdicts.append(Verdict(row.id, row.name, tuple(reasons)))
    ahead = ahead_in_line(connection, waiting)
    limits = _limits(connection, lane)
    return Explanation(_summary(verdicts, ahead, limits), tuple(verdicts))


def _standing(agent: Record, objection: str) -> str:
    if agent.lost:
        return "is lost"
    if reason := drain_reason(agent.draining, objection):
        return f"is draining: {reason}"
    return "is not connected here or takes no new work"


def _limits(connection: Connection, lane: Record | None) -> list[str]:
    if lane is None:
        return []
    maxima = {row.key: row.maximum for row in connection.execute(select(tables.limits))}
    running = {row.key: row.running for row in connection.execute(select(tables.limit_counts))}
    return [
        f"the limit {key} allows {maxima[limit_of(key)]} at once and {running.get(key, 0)} run"
        for key in json.loads(lane.limit_keys)
        if limit_of(key) in maxima and running.get(key, 0) >= maxima[limit_of(key)]
    ]


def _state(connection: Connection, job: Record, tasks: Collection[Record], now_us: int) -> str:
    states = {task.state for task in tasks}
    match job.state:
        case JobState.HELD:
            return f"Job {job.id} is HELD: a person paused it; `mediactl jobs release {job.id}` ends that."
        case JobState.BLOCKED:
            parents = connection.execute(
                select(tables.jobs.c.id, tables.jobs.c.state)
                .join(
                    tables.job_edges,
                    (tables.job_edges.c.tenant == tables.jobs.c.tenant)
                    & (tables.job_edges.c.parent_id == tables.jobs.c.id),
                )
                .where(
                    tables.job_edges.c.tenant == job.tenant,
                    tables.job_edges.c.child_id == job.id,
                    tables.jobs.c.state != JobState.COMPLETED,
                )
            ).all()
            listed = ", ".join(f"{row.id} ({row.state})" for row in parents)
            return f"Job {job.id} is BLOCKED: it waits for {listed or 'other tasks of its own'}."
        case JobState.FAILED:
            due = max(0.0, (min(t.ready_us for t in tasks if t.state == TaskState.FAILED) - now_us) / 1e6)
            return f"Job {job.id} is FAILED ({_failure(job)}): the next attempt follows in {due:.0f} s."
        case JobState.PENDING if TaskState.SCHEDULED in states:
            due = max(0.0, (min(t.ready_us for t in tasks if t.state == TaskState.SCHEDULED) - now_us) / 1e6)
            return f"Job {job.id} is PENDING: it was asked to start no earlier than in {due:.0f} s."
        case _:
            told = f"The job does not wait for an agent: it is {job.state}"
            return told + (f" ({_failure(job)})." if job.failure else ".")


def _failure(job: AnyRow) -> str:
    failure: Mapping[str, str] = json.loads(job.failure or "{}")
    return f"{failure.get('reason', '')}: {failure.get('message', '')}"


def _summary(verdicts: Collection[Verdict], ahead: int, limits: Collection[str]) -> str:
    before = f"{ahead} tasks are before it in its lane"
    if limits:
        return f"It waits, because {' and '.join(limits)}; {before}."
    if not verdicts:
        return "No agent has registered yet: start `mediactl-agent` on a machine that reaches the inputs."
    if any(not verdict.reasons for verdict in verdicts):
        return f"It is about to be leased; {before}."
    grouped: dict[str, list[str]] = {}
    for verdict in verdicts:
        grouped.setdefault(verdict.reasons[0], []).append(verdict.name)
    parts = [f"{', '.join(names)} {reason}" for reason, names in grouped.items()]
    return "No agent can take it now: " + "; ".join(parts) + f". {before[0].upper()}{before[1:]}."
