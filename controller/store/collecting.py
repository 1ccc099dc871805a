"""What agents kept of failed attempts on its way into the controller's own store: who wants what, and what came."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Update, func, select, update

from controller.store import topics
from controller.store.engine import AnyRow, Database
from controller.store.tables import AttemptId, JobId, Tenant, agents, attempts
from controller.store.writer import Tx

WANTED_US = 30_000_000
"""How long a request counts; whoever still waits repeats it."""


def kept_attempts(
    connection: Connection, database: Database, tenant: Tenant, job_id: JobId, attempt_id: str = ""
) -> Sequence[AnyRow]:
    """Failed attempts of a job, or the one attempt named whatever became of it, newest first.

    Rows of (id, agent_id, state, kept_bytes, collect_us, remains_key, agent_name, silent_us, lost); the last three are
    null where the agent is known no more.
    """
    query = (
        select(
            attempts.c.id,
            attempts.c.agent_id,
            attempts.c.state,
            func.coalesce(attempts.c.kept_bytes, 0).label("kept_bytes"),
            attempts.c.collect_us,
            attempts.c.remains_key,
            agents.c.name.label("agent_name"),
            (database.now_us(connection) - agents.c.last_seen_us).label("silent_us"),
            agents.c.lost,
        )
        .select_from(attempts.outerjoin(agents, agents.c.id == attempts.c.agent_id))
        .where(attempts.c.tenant == tenant, attempts.c.job_id == job_id)
        .order_by(attempts.c.leased_us.desc(), attempts.c.number.desc())
    )
    if attempt_id:
        return connection.execute(query.where(attempts.c.id == attempt_id)).all()
    return connection.execute(query.where(attempts.c.state == "failed")).all()


def wanted_from(connection: Connection, database: Database, agent_id: str) -> Sequence[AnyRow]:
    """Attempts of which somebody wants what this agent kept: rows of (tenant, id, job_id, kept_bytes)."""
    return connection.execute(
        select(attempts.c.tenant, attempts.c.id, attempts.c.job_id, attempts.c.kept_bytes).where(
            attempts.c.agent_id == agent_id,
            attempts.c.collect_us.is_not(None),
            attempts.c.collect_us > database.now_us(connection) - WANTED_US,
            attempts.c.remains_key.is_(None),
        )
    ).all()


def known_remains(connection: Connection, tenant: Tenant, job_ids: Collection[str]) -> set[str]:
    """Keys of what is in the store of these jobs."""
    found = connection.scalars(
        select(attempts.c.remains_key).where(
            attempts.c.tenant == tenant, attempts.c.job_id.in_(job_ids), attempts.c.remains_key.is_not(None)
        )
    )
    return {str(key) for key in found}


@dataclass(frozen=True, slots=True)
class Want:
    """Ask the agent for what it kept of an attempt, at whichever controller it is. False: it is in the store already,
    or the attempt is gone.
    """

    tenant: Tenant
    attempt_id: AttemptId
    agent_id: str

    def apply(self, tx: Tx) -> bool:
        asked = tx.connection.execute(
            _of(self.tenant, self.attempt_id).where(attempts.c.remains_key.is_(None)).values(collect_us=tx.now_us)
        ).rowcount
        tx.changed.add(topics.agent(self.agent_id))
        return bool(asked)


@dataclass(frozen=True, slots=True)
class MarkCollected:
    """The blob `remains_key` is durable. False, and nothing changes: the attempt is gone, or another came first."""

    tenant: Tenant
    attempt_id: AttemptId
    job_id: JobId
    remains_key: str

    def apply(self, tx: Tx) -> bool:
        marked = tx.connection.execute(
            _of(self.tenant, self.attempt_id)
            .where(attempts.c.remains_key.is_(None))
            .values(remains_key=self.remains_key, collect_us=None)
        ).rowcount
        tx.changed.add(topics.job(self.job_id))
        return bool(marked)


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It could not be had; `gone`: nor ever will, for the agent keeps nothing any more. Whoever waits is told."""

    tenant: Tenant
    attempt_id: AttemptId
    job_id: JobId
    gone: bool

    def apply(self, tx: Tx) -> None:
        left = {"kept_bytes": 0} if self.gone else {}
        tx.connection.execute(
            _of(self.tenant, self.attempt_id).where(attempts.c.remains_key.is_(None)).values(collect_us=None, **left)
        )
        tx.changed.add(topics.job(self.job_id))


def _of(tenant: Tenant, attempt_id: AttemptId) -> Update:
    return update(attempts).where(attempts.c.tenant == tenant, attempts.c.id == attempt_id)
