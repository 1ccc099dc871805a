"""Agents that finish what they have and take nothing new: because a person asked for it, or because they say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sqlalchemy import update

from controller.core.states import TaskState
from controller.store import topics
from controller.store.tables import AgentId, agents
from controller.store.work import work
from controller.store.writer import Tx
from presets.reasons import Reason

ASKED = "a person asked for it"


class AgentUnknown(Exception):
    """No agent has that id any more."""


def drain_reason(asked: bool, own: str) -> str:
    """Why an agent takes no new work: a person's wish, then what it says itself; empty: it takes some."""
    return "; ".join(filter(None, (ASKED if asked else "", own)))


def drained(tx: Tx) -> frozenset[str]:
    """Agents that a person drains: nothing is granted to them, whichever controller they are connected to."""
    return frozenset(row.id for row in tx.rows("SELECT id FROM agents WHERE draining = true"))


@dataclass(frozen=True, slots=True)
class DrainAgent:
    """Grant an agent nothing more, from this commit on; a repeat sets the deadline anew. Raises AgentUnknown.

    `within_us` from now, by the database's clock, is the deadline; None: there is none.
    """

    agent_id: AgentId
    within_us: int | None

    locks_scheduling: ClassVar[bool] = True

    def apply(self, tx: Tx) -> None:
        # Who grants at this moment is waited for, and whoever grants later sees this.
        tx.database.lock_scheduling(tx.connection)
        deadline_us = None if self.within_us is None else tx.now_us + self.within_us
        _change(tx, self.agent_id, draining=True, drain_deadline_us=deadline_us)
        tx.changed.add(topics.FLEET)


@dataclass(frozen=True, slots=True)
class ResumeAgent:
    """End the draining that a person asked for. What was told to stop already stays so. Raises AgentUnknown."""

    agent_id: AgentId

    def apply(self, tx: Tx) -> None:
        _change(tx, self.agent_id, draining=False, drain_deadline_us=None)
        tx.changed |= {topics.FLEET, topics.DISPATCH}


def _change(tx: Tx, agent_id: AgentId, **values: object) -> None:
    if not tx.connection.execute(update(agents).where(agents.c.id == agent_id).values(**values)).rowcount:
        raise AgentUnknown


@dataclass(frozen=True, slots=True)
class HandBackOverdue:
    """Stop what runs on agents whose time for draining is up; once stopped, it is begun anew elsewhere.

    What is being published is left to finish. Returns how many attempts were told to stop, each of them once.
    """

    def apply(self, tx: Tx) -> int:
        overdue = tx.rows("SELECT id FROM agents WHERE draining = true AND drain_deadline_us <= :now", now=tx.now_us)
        if not overdue:
            return 0
        # Not in one statement: SQLite would begin it with every attempt there ever was.
        clause, values = tx.database.any_of("holder", "holders", sorted(row.id for row in overdue))
        held = tx.rows(
            "SELECT id FROM attempts WHERE holder <> ''"  # noqa: S608 - of the engine's own text
            f" AND stop_reason IS NULL AND state IN ('leased', 'running') AND {clause}",
            **values,
        )
        told = 0
        with work(tx) as unit:
            unit.lock_attempts({row.id for row in held})
            for attempt in list(unit.attempts.values()):
                task = unit.current_task(attempt)
                if task is not None and task.state in (TaskState.LEASED, TaskState.RUNNING):
                    told += unit.ask_to_stop(task, Reason.AGENT_STOPPING)
        return told
