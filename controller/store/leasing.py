"""Granting tasks to agents: one transaction looks at the heads of the lanes, asks the matcher and writes the leases."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

from sqlalchemy import Connection, select, text

from controller.core import fitting, matching
from controller.core.fairness import ShareKey, Shares, Standing
from controller.core.fitting import Candidate, Grant, Offer
from controller.core.limits import limit_of
from controller.core.matching import Feasibility, Lane, Rules
from controller.core.retries import BLOCK_S
from controller.core.states import TaskEvent, TaskState
from controller.offers import stored_offer
from controller.store import tables
from controller.store.draining import drained
from controller.store.engine import AnyRow, Database
from controller.store.lanes import known_lanes
from controller.store.tables import AgentId, AttemptId, JobId, TaskId, attempts, texts
from controller.store.work import NONE, Happened, Work
from controller.store.writer import Tx
from presets.capabilities import Requirements

PAGE = 128
"""How many tasks of a lane are read in one go."""
MOST_GRANTS = 512
"""In one transaction; more follow at once."""
DEFAULT_COST = 30.0
"""Core-seconds of a task of a class that none has completed of yet."""
ORPHANS = 64


@dataclass(frozen=True, slots=True)
class Leased:
    """All that a Lease frame says."""

    agent_id: AgentId
    attempt_id: AttemptId
    task_id: TaskId
    job_id: JobId
    task_kind: str
    intent: str
    texts: Mapping[str, str]
    requirements: str
    revision: str
    cores: int
    memory_bytes: int
    scratch_bytes: int
    gpu: int | None
    encoder_sessions: int
    verbose: bool
    redo: bytes | None
    pinned_inputs: str
    queue: str = ""
    queue_wait_s: float = 0.0


def leases_of(connection: Connection, database: Database, agent_id: str, *attempt_ids: str) -> list[Leased]:
    """The open leases of an agent, or those of them that are named."""
    query = select(attempts).where(attempts.c.holder == agent_id, text("holder <> ''"))
    if attempt_ids:
        query = query.where(attempts.c.id.in_(attempt_ids))
    return _leased(connection, database, [dict(row._mapping) for row in connection.execute(query)])


def _leased(connection: Connection, database: Database, found: Sequence[Mapping[str, Any]]) -> list[Leased]:
    """Leases of rows of `attempts`, in their order."""
    of_job: dict[tuple[str, str], tuple[Any, ...]] = {}
    of_task: dict[tuple[str, str], tuple[Any, ...]] = {}
    for tenant in {row["tenant"] for row in found}:
        mine = [row for row in found if row["tenant"] == tenant]
        for part, source, key in ((of_job, _JOBS, "job_id"), (of_task, _TASKS, "task_id")):
            clause, values = database.any_of("id", "ids", sorted({row[key] for row in mine}))
            sql = f"{source} WHERE tenant = :tenant AND {clause}"
            for whole in database.fetch(connection, sql, {"tenant": tenant, **values}):
                part[tenant, whole[0]] = whole
    chosen: dict[tuple[str, int], str] = {}
    leased = []
    for row in found:
        _, intent, verbose, pinned_inputs, queue = of_job[row["tenant"], row["job_id"]]
        _, kind, own_intent, requirements, redo = of_task[row["tenant"], row["task_id"]]
        needs = (requirements, row["alternative"])
        if needs not in chosen:
            chosen[needs] = _chosen(*needs)
        leased.append(
            Leased(
                agent_id=AgentId(row["holder"]),
                attempt_id=AttemptId(row["id"]),
                task_id=TaskId(row["task_id"]),
                job_id=JobId(row["job_id"]),
                task_kind=kind,
                intent=own_intent or intent,
                texts=_texts(connection, _references(own_intent or intent), database.texts),
                requirements=chosen[needs],
                revision=row["revision"],
                cores=row["cores"],
                memory_bytes=row["memory_bytes"],
                scratch_bytes=row["scratch_bytes"],
                gpu=row["gpu"],
                encoder_sessions=row["encoder_sessions"],
                verbose=bool(verbose),
                redo=redo,
                pinned_inputs=pinned_inputs,
                queue=queue,
                queue_wait_s=row["queue_wait_us"] / 1e6,
            )
        )
    return leased


_JOBS = 'SELECT id, intent, "verbose", pinned_inputs, queue FROM jobs'
_TASKS = "SELECT id, kind, intent, requirements, redo FROM tasks"


def _texts(connection: Connection, digests: Sequence[str], memo: dict[str, str]) -> Mapping[str, str]:
    unknown = [digest for digest in digests if digest not in memo]
    if unknown:
        rows = connection.execute(select(texts).where(texts.c.digest.in_(unknown)))
        memo.update((row.digest, row.text) for row in rows)
    return {digest: memo[digest] for digest in digests if digest in memo}


_reference = re.compile(r'"(?:preset|profile)": "([0-9a-f]{64})"')


def _references(intent: str) -> list[str]:
    """Which texts an intent stands on."""
    return _reference.findall(intent)


def _chosen(requirements: str, alternative: int) -> str:
    whole = Requirements.from_json(json.loads(requirements))
    return json.dumps(Requirements((whole.alternatives[alternative],)).to_json())


_HELD = (
    "SELECT holder, gpu, count(*) AS tasks, sum(cores) AS cores, sum(memory_bytes) AS memory,"
    " sum(scratch_bytes) AS scratch, sum(encoder_sessions) AS sessions, sum(gpu_memory_bytes) AS gpu_memory"
    " FROM attempts WHERE holder <> '' GROUP BY holder, gpu"
)


def charged(connection: Connection, database: Database, offers: Collection[Offer]) -> tuple[Offer, ...]:
    """The offers less what their agents hold already."""
    taken: dict[str, list[AnyRow]] = {}
    for row in database.rows(connection, _HELD):
        taken.setdefault(row.holder, []).append(row)
    return tuple(_less(offer, taken[offer.agent_id]) if offer.agent_id in taken else offer for offer in offers)


def _less(offer: Offer, held: Iterable[AnyRow]) -> Offer:
    free, places = offer.free, offer.free_tasks
    gpus = {gpu.index: gpu for gpu in offer.gpus}
    for row in held:
        free = replace(
            free,
            cores=free.cores - int(row.cores),
            memory_bytes=free.memory_bytes - int(row.memory),
            # What is free on the disk is measured, and what was fetched so far is in the measure: this errs to caution.
            scratch_bytes=free.scratch_bytes - int(row.scratch),
        )
        places -= int(row.tasks)
        if row.gpu is not None and row.gpu in gpus:
            gpu = gpus[row.gpu]
            gpus[row.gpu] = replace(
                gpu,
                sessions=gpu.sessions - int(row.sessions),
                memory_bytes=gpu.memory_bytes - int(row.gpu_memory),
            )
    return replace(offer, free=free, free_tasks=places, gpus=tuple(gpus.values()))


_NOTHING: Mapping[str, str] = MappingProxyType({})
_NOBODY: frozenset[str] = frozenset()


def candidate(task: Any, now_us: int) -> Candidate:
    """A tasks row as the matcher wants it."""
    return Candidate(
        task_id=task.id,
        requirements=_requirements(task.requirements),
        require=json.loads(task.require) if task.require != "{}" else _NOTHING,
        paths=tuple(json.loads(task.paths)),
        waited_s=max(0, now_us - task.ready_us) / 1e6,
        avoid=frozenset(json.loads(task.avoid)) if task.avoid != NONE else _NOBODY,
    )


_parsed: dict[str, Requirements] = {}


def _requirements(document: str) -> Requirements:
    # Few different ones exist however long the line is.
    found = _parsed.get(document)
    if found is None:
        if len(_parsed) > 1000:
            _parsed.clear()
        found = _parsed[document] = Requirements.from_json(json.loads(document))
    return found


_HEADS = """
    WITH RECURSIVE line(lane) AS (
        SELECT min(lane) FROM tasks WHERE state = 'PENDING'
        UNION ALL
        SELECT (SELECT min(lane) FROM tasks WHERE state = 'PENDING' AND lane > line.lane)
        FROM line WHERE line.lane IS NOT NULL
    )
    SELECT lane,
        (SELECT ready_us FROM tasks WHERE state = 'PENDING' AND lane = line.lane ORDER BY seq LIMIT 1) AS ready_us
    FROM line WHERE lane IS NOT NULL
"""
"""Every lane that has waiting tasks, with the time since when its head waits: an index probe for each, whatever stands
behind the heads (a "loose index scan")."""

_PAGE = (
    "SELECT tenant, id, job_id, requirements, require, paths, avoid, ready_us, seq FROM tasks"
    " WHERE state = 'PENDING' AND lane = :lane AND seq > :after ORDER BY seq LIMIT :most"
)


@dataclass(slots=True)
class Line:
    """The waiting tasks as lanes; tasks are read when the matcher comes to them."""

    tx: Tx
    job_keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    lane_keys: dict[str, str] = field(default_factory=dict)

    def lanes(self) -> list[Lane]:
        heads = self.tx.rows(_HEADS)
        facts = known_lanes(self.tx, [row.lane for row in heads])
        return [
            Lane(
                key=row.lane,
                class_key=one.class_key,
                feasibility_key=one.feasibility_key,
                share=(one.tenant, one.queue),
                priority=one.priority,
                limit_keys=tuple(json.loads(one.limit_keys)),
                head_waited_s=max(0, self.tx.now_us - row.ready_us) / 1e6,
                tasks=self._tasks(row.lane),
            )
            for row in heads
            if (one := facts.get(row.lane)) is not None
        ]

    def _tasks(self, lane: str) -> Iterator[Candidate]:
        after, most = -1, 4
        while rows := self.tx.rows(_PAGE, lane=lane, after=after, most=most):
            for row in rows:
                self.job_keys[row.id] = (row.tenant, row.job_id)
                self.lane_keys[row.id] = lane
                yield candidate(row, self.tx.now_us)
            if len(rows) < most:
                return
            after, most = rows[-1].seq, PAGE


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


def room(tx: Tx, lanes: Iterable[Lane]) -> dict[str, int]:
    """What is left under each limit that these lanes count against."""
    maxima = {row.key: row.maximum for row in tx.rows("SELECT key, maximum FROM limits")}
    if not maxima:
        return {}
    running = {row.key: row.running for row in tx.rows("SELECT key, running FROM limit_counts")}
    keys = {key for lane in lanes for key in lane.limit_keys if limit_of(key) in maxima}
    return {key: maxima[limit_of(key)] - running.get(key, 0) for key in keys}


_TAKES_WORK = "lost = false AND draining = false AND (drain_reason IS NULL OR drain_reason = '')"


def absent(tx: Tx, here: frozenset[str]) -> Collection[Offer]:
    """Agents that are not `here` and may be offered before long: other controllers', those that just went silent,
    those that come back after a restart of this one.
    """
    memo, away = tx.database.absent, set[tuple[str, str]]()
    # By the index alone: as a rule all are here, and the rows are long.
    if others := {row.id for row in tx.rows("SELECT id FROM agents")} - here:
        away = {(row.id, row.revision) for row in _agents(tx, "id, revision", others)}
    for gone in memo.keys() - away:
        del memo[gone]
    if unknown := {agent_id for agent_id, _ in away - memo.keys()}:
        rows = _agents(tx, "id, name, labels, capabilities, revision", unknown)
        memo.update(((row.id, row.revision), stored_offer(row)) for row in rows)
    return memo.values()


def _agents(tx: Tx, columns: str, ids: Collection[str]) -> Sequence[Any]:
    """Those of them that take work."""
    clause, values = tx.database.any_of("id", "ids", sorted(ids))
    return tx.rows(f"SELECT {columns} FROM agents WHERE {clause} AND {_TAKES_WORK}", **values)  # noqa: S608


def blocked(connection: Connection, database: Database, now_us: int) -> frozenset[tuple[str, str]]:
    """(agent, class) pairs at which two different tasks failed lately."""
    rows = database.rows(
        connection,
        "SELECT agent_id, class_key FROM failures WHERE at_us > :since"
        " GROUP BY agent_id, class_key HAVING count(*) >= 2",
        {"since": now_us - int(BLOCK_S * 1e6)},
    )
    return frozenset((row.agent_id, row.class_key) for row in rows)


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
    return _leased(tx.connection, tx.database, rows)


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
