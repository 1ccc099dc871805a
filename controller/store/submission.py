"""Storing jobs: all of a request or none, once for each request id."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.core.states import JobState, TaskState
from controller.store import tables, topics
from controller.store.lanes import Grounds, grounds, lane_of, store_lanes
from controller.store.tables import JobId, Tenant, requests
from controller.store.work import JobKey, failure, work
from controller.store.writer import Tx
from presets.reasons import Reason

MAIN = "main"
"""Name of the task that a job begins with."""


class RequestIdReused(Exception):
    """Another request was made under the same id."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated, resolved job of one task. `after` are ids of jobs that exist."""

    kind: str
    task_kind: str
    queue: str
    priority: int
    max_attempts: int
    preset: str
    preset_digest: str
    labels: Mapping[str, str]
    require: str
    spec: bytes
    intent: str
    texts: Mapping[str, str]
    class_key: str
    requirements: str
    paths: str
    verbose: bool
    hold: bool = False
    after: tuple[str, ...] = ()
    after_any_end: bool = False
    not_before_us: int | None = None
    timeout_us: int | None = None
    deadline_us: int | None = None
    replay_of: str = ""
    pinned_inputs: str = ""
    deposits: str | None = None


class Submitted(list[JobId]):
    """Ids in the order of the request. `created_us`: when they were stored; None: by an earlier, equal request."""

    def __init__(self, ids: Iterable[JobId], created_us: int | None) -> None:
        super().__init__(ids)
        self.created_us = created_us


@dataclass(frozen=True, slots=True)
class Submit:
    """Store jobs. Returns their ids; those of the first request where `request_id` was seen before.

    Raises RequestIdReused.
    """

    tenant: Tenant
    new: tuple[NewJob, ...]
    request_id: str
    digest: str

    @property
    def weight(self) -> int:
        return 3 * len(self.new)

    def apply(self, tx: Tx) -> Submitted:
        [result] = self.apply_all(tx, [self])
        if isinstance(result, Exception):
            raise result
        return result

    @classmethod
    def apply_all(cls, tx: Tx, commands: Sequence[Submit]) -> list[Submitted | RequestIdReused]:
        """The ids, or the refusal, for each."""
        before = remembered(tx, [(c.tenant, c.request_id) for c in commands if c.request_id])
        rows = _Rows()
        results: list[Submitted | RequestIdReused] = []
        now = grounds(tx)
        for command in commands:
            key = (command.tenant, command.request_id)
            known = before.get(key) if command.request_id else None
            if known is not None:
                digest, ids = known
                results.append(Submitted(ids, None) if digest == command.digest else RequestIdReused())
                continue
            ids = [rows.add(tx, command.tenant, new, now) for new in command.new]
            results.append(Submitted(ids, tx.now_us))
            if command.request_id:
                before[key] = (command.digest, ids)
                rows.requests.append(to_remember(tx, *key, command.digest, ids))
        rows.write(tx)
        return results


def to_remember(tx: Tx, tenant: str, request_id: str, digest: str, ids: Sequence[JobId]) -> dict[str, Any]:
    """The row of `requests` by which a repeat of a request is known."""
    return {
        "tenant": tenant,
        "request_id": request_id,
        "digest": digest,
        "job_ids": json.dumps(ids),
        "created_us": tx.now_us,
    }


def remembered(tx: Tx, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, list[JobId]]]:
    """Of (tenant, request id) those that were seen before, each with its digest and the jobs it led to."""
    if not keys:
        return {}
    clause, values = tx.database.any_of("request_id", "ids", sorted({request_id for _, request_id in keys}))
    rows = tx.rows(f"SELECT tenant, request_id, digest, job_ids FROM requests WHERE {clause}", **values)  # noqa: S608
    return {(row.tenant, row.request_id): (row.digest, json.loads(row.job_ids)) for row in rows}


@dataclass(slots=True)
class _Rows:
    jobs: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    edges: list[dict[str, Any]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    lanes: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    dependent: list[JobKey] = field(default_factory=list)

    def add(self, tx: Tx, tenant: Tenant, new: NewJob, now: Grounds) -> JobId:
        # Rising, so that rows written together stand together in every index: random ones would dirty a page each.
        job_id = JobId(f"{tx.ticket():016x}")
        ready_us = max(tx.now_us, new.not_before_us or 0)
        state = _first_state(tx, new)
        job_state = JobState.HELD if new.hold else _JOB_STATES[state]
        self.texts.update(new.texts)
        self.jobs.append(
            {
                "seq": tx.ticket(),
                "tenant": tenant,
                "id": job_id,
                "kind": new.kind,
                "state": str(job_state),
                "queue": new.queue,
                "preset": new.preset,
                "preset_digest": new.preset_digest,
                "labels": json.dumps(dict(new.labels)),
                "spec": new.spec,
                "intent": new.intent,
                "verbose": new.verbose,
                "max_attempts": new.max_attempts,
                "held": new.hold,
                "cancel_requested": False,
                "waits_for": len(new.after),
                "after_any_end": new.after_any_end,
                "not_before_us": new.not_before_us,
                "timeout_us": new.timeout_us,
                "expires_us": new.deadline_us,
                "replay_of": new.replay_of,
                "pinned_inputs": new.pinned_inputs,
                "attempt_count": 0,
                "event_count": 1,
                "reason": "",
                "created_us": tx.now_us,
                "deposits": new.deposits,
            }
        )
        task_id = f"{job_id}-1"
        self.tasks.append(
            {
                "seq": tx.ticket(),
                "tenant": tenant,
                "id": task_id,
                "job_id": job_id,
                "name": MAIN,
                "kind": new.task_kind,
                "state": str(state),
                "lane": self._lane(tenant, new, now),
                "priority": new.priority,
                "requirements": new.requirements,
                "require": new.require,
                "paths": new.paths,
                "waits_for": 0,
                "after": "[]",
                "attempts_used": 0,
                "attempts_made": 0,
                "agents_lost": 0,
                "avoid": "[]",
                "ready_us": ready_us,
                "attempt_id": "",
            }
        )
        self.events.append(
            {
                "cursor": tx.ticket(),
                "tenant": tenant,
                "job_id": job_id,
                "sequence": 1,
                "at_us": tx.now_us,
                "job_state": str(job_state),
                "task_id": task_id,
                "type": "submitted",
                "attempt_id": "",
                "agent_id": "",
                "reason": "",
                "message": f"replays {new.replay_of}" if new.replay_of else "",
            }
        )
        if new.after:
            self.dependent.append((tenant, job_id))
            self.edges += [{"tenant": tenant, "parent_id": parent, "child_id": job_id} for parent in new.after]
        return job_id

    def _lane(self, tenant: Tenant, new: NewJob, now: Grounds) -> str:
        # Most jobs of a request have one lane; finding it costs more than all the rest.
        labels = tuple(sorted(new.labels.items())) if now.limits else ()
        folders = new.paths if now.roots - {"/"} or "://" in new.paths else ""
        alike = (tenant, new.queue, new.priority, new.preset, labels, new.class_key, new.require, folders)
        facts = self.lanes.get(alike)
        if facts is None:
            facts = self.lanes[alike] = lane_of(
                now,
                tenant=tenant,
                queue=new.queue,
                priority=new.priority,
                preset=new.preset,
                labels=new.labels,
                class_key=new.class_key,
                require=new.require,
                paths=new.paths,
            )
        return str(facts.key)

    def write(self, tx: Tx) -> None:
        if not self.jobs:
            return
        store_lanes(tx, self.lanes.values())
        insert, connection = tx.database.insert, tx.connection
        texts = [{"digest": digest, "text": text} for digest, text in sorted(self.texts.items())]
        insert(connection, tables.texts, texts, if_new=True)
        insert(connection, tables.jobs, self.jobs)
        insert(connection, tables.tasks, self.tasks)
        insert(connection, tables.events, self.events)
        insert(connection, tables.job_edges, self.edges)
        insert(connection, requests, self.requests)
        tx.events += [{**event, "ended": False, "since_us": 0} for event in self.events]
        tx.changed |= {topics.DISPATCH, topics.JOBS}
        tx.changed.update(topics.job(JobId(event["job_id"])) for event in self.events)
        if self.dependent:
            self._depend(tx)

    def _depend(self, tx: Tx) -> None:
        """Settle what waits for jobs that may have ended already."""
        parents: defaultdict[JobKey, list[JobKey]] = defaultdict(list)
        for edge in self.edges:
            parents[edge["tenant"], edge["child_id"]].append((edge["tenant"], edge["parent_id"]))
        with work(tx) as unit:
            unit.lock([*_all(parents.values()), *self.dependent])
            unit.count_dependencies(self.dependent)
            for key in self.dependent:
                child = unit.jobs[key]
                failed = [
                    unit.jobs[parent]
                    for parent in parents[key]
                    if parent in unit.jobs and unit.jobs[parent].state in (JobState.DEAD, JobState.CANCELLED)
                ]
                if failed and not child.after_any_end:
                    why = f"job {failed[0].id}, which it waits for, is {failed[0].state}"
                    unit.kill(child, failure(Reason.DEPENDENCY_FAILED, why))
                    continue
                for task in list(unit.tasks_of(child)):
                    unit.unblock(task)


_JOB_STATES = {
    TaskState.BLOCKED: JobState.BLOCKED,
    TaskState.HELD: JobState.HELD,
    TaskState.SCHEDULED: JobState.PENDING,
    TaskState.PENDING: JobState.PENDING,
}


def _first_state(tx: Tx, new: NewJob) -> TaskState:
    if new.after:
        return TaskState.BLOCKED
    if new.hold:
        return TaskState.HELD
    if new.not_before_us is not None and new.not_before_us > tx.now_us:
        return TaskState.SCHEDULED
    return TaskState.PENDING


def _all(lists: Iterable[list[JobKey]]) -> list[JobKey]:
    return [key for keys in lists for key in keys]
