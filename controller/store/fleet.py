"""Agents in the database: who they are, which session speaks for them, what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import insert, select, text, update

from controller.core.states import TaskState
from controller.store import topics
from controller.store.attempts import fail
from controller.store.draining import AgentUnknown
from controller.store.engine import AnyRow
from controller.store.leases import Leased, leases_of
from controller.store.tables import AgentId, agents, attempts, failures, meta
from controller.store.work import Work, work
from controller.store.writer import Tx
from mediactl.v1 import agent_service_pb2, job_pb2
from presets.reasons import Reason

ANYBODY = 200
"""Agents called lost in one transaction at the most."""


class AgentIdConflict(Exception):
    """Another machine that isn't lost, and was heard of `silent_s` ago, speaks under the same id."""

    def __init__(self, name: str, silent_s: float) -> None:
        super().__init__(f"the agent id is in use by {name}")
        self.name = name
        self.silent_s = silent_s


class AgentNotLost(Exception):
    """It may hold attempts, and come back with them."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not lost")
        self.name = name


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a new session must be told."""

    epoch: int
    incarnation: str
    leases: tuple[Leased, ...]
    stops: tuple[agent_service_pb2.Stop, ...]
    quarantined: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Register:
    """Begin a session: take the next epoch, then hold what the agent says it holds against what it was granted.

    * granted and held: goes on;
    * granted, never begun, not held: leased again, it is the same attempt;
    * begun and not held: lost with the agent's former life;
    * publishing and not held: leased again with its redo records, to be finished;
    * a publication left without a holder: taken up again by the agent that still holds it;
    * held and not granted: stopped, and only what the database calls ended may lose what it staged;
    * held, unknown, and granted by another incarnation of the database: quarantined, neither stopped nor accepted.

    `held` is each attempt with the incarnation that granted it. Raises AgentIdConflict.
    """

    agent_id: AgentId
    instance_id: str
    name: str
    version: str
    labels: str
    capabilities: str
    media_roots: str
    revision: str
    held: Mapping[str, str]
    jitter: float

    def apply(self, tx: Tx) -> Reconciled:
        epoch = self._take_epoch(tx)
        incarnation = tx.connection.execute(select(meta.c.value).where(meta.c.key == "incarnation")).scalar_one()
        granted = tx.connection.scalars(select(attempts.c.id).where(attempts.c.holder == self.agent_id)).all()
        resend: list[str] = []
        stops: list[agent_service_pb2.Stop] = []
        quarantined: list[str] = []
        with work(tx) as unit:
            unit.lock_attempts({*granted, *self.held})
            self._take_up_publications(unit)
            for attempt in sorted(unit.attempts.values(), key=lambda one: one.id):
                if attempt.holder == self.agent_id:
                    self._compare(unit, attempt.id, resend, stops)
            for attempt_id in sorted(self.held):
                known = unit.attempts.get(attempt_id)
                if known is not None and known.holder == self.agent_id:
                    continue
                if known is None and self.held[attempt_id] not in ("", incarnation):
                    quarantined.append(attempt_id)
                    continue
                task = unit.tasks.get(known.task_id) if known is not None else None
                elsewhere = task is not None and task.attempt_id == attempt_id and task.state == TaskState.PUBLISHING
                stops.append(
                    agent_service_pb2.Stop(attempt_id=attempt_id, reason=Reason.PUBLISH_REFUSED, leave_staged=elsewhere)
                )
        leases = leases_of(tx.connection, tx.database, self.agent_id, *resend) if resend else []
        tx.changed |= {topics.DISPATCH, topics.FLEET}
        return Reconciled(epoch, incarnation, tuple(leases), tuple(stops), tuple(quarantined))

    def _compare(self, unit: Work, attempt_id: str, resend: list[str], stops: list[agent_service_pb2.Stop]) -> None:
        attempt = unit.attempts[attempt_id]
        task = unit.current_task(attempt)
        if attempt.stop_reason is not None:
            stops.append(agent_service_pb2.Stop(attempt_id=attempt.id, reason=attempt.stop_reason))
        elif task is None or attempt.id in self.held:
            return
        elif task.state == TaskState.RUNNING:
            gone = job_pb2.Failure(
                reason=Reason.AGENT_LOST, message=f"agent {self.name} restarted and lost the attempt"
            )
            fail(unit, attempt, task, gone, self.jitter, {}, state="lost")
        else:
            resend.append(attempt.id)

    def _take_up_publications(self, unit: Work) -> None:
        for attempt_id in self.held:
            attempt = unit.attempts.get(attempt_id)
            task = unit.current_task(attempt) if attempt is not None else None
            if attempt is not None and task is not None and not attempt.holder and task.state == TaskState.PUBLISHING:
                attempt.set(holder=self.agent_id)

    def _take_epoch(self, tx: Tx) -> int:
        row = tx.connection.execute(select(agents).where(agents.c.id == self.agent_id).with_for_update()).one_or_none()
        values: dict[str, object] = {
            "instance_id": self.instance_id,
            "name": self.name,
            "version": self.version,
            "labels": self.labels,
            "capabilities": self.capabilities,
            "media_roots": self.media_roots,
            "revision": self.revision,
            "lost": False,
            "last_seen_us": tx.now_us,
            # What its former session said is over; this one is about to say what it has against work.
            "drain_reason": "",
        }
        self._notice_roots(tx, row)
        if row is None:
            # Above those of any agent of this id that was removed: nobody speaks for it any more.
            epoch = tx.ticket()
            tx.connection.execute(
                insert(agents).values(id=self.agent_id, epoch=epoch, draining=False, created_us=tx.now_us, **values)
            )
            return epoch
        if row.instance_id != self.instance_id and not row.lost:
            raise AgentIdConflict(row.name, (tx.now_us - row.last_seen_us) / 1e6)
        if row.revision != self.revision:
            # What failed there may work now.
            tx.connection.execute(failures.delete().where(failures.c.agent_id == self.agent_id))
        tx.connection.execute(update(agents).where(agents.c.id == self.agent_id).values(epoch=row.epoch + 1, **values))
        return int(row.epoch) + 1

    def _notice_roots(self, tx: Tx, row: AnyRow | None) -> None:
        """Lanes tell tasks apart by the roots that are declared: new ones make new lanes."""
        if row is not None and row.media_roots == self.media_roots and not row.lost:
            return
        known = tx.connection.execute(
            select(agents.c.id).where(agents.c.media_roots == self.media_roots, agents.c.lost.is_(False)).limit(1)
        ).first()
        if known is None:
            tx.changed.add(topics.RELANE)


class Sign(NamedTuple):
    """An agent's session was heard `ago_us` ago; why the agent takes no new work, if it said so."""

    agent_id: AgentId
    epoch: int
    ago_us: int
    drain_reason: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What sessions heard. Epochs that were superseded write nothing.

    A sign of life is written where the last one is older than `resolution_us`, so that idle agents cost few commits;
    a new reason to take no work, at once. Returns the agents and epochs that were superseded: their streams must end,
    for an agent that only reports its status would never learn that it was called lost.
    """

    signs: tuple[Sign, ...]
    resolution_us: int

    def apply(self, tx: Tx) -> list[tuple[AgentId, int]]:
        clause, values = tx.database.any_of("id", "ids", sorted(sign.agent_id for sign in self.signs))
        sql = f"SELECT id, epoch, last_seen_us, drain_reason FROM agents WHERE {clause}"  # noqa: S608
        known = {row.id: row for row in tx.rows(sql, **values)}
        changes: list[dict[str, object]] = []
        superseded: list[tuple[AgentId, int]] = []
        for sign in sorted(self.signs):
            row, seen_us = known.get(sign.agent_id), tx.now_us - sign.ago_us
            if row is None or row.epoch != sign.epoch:
                superseded.append((sign.agent_id, sign.epoch))
                continue
            news = (row.drain_reason or "") != sign.drain_reason
            if news or row.last_seen_us < seen_us - self.resolution_us:
                changes.append(
                    {
                        "last_seen_us": max(row.last_seen_us, seen_us),
                        "drain_reason": sign.drain_reason,
                        "id": row.id,
                        "epoch": row.epoch,
                    }
                )
            if news:
                tx.changed.add(topics.FLEET)
        tx.database.update(tx.connection, agents, ("id", "epoch"), changes)
        return superseded


@dataclass(frozen=True, slots=True)
class ExpireAgents:
    """Take the attempts of agents that were not heard of for `silent_us`, by the database's clock.

    Publications are not ended: they are left without a holder, for any agent to finish.
    """

    silent_us: int
    jitter: float

    def apply(self, tx: Tx) -> list[AgentId]:
        """Returns whom it called lost."""
        silent = tx.connection.execute(
            text(
                "UPDATE agents SET lost = true, epoch = epoch + 1 WHERE id IN ("  # noqa: S608 - of the engine's own text
                "SELECT id FROM agents WHERE lost = false AND last_seen_us < :before ORDER BY id LIMIT :most"
                + tx.database.skip_locked
                + ") RETURNING id, name"
            ),
            {"before": tx.now_us - self.silent_us, "most": ANYBODY},
        ).all()
        if not silent:
            return []
        names = {row.id: row.name for row in silent}
        clause, values = tx.database.any_of("holder", "holders", sorted(names))
        held = tx.rows(f"SELECT id FROM attempts WHERE holder <> '' AND {clause}", **values)  # noqa: S608
        with work(tx) as unit:
            unit.lock_attempts({row.id for row in held})
            for attempt in sorted(unit.attempts.values(), key=lambda one: one.id):
                task = unit.current_task(attempt)
                if task is None or attempt.holder not in names:
                    continue
                if task.state == TaskState.PUBLISHING:
                    attempt.set(holder="")
                    tx.changed.add(topics.DISPATCH)
                else:
                    lost = job_pb2.Failure(
                        reason=Reason.AGENT_LOST,
                        message=f"agent {names[attempt.holder]} was not heard of for too long",
                    )
                    fail(unit, attempt, task, lost, self.jitter, {}, state="lost")
        tx.changed.add(topics.FLEET)
        return [AgentId(agent_id) for agent_id in names]


@dataclass(frozen=True, slots=True)
class RemoveAgent:
    """Forget an agent that is lost; what it did stays in the attempts. Raises AgentUnknown or AgentNotLost."""

    agent_id: AgentId

    def apply(self, tx: Tx) -> None:
        row = tx.connection.execute(
            select(agents.c.name, agents.c.lost).where(agents.c.id == self.agent_id).with_for_update()
        ).one_or_none()
        if row is None:
            raise AgentUnknown
        if not row.lost:
            raise AgentNotLost(row.name)
        tx.connection.execute(agents.delete().where(agents.c.id == self.agent_id))
        tx.connection.execute(failures.delete().where(failures.c.agent_id == self.agent_id))
        tx.changed.add(topics.FLEET)
