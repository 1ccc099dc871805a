"""Weights of queues and central limits: set by people, counted in `limit_counts`, recounted by a sweep.

Only who has the scheduling lock grants, and so creates counts. Whoever ends an attempt changes its row and the counts
of its `limit_keys` in one transaction. A recount therefore takes that lock, then locks the counts, then looks at the
attempts: of every end it sees both changes or neither.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from sqlalchemy import Connection, delete, insert, literal_column, select, tuple_, update

from controller.core.limits import limit_keys, limit_of
from controller.store.engine import AnyRow
from controller.store.lanes import Relane
from controller.store.tables import Tenant, attempts, jobs, limit_counts, limits, shares
from controller.store.topics import DISPATCH, RELANE
from controller.store.writer import Tx

RELANED_AT_ONCE = 5
"""Pages of waiting tasks that are put under a new limit before it is in force; the rest follows within seconds."""

# As text: a parameter would hide from the planner that the partial index serves.
_HELD = attempts.c.holder != literal_column("''")


def current_limits(connection: Connection) -> dict[str, int]:
    """Maximum by key. Who grants reads them under the scheduling lock."""
    return {row.key: row.maximum for row in connection.execute(select(limits))}


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Weigh a queue against the others of its tenant. One that was never served enters at the current virtual time."""

    tenant: Tenant
    queue: str
    weight: float

    locks_scheduling: ClassVar[bool] = True

    def apply(self, tx: Tx) -> None:
        tx.database.lock_scheduling(tx.connection)
        tx.changed.add(DISPATCH)
        mine = (shares.c.tenant == self.tenant) & (shares.c.queue == self.queue)
        if tx.connection.execute(update(shares).where(mine).values(weight=self.weight)).rowcount:
            return
        parent = select(shares.c.virtual_time).where(shares.c.tenant == self.tenant, shares.c.queue == "")
        tx.connection.execute(
            insert(shares).values(
                tenant=self.tenant,
                queue=self.queue,
                weight=self.weight,
                passed=tx.connection.execute(parent).scalar_one_or_none() or 0.0,
                virtual_time=0.0,
                active=False,
            )
        )


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Set or, with None, remove a limit. What agents hold is counted under it from now on and goes on."""

    key: str
    maximum: int | None

    locks_scheduling: ClassVar[bool] = True

    def apply(self, tx: Tx) -> None:
        # Who stores tasks just now must not put them into lanes of before.
        tx.database.lock_writing(tx.connection)
        tx.database.lock_scheduling(tx.connection)
        before = current_limits(tx.connection).keys()
        if self.maximum is None:
            tx.connection.execute(delete(limits).where(limits.c.key == self.key))
        elif self.key in before:
            tx.connection.execute(update(limits).where(limits.c.key == self.key).values(maximum=self.maximum))
        else:
            tx.connection.execute(insert(limits).values(key=self.key, maximum=self.maximum))
        tx.changed.add(DISPATCH)
        after = current_limits(tx.connection).keys()
        if after != before:
            self._relane(tx)
            _recompute_keys(tx.connection, after)
            _recount(tx.connection)
            _forget_counts(tx.connection, after)

    def _relane(self, tx: Tx) -> None:
        """Put the next tasks in line into lanes that count under the limit now, and have the others follow."""
        position = -1
        for _ in range(RELANED_AT_ONCE):
            following = Relane(position).apply(tx)
            if following is None:
                return
            position = following
        tx.changed.add(RELANE)


@dataclass(frozen=True, slots=True)
class Drift:
    """A count that was wrong: what it said and what is so."""

    key: str
    counted: int
    running: int


@dataclass(frozen=True, slots=True)
class ReconcileLimits:
    """Count anew what runs under every limit and correct what drifted; returns that, by key.

    What was granted out of a lane of before a limit was set is counted under it from now on.
    """

    locks_scheduling: ClassVar[bool] = True

    def apply(self, tx: Tx) -> tuple[Drift, ...]:
        tx.database.lock_scheduling(tx.connection)
        _recompute_keys(tx.connection, current_limits(tx.connection).keys())
        drifted = _recount(tx.connection)
        # Labels may have any number of values over time.
        tx.connection.execute(
            delete(limit_counts).where(limit_counts.c.running == 0, limit_counts.c.key.startswith("label:"))
        )
        if drifted:
            tx.changed.add(DISPATCH)
        return drifted


def _recompute_keys(connection: Connection, known: Collection[str]) -> None:
    """Have every held attempt count against what it should."""
    wrong = _miscounted(connection, known)
    if not wrong:
        return
    # The job's row is the lock of all that belongs to it: nobody ends the attempt by its former keys meanwhile.
    mine = tuple_(jobs.c.tenant, jobs.c.id).in_(sorted({(row.tenant, row.job_id) for row, _ in wrong}))
    connection.execute(select(jobs.c.seq).where(mine).order_by(jobs.c.tenant, jobs.c.id).with_for_update()).all()
    for row, keys in _miscounted(connection, known):
        connection.execute(
            update(attempts)
            .where(attempts.c.tenant == row.tenant, attempts.c.id == row.id)
            .values(limit_keys=json.dumps(keys))
        )


def _miscounted(connection: Connection, known: Collection[str]) -> list[tuple[AnyRow, tuple[str, ...]]]:
    held = connection.execute(
        select(
            attempts.c.tenant,
            attempts.c.id,
            attempts.c.job_id,
            attempts.c.limit_keys,
            jobs.c.queue,
            jobs.c.preset,
            jobs.c.labels,
        )
        .join(jobs, (jobs.c.tenant == attempts.c.tenant) & (jobs.c.id == attempts.c.job_id))
        .where(_HELD)
    )
    found: list[tuple[AnyRow, tuple[str, ...]]] = []
    for row in held:
        keys = limit_keys(known, tenant=row.tenant, queue=row.queue, preset=row.preset, labels=row.labels)
        if sorted(json.loads(row.limit_keys)) != sorted(keys):
            found.append((row, keys))
    return found


def _recount(connection: Connection) -> tuple[Drift, ...]:
    locked = connection.execute(select(limit_counts).order_by(limit_counts.c.key).with_for_update())
    counted = {row.key: row.running for row in locked}
    running: Counter[str] = Counter()
    for text in connection.scalars(select(attempts.c.limit_keys).where(_HELD)):
        running.update(json.loads(text))
    drifted = tuple(
        Drift(key, counted.get(key, 0), running[key])
        for key in sorted(counted.keys() | running.keys())
        if counted.get(key, 0) != running[key]
    )
    for drift in drifted:
        if drift.key in counted:
            corrected = update(limit_counts).where(limit_counts.c.key == drift.key)
            connection.execute(corrected.values(running=drift.running))
        else:
            connection.execute(insert(limit_counts).values(key=drift.key, running=drift.running))
    return drifted


def _forget_counts(connection: Connection, known: Collection[str]) -> None:
    """Drop the counts under limits that are no more."""
    gone = [key for key in connection.scalars(select(limit_counts.c.key)) if limit_of(key) not in known]
    if gone:
        connection.execute(delete(limit_counts).where(limit_counts.c.key.in_(gone)))
