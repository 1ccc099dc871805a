"""Granting tasks to agents: one transaction reads what waits, asks the matcher and writes the leases."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select, update

from controller.core import matching
from controller.core.matching import Candidate, Grant, Offer
from controller.core.states import TaskEvent, TaskState
from controller.store.tables import AgentId, AttemptId, JobId, TaskId, attempts, jobs, tasks
from controller.store.transitions import Happened, append_event, move
from controller.store.writer import Tx
from presets.capabilities import Requirements, Resources

LOOK_AHEAD = 256
"""How many waiting tasks are looked at in one go; more goes are made while agents have room."""


@dataclass(frozen=True, slots=True)
class Leased:
    """All that a Lease frame says."""

    agent_id: AgentId
    attempt_id: AttemptId
    task_id: TaskId
    job_id: JobId
    task_kind: str
    intent: str
    requirements: str
    cores: int
    memory_bytes: int
    verbose: bool
    redo: str | None


_leased_columns = (
    attempts.c.holder,
    attempts.c.id,
    attempts.c.task_id,
    attempts.c.job_id,
    tasks.c.kind,
    jobs.c.intent,
    tasks.c.requirements,
    attempts.c.alternative,
    attempts.c.cores,
    attempts.c.memory_bytes,
    jobs.c.verbose,
    tasks.c.redo,
)


def leases_of(connection: Connection, agent_id: str, *attempt_ids: str) -> list[Leased]:
    """The open leases of an agent, or those of them that are named."""
    query = (
        select(*_leased_columns)
        .join(tasks, (tasks.c.tenant == attempts.c.tenant) & (tasks.c.id == attempts.c.task_id))
        .join(jobs, (jobs.c.tenant == attempts.c.tenant) & (jobs.c.id == attempts.c.job_id))
        .where(attempts.c.holder == agent_id)
    )
    if attempt_ids:
        query = query.where(attempts.c.id.in_(attempt_ids))
    return [
        Leased(
            agent_id=AgentId(row.holder),
            attempt_id=AttemptId(row.id),
            task_id=TaskId(row.task_id),
            job_id=JobId(row.job_id),
            task_kind=row.kind,
            intent=row.intent,
            requirements=_chosen(row.requirements, row.alternative),
            cores=row.cores,
            memory_bytes=row.memory_bytes,
            verbose=row.verbose,
            redo=row.redo,
        )
        for row in connection.execute(query)
    ]


def _chosen(requirements: str, alternative: int) -> str:
    whole = Requirements.from_json(json.loads(requirements))
    return json.dumps(Requirements((whole.alternatives[alternative],)).to_json())


def charged(connection: Connection, offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """The offers less what their agents hold already."""
    taken = {
        row.holder: row
        for row in connection.execute(
            select(
                attempts.c.holder,
                func.count().label("tasks"),
                func.sum(attempts.c.cores).label("cores"),
                func.sum(attempts.c.memory_bytes).label("memory"),
            )
            .where(attempts.c.holder.in_([offer.agent_id for offer in offers]))
            .group_by(attempts.c.holder)
        )
    }
    return tuple(_less(offer, taken[offer.agent_id]) if offer.agent_id in taken else offer for offer in offers)


def _less(offer: Offer, held: Row[Any]) -> Offer:
    free = Resources(
        cores=offer.free.cores - int(held.cores),
        memory_bytes=offer.free.memory_bytes - int(held.memory),
        scratch_bytes=offer.free.scratch_bytes,
    )
    return replace(offer, free=free, free_tasks=offer.free_tasks - int(held.tasks))


def candidate(task: Row[Any], now_us: int) -> Candidate:
    """A tasks row as the matcher wants it."""
    return Candidate(
        task_id=task.id,
        requirements=Requirements.from_json(json.loads(task.requirements)),
        require=json.loads(task.require),
        paths=tuple(json.loads(task.paths)),
        waited_s=max(0, now_us - task.ready_us) / 1e6,
    )


@dataclass(frozen=True, slots=True)
class GrantLeases:
    """Lease waiting tasks to agents with room, highest priority first, then in order of submission.

    The offers are what the agents have altogether; what they hold is charged here, so two grants can't spend the same
    core. Returns the new leases.
    """

    offers: tuple[Offer, ...]

    def apply(self, tx: Tx) -> list[Leased]:
        granted: list[Leased] = []
        offers = charged(tx.connection, self.offers)
        for rows in _waiting(tx.connection):
            by_id = {row.id: row for row in rows}
            grants = matching.plan((candidate(row, tx.now_us) for row in rows), offers)
            for grant in grants:
                attempt_id = _lease(tx, by_id[grant.task_id], grant)
                granted += leases_of(tx.connection, grant.agent_id, attempt_id)
                offers = tuple(
                    matching.charge(offer, grant.resources) if offer.agent_id == grant.agent_id else offer
                    for offer in offers
                )
            if not any(offer.free_tasks > 0 and offer.free.cores > 0 for offer in offers):
                break
        for offer in offers:
            granted += _adopt_publications(tx, offer)
        return granted


def _waiting(connection: Connection) -> Iterator[list[Row[Any]]]:
    """Pages of waiting tasks, by key: what is granted meanwhile leaves the list without moving the rest."""
    in_line = select(tasks).where(tasks.c.state == TaskState.PENDING)
    page = in_line
    while rows := list(connection.execute(page.order_by(tasks.c.priority.desc(), tasks.c.seq).limit(LOOK_AHEAD))):
        yield rows
        last = rows[-1]
        page = in_line.where(
            or_(
                tasks.c.priority < last.priority,
                and_(tasks.c.priority == last.priority, tasks.c.seq > last.seq),
            )
        )


def _lease(tx: Tx, task: Row[Any], grant: Grant) -> AttemptId:
    attempt_id = AttemptId(f"{task.id}.{task.attempts_made + 1}-{secrets.token_hex(4)}")
    tx.connection.execute(
        attempts.insert().values(
            tenant=task.tenant,
            id=attempt_id,
            task_id=task.id,
            job_id=task.job_id,
            holder=grant.agent_id,
            agent_id=grant.agent_id,
            number=task.attempts_made + 1,
            state="leased",
            alternative=grant.alternative,
            cores=grant.resources.cores,
            memory_bytes=grant.resources.memory_bytes,
            scratch_bytes=grant.resources.scratch_bytes,
            queue_wait_us=tx.now_us - task.ready_us,
            leased_us=tx.now_us,
        )
    )
    tx.connection.execute(
        update(jobs)
        .where(jobs.c.tenant == task.tenant, jobs.c.id == task.job_id)
        .values(attempt_count=jobs.c.attempt_count + 1)
    )
    move(
        tx,
        task,
        TaskEvent.LEASE,
        Happened("leased", attempt_id=attempt_id, agent_id=grant.agent_id),
        attempt_id=attempt_id,
        attempts_made=task.attempts_made + 1,
    )
    return attempt_id


def _adopt_publications(tx: Tx, offer: Offer) -> list[Leased]:
    """Give publications whose agent was lost to an agent that reaches the same places; the attempt stays the same."""
    orphans = tx.connection.execute(
        select(tasks)
        .join(attempts, (attempts.c.tenant == tasks.c.tenant) & (attempts.c.id == tasks.c.attempt_id))
        .where(tasks.c.state == TaskState.PUBLISHING, attempts.c.holder == "")
        .limit(LOOK_AHEAD)
    ).all()
    leased: list[Leased] = []
    for task in orphans:
        if not all(matching.beneath(path, offer.media_roots) for path in json.loads(task.paths)):
            continue
        tx.connection.execute(
            update(attempts)
            .where(attempts.c.tenant == task.tenant, attempts.c.id == task.attempt_id)
            .values(holder=offer.agent_id)
        )
        state = tx.connection.execute(
            select(jobs.c.state).where(jobs.c.tenant == task.tenant, jobs.c.id == task.job_id)
        ).scalar_one()
        happened = Happened("publication_adopted", attempt_id=task.attempt_id, agent_id=offer.agent_id)
        append_event(tx, task.tenant, task.job_id, state, task.id, happened)
        leased += leases_of(tx.connection, offer.agent_id, task.attempt_id)
    return leased
