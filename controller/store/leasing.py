"""Granting tasks to agents: one transaction looks at the heads of the lanes, asks the matcher and writes the leases."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from sqlalchemy import text

from controller.core import fitting, matching
from controller.core.fairness import ShareKey, Shares, Standing
from controller.core.fitting import Grant, Offer
from controller.core.matching import Feasibility, Lane, Rules
from controller.core.states import TaskEvent, TaskState
from controller.store import tables
from controller.store.draining import drained
from controller.store.lanes import known_lanes
from controller.store.leases import Leased, leased_of, leases_of
from controller.store.room import absent, blocked, charged, room
from controller.store.tables import AttemptId, attempts
from controller.store.waiting import Line
from controller.store.work import NONE, Happened, Work
from controller.store.writer import Tx

MOST_GRANTS = 512
"""In one transaction; more follow at once."""
DEFAULT_COST = 30.0
"""Core-seconds of a task of a class that none has completed of yet."""
ORPHANS = 64


@dataclass(frozen=True, slots=True)
class GrantLeases:
    """Lease waiting tasks to agents with room.

    The offers are what the agents have altogether; what they hold is charged here, so two grants can't spend the same
    core, and those that a person drains are left out. Returns the new leases; as many as `MOST_GRANTS` mean that there
    may be more.
    """

    offers: tuple[Offer, ...]
    rules: Rules
    feasibility: Feasibility

    locks_scheduling: ClassVar[bool] = True

    def apply(self, tx: Tx) -> list[Leased]:
        tx.database.lock_scheduling(tx.connection)
        line = Line(tx)
        lanes = line.lanes()
        away = drained(tx)
        offers = tuple(offer for offer in self.offers if offer.agent_id not in away)
        # First: what an agent takes up here is charged before it is granted anything else.
        granted = _adopt_publications(tx, offers)
        if lanes:
            granted += self._grant(tx, line, lanes, charged(tx.connection, tx.database, offers))
        return granted

    def _grant(self, tx: Tx, line: Line, lanes: list[Lane], offers: tuple[Offer, ...]) -> list[Leased]:
        before = _standings(tx)
        shares = Shares(before)
        shares.enter({lane.share for lane in lanes})
        costs = {row.class_key: row.cost for row in tx.rows("SELECT class_key, cost FROM classes")}

        def cost(class_key: str) -> float:
            return float(costs.get(class_key, DEFAULT_COST))

        grants = matching.plan(
            lanes,
            offers,
            shares=shares,
            room=room(tx, lanes),
            costs=cost,
            blocked=blocked(tx.connection, tx.database, tx.now_us),
            absent=partial(absent, tx, frozenset(offer.agent_id for offer in self.offers)),
            rules=self.rules,
            feasibility=self.feasibility,
            most=MOST_GRANTS,
        )
        leased = _lease(tx, line, grants, {offer.agent_id: offer.revision for offer in offers}, cost) if grants else []
        changed = shares.changed()
        if len(leased) < len(grants):
            taken = {lease.task_id for lease in leased}
            _refund(changed, lanes, [line.lane_keys[g.task_id] for g in grants if g.task_id not in taken], cost)
        _write_standings(tx, before, changed)
        return leased


def _standings(tx: Tx) -> dict[ShareKey, Standing]:
    return {
        (row.tenant, row.queue): Standing(row.weight, row.passed, row.virtual_time, bool(row.active))
        for row in tx.rows("SELECT tenant, queue, weight, passed, virtual_time, active FROM shares")
    }


def _refund(
    standings: Mapping[ShareKey, Standing], lanes: Iterable[Lane], left_out: Iterable[str], cost: Callable[[str], float]
) -> None:
    """Take back what tasks of these lanes were charged that were planned and not leased."""
    by_key = {lane.key: lane for lane in lanes}
    for lane in (by_key[key] for key in left_out):
        for share in ((lane.share[0], ""), lane.share):
            # What costs nothing so far leaves a standing as it was.
            if (standing := standings.get(share)) is not None:
                standing.passed -= cost(lane.class_key) / standing.weight


_ADVANCE = (
    "UPDATE shares SET passed = passed + :gained, virtual_time = :virtual_time, active = :active"
    " WHERE tenant = :tenant AND queue = :queue"
)
"""Added to what stands there: other controllers correct it meanwhile, without the lock of those who grant."""


def _write_standings(tx: Tx, before: Mapping[ShareKey, Standing], changed: Mapping[ShareKey, Standing]) -> None:
    new: list[dict[str, Any]] = []
    known: list[dict[str, Any]] = []
    for (tenant, queue), standing in sorted(changed.items()):
        row = {"tenant": tenant, "queue": queue, "virtual_time": standing.virtual_time, "active": standing.active}
        former = before.get((tenant, queue))
        if former is None:
            new.append({**row, "weight": standing.weight, "passed": standing.passed})
        else:
            known.append({**row, "gained": standing.passed - former.passed})
    tx.database.insert(tx.connection, tables.shares, new, if_new=True)
    for row in known:
        tx.database.execute(tx.connection, _ADVANCE, row)


def _lease(
    tx: Tx, line: Line, grants: Collection[Grant], revisions: Mapping[str, str], cost: Callable[[str], float]
) -> list[Leased]:
    """Write the leases of a plan. Tasks that were moved since they were looked at are left out."""
    unit = Work(tx)
    unit.lock({line.job_keys[grant.task_id] for grant in grants}, skip_locked=True)
    facts = known_lanes(tx, {task.lane for task in unit.tasks.values()})
    rows: list[dict[str, Any]] = []
    counted: dict[str, int] = {}
    for grant in grants:
        task = unit.tasks.get(grant.task_id)
        if task is None or task.state != TaskState.PENDING:
            continue
        lane = facts[task.lane]
        job = unit.job_of(task)
        number = task.attempts_made + 1
        attempt_id = AttemptId(f"{task.id}.{number}-{secrets.token_hex(4)}")
        rows.append(
            {
                "tenant": task.tenant,
                "id": attempt_id,
                "task_id": task.id,
                "job_id": task.job_id,
                "holder": grant.agent_id,
                "agent_id": grant.agent_id,
                "number": number,
                "state": "leased",
                "alternative": grant.alternative,
                "revision": revisions[grant.agent_id],
                "cores": grant.resources.cores,
                "memory_bytes": grant.resources.memory_bytes,
                "scratch_bytes": grant.resources.scratch_bytes,
                "gpu": grant.gpu,
                "encoder_sessions": grant.resources.encoder_sessions,
                "gpu_memory_bytes": grant.resources.gpu_memory_bytes,
                "limit_keys": lane.limit_keys,
                "charged": cost(lane.class_key),
                "queue_wait_us": max(0, tx.now_us - task.ready_us),
                "leased_us": tx.now_us,
                "log_key": "",
            }
        )
        for key in json.loads(lane.limit_keys) if lane.limit_keys != NONE else ():
            counted[key] = counted.get(key, 0) + 1
        job.set(attempt_count=job.attempt_count + 1)
        happened = Happened("leased", attempt_id=attempt_id, agent_id=grant.agent_id)
        unit.move(task, TaskEvent.LEASE, happened, attempt_id=attempt_id, attempts_made=number)
    tx.database.insert(tx.connection, attempts, rows)
    unit.flush()
    _count(tx, counted)
    return leased_of(tx.connection, tx.database, rows)


def _count(tx: Tx, counted: Mapping[str, int]) -> None:
    rows = [{"key": key, "running": 0} for key in sorted(counted)]
    tx.database.insert(tx.connection, tables.limit_counts, rows, if_new=True)
    for key, count in sorted(counted.items()):
        tx.connection.execute(
            text("UPDATE limit_counts SET running = running + :count WHERE key = :key"), {"count": count, "key": key}
        )


def _adopt_publications(tx: Tx, offers: Collection[Offer]) -> list[Leased]:
    """Give publications whose agent was lost to an agent that reaches the same places; the attempt stays the same."""
    orphans = tx.rows(
        "SELECT t.tenant, t.job_id, t.paths, t.attempt_id FROM attempts a"
        " JOIN tasks t ON t.tenant = a.tenant AND t.id = a.task_id"
        " WHERE a.holder = '' AND a.state = 'publishing' AND t.state = 'PUBLISHING' AND t.attempt_id = a.id"
        " ORDER BY a.id LIMIT :most",
        most=ORPHANS,
    )
    leased: list[Leased] = []
    for orphan in orphans:
        paths = json.loads(orphan.paths)
        offer = next((o for o in offers if all(fitting.beneath(path, o.media_roots) for path in paths)), None)
        if offer is None:
            continue
        unit = Work(tx)
        unit.lock([(orphan.tenant, orphan.job_id)], skip_locked=True)
        unit.read_attempts([orphan.attempt_id])
        attempt = unit.attempts.get(orphan.attempt_id)
        task = unit.current_task(attempt) if attempt is not None else None
        if attempt is None or task is None or attempt.holder or task.state != TaskState.PUBLISHING:
            continue
        attempt.set(holder=offer.agent_id)
        happened = Happened("publication_adopted", attempt_id=attempt.id, agent_id=offer.agent_id)
        unit.note(unit.job_of(task), happened, task_id=task.id)
        unit.flush()
        leased += leases_of(tx.connection, tx.database, offer.agent_id, attempt.id)
    return leased
