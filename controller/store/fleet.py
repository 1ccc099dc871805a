"""Agents in the database: who they are, which session speaks for them, what they hold."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select, update

from controller.core.states import TaskState
from controller.store.attempts import current_task, fail
from controller.store.leasing import Leased, leases_of
from controller.store.tables import AgentId, agents, attempts, tasks
from controller.store.topics import DISPATCH
from controller.store.writer import Tx
from mediactl.v1 import agent_service_pb2, job_pb2
from presets.reasons import Reason


class AgentIdConflict(Exception):
    """Another machine that isn't lost speaks under the same id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the agent id is in use by {name}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a new session must be told."""

    epoch: int
    leases: tuple[Leased, ...]
    stops: tuple[agent_service_pb2.Stop, ...]


@dataclass(frozen=True, slots=True)
class Register:
    """Begin a session: take the next epoch, then hold what the agent says it holds against what it was granted.

    * granted and held: goes on;
    * granted, never begun, not held: leased again, it is the same attempt;
    * begun and not held: lost with the agent's former life;
    * publishing and not held: leased again with its redo records, to be finished;
    * a publication left without a holder: taken up again by the agent that still holds it;
    * held and not granted: stopped, and only what the database calls ended may lose what it staged.

    Raises AgentIdConflict.
    """

    agent_id: AgentId
    instance_id: str
    name: str
    version: str
    labels: str
    capabilities: str
    held: frozenset[str]
    jitter: float

    def apply(self, tx: Tx) -> Reconciled:
        epoch = self._take_epoch(tx)
        resend: list[str] = []
        stops: list[agent_service_pb2.Stop] = []
        known = set()
        self._take_up_publications(tx)
        for attempt in tx.connection.execute(select(attempts).where(attempts.c.holder == self.agent_id)).all():
            known.add(attempt.id)
            task = current_task(tx, attempt)
            if attempt.stop_reason is not None:
                stops.append(agent_service_pb2.Stop(attempt_id=attempt.id, reason=attempt.stop_reason))
            elif task is None or attempt.id in self.held:
                continue
            elif task.state == TaskState.RUNNING:
                gone = job_pb2.Failure(
                    reason=Reason.AGENT_LOST, message=f"agent {self.name} restarted and lost the attempt"
                )
                fail(tx, attempt, task, gone, self.jitter, {}, state="lost")
            else:
                resend.append(attempt.id)
        for attempt_id in sorted(self.held - known):
            elsewhere = tx.connection.execute(
                select(tasks.c.id).where(tasks.c.attempt_id == attempt_id, tasks.c.state == TaskState.PUBLISHING)
            ).first()
            stops.append(
                agent_service_pb2.Stop(
                    attempt_id=attempt_id, reason=Reason.PUBLISH_REFUSED, leave_staged=elsewhere is not None
                )
            )
        leases = leases_of(tx.connection, self.agent_id, *resend) if resend else []
        tx.changed.add(DISPATCH)
        return Reconciled(epoch, tuple(leases), tuple(stops))

    def _take_up_publications(self, tx: Tx) -> None:
        publishing = select(tasks.c.attempt_id).where(tasks.c.state == TaskState.PUBLISHING)
        tx.connection.execute(
            update(attempts)
            .where(attempts.c.holder == "", attempts.c.id.in_(self.held), attempts.c.id.in_(publishing))
            .values(holder=self.agent_id)
        )

    def _take_epoch(self, tx: Tx) -> int:
        row = tx.connection.execute(select(agents).where(agents.c.id == self.agent_id)).one_or_none()
        values: dict[str, object] = {
            "instance_id": self.instance_id,
            "name": self.name,
            "version": self.version,
            "labels": self.labels,
            "capabilities": self.capabilities,
            "lost": False,
            "last_seen_us": tx.now_us,
        }
        if row is None:
            tx.connection.execute(
                insert(agents).values(id=self.agent_id, epoch=1, draining=False, created_us=tx.now_us, **values)
            )
            return 1
        if row.instance_id != self.instance_id and not row.lost:
            raise AgentIdConflict(row.name)
        tx.connection.execute(update(agents).where(agents.c.id == self.agent_id).values(epoch=row.epoch + 1, **values))
        return int(row.epoch) + 1


@dataclass(frozen=True, slots=True)
class Seen:
    """Signs of life: (agent, epoch, microseconds ago). Epochs that were superseded write nothing.

    `last_seen_us` is written where it is older than `resolution_us`, so that idle agents cost few commits.
    """

    signs: tuple[tuple[AgentId, int, int], ...]
    resolution_us: int

    def apply(self, tx: Tx) -> None:
        for agent_id, epoch, ago_us in self.signs:
            tx.connection.execute(
                update(agents)
                .where(
                    agents.c.id == agent_id,
                    agents.c.epoch == epoch,
                    agents.c.last_seen_us < tx.now_us - ago_us - self.resolution_us,
                )
                .values(last_seen_us=tx.now_us - ago_us)
            )


@dataclass(frozen=True, slots=True)
class ExpireAgents:
    """Take the attempts of agents that were not heard of since `silent_since_us`.

    Publications are not ended: they are left without a holder, for any agent to finish.
    """

    silent_since_us: int
    jitter: float

    def apply(self, tx: Tx) -> list[AgentId]:
        """Returns whom it called lost."""
        lost = tx.connection.execute(
            update(agents)
            .where(agents.c.lost.is_(False), agents.c.last_seen_us < self.silent_since_us)
            .values(lost=True, epoch=agents.c.epoch + 1)
            .returning(agents.c.id, agents.c.name)
        ).all()
        for agent in lost:
            for attempt in tx.connection.execute(select(attempts).where(attempts.c.holder == agent.id)).all():
                task = current_task(tx, attempt)
                if task is None:
                    continue
                if task.state == TaskState.PUBLISHING:
                    tx.connection.execute(
                        update(attempts)
                        .where(attempts.c.tenant == attempt.tenant, attempts.c.id == attempt.id)
                        .values(holder="")
                    )
                    tx.changed.add(DISPATCH)
                else:
                    silent = job_pb2.Failure(
                        reason=Reason.AGENT_LOST, message=f"agent {agent.name} was not heard of for too long"
                    )
                    fail(tx, attempt, task, silent, self.jitter, {}, state="lost")
        return [AgentId(agent.id) for agent in lost]
