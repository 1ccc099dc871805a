"""Ended attempts that may have left something staged, and that nothing of them is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, tuple_, update

from controller.core.states import HELD_BY_AGENT
from controller.store.engine import AnyRow
from controller.store.tables import AttemptId, Tenant, attempts, jobs, tasks
from controller.store.writer import Tx

LONGEST_US = 3_600_000_000
"""Between two tries."""


def unswept(connection: Connection, before_us: int, after: tuple[int, str], limit: int) -> Sequence[AnyRow]:
    """Attempts whose sweep waits since before `before_us`, behind `after` (sweep_us, id), in this order.

    None that anybody holds or that is the one whose outputs are being published. Rows of (tenant, id, job_id, agent_id,
    ended_us, sweep_us, intent).
    """
    return connection.execute(
        select(
            attempts.c.tenant,
            attempts.c.id,
            attempts.c.job_id,
            attempts.c.agent_id,
            attempts.c.ended_us,
            attempts.c.sweep_us,
            func.coalesce(tasks.c.intent, jobs.c.intent).label("intent"),
        )
        .select_from(
            attempts.join(tasks, (tasks.c.tenant == attempts.c.tenant) & (tasks.c.id == attempts.c.task_id)).join(
                jobs, (jobs.c.tenant == attempts.c.tenant) & (jobs.c.id == attempts.c.job_id)
            )
        )
        .where(
            attempts.c.sweep_us.is_not(None),
            attempts.c.sweep_us < before_us,
            attempts.c.holder == "",
            attempts.c.ended_us.is_not(None),
            (tasks.c.attempt_id != attempts.c.id) | tasks.c.state.not_in(sorted(HELD_BY_AGENT)),
            tuple_(attempts.c.sweep_us, attempts.c.id) > after,
        )
        .order_by(attempts.c.sweep_us, attempts.c.id)
        .limit(limit)
    ).all()


@dataclass(frozen=True, slots=True)
class MarkSwept:
    """Nothing that the attempt staged is left."""

    tenant: Tenant
    attempt_id: AttemptId

    def apply(self, tx: Tx) -> None:
        mine = (attempts.c.tenant == self.tenant) & (attempts.c.id == self.attempt_id)
        tx.connection.execute(update(attempts).where(mine).values(sweep_us=None))


@dataclass(frozen=True, slots=True)
class SweepLater:
    """It could not be removed now. From try to try the pause doubles; it ends when the job is forgotten."""

    tenant: Tenant
    attempt_id: AttemptId

    def apply(self, tx: Tx) -> None:
        mine = (attempts.c.tenant == self.tenant) & (attempts.c.id == self.attempt_id)
        ended_us = tx.connection.execute(
            select(attempts.c.ended_us).where(mine, attempts.c.sweep_us.is_not(None), attempts.c.ended_us.is_not(None))
        ).scalar_one_or_none()
        if ended_us is not None:
            later_us = tx.now_us + min(tx.now_us - ended_us, LONGEST_US)
            tx.connection.execute(update(attempts).where(mine).values(sweep_us=later_us))
