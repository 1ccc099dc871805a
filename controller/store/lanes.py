"""Lanes in the database, and putting tasks into the right one when what makes a lane has changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import select

from controller.core.lanes import LaneFacts, reach
from controller.core.limits import limit_keys
from controller.core.states import WAITING
from controller.store import topics
from controller.store.engine import AnyRow
from controller.store.tables import jobs, lanes, tasks
from controller.store.writer import Tx
from presets.capabilities import Requirements

PAGE = 1000
MOST_REMEMBERED = 20_000
"""Lanes in memory: labels and requirements of callers may make any number of them."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What lanes depend on besides the task: the media roots that agents declare, and the limits that are set."""

    roots: frozenset[str]
    limits: frozenset[str]


def grounds(tx: Tx) -> Grounds:
    """As they are now."""
    declared = tx.rows("SELECT DISTINCT media_roots FROM agents WHERE lost = false")
    return Grounds(
        roots=frozenset(root for row in declared for root in json.loads(row.media_roots)),
        limits=frozenset(row.key for row in tx.rows("SELECT key FROM limits")),
    )


def lane_of(
    grounds: Grounds,
    *,
    tenant: str,
    queue: str,
    priority: int,
    preset: str,
    labels: Mapping[str, str],
    class_key: str,
    require: str,
    paths: str,
) -> LaneFacts:
    """The lane of a task."""
    return LaneFacts(
        tenant=tenant,
        queue=queue,
        priority=priority,
        class_key=class_key,
        require=require,
        reach=reach(json.loads(paths), grounds.roots),
        limit_keys=json.dumps(limit_keys(grounds.limits, tenant=tenant, queue=queue, preset=preset, labels=labels)),
    )


def store_lanes(tx: Tx, facts: Iterable[LaneFacts]) -> None:
    """See to it that these lanes are known."""
    rows = [{"key": one.key, **asdict(one)} for one in sorted(set(facts), key=lambda one: one.key)]
    tx.database.insert(tx.connection, lanes, rows, if_new=True)


def known_lanes(tx: Tx, keys: Collection[str]) -> dict[str, LaneFacts]:
    """Lanes by their keys. What a key means never changes, so each is read once."""
    memo = tx.database.lanes
    unknown = [key for key in keys if key not in memo]
    if unknown:
        if len(memo) > MOST_REMEMBERED:
            memo.clear()
            unknown = list(keys)
        rows = tx.connection.execute(select(lanes).where(lanes.c.key.in_(unknown)))
        memo.update({row.key: _facts(row) for row in rows})
    return {key: memo[key] for key in keys if key in memo}


def _facts(row: AnyRow) -> LaneFacts:
    return LaneFacts(row.tenant, row.queue, row.priority, row.class_key, row.require, row.reach, row.limit_keys)


@dataclass(frozen=True, slots=True)
class Relane:
    """Put waiting tasks after ticket `after` into the lanes that are theirs now, a page at a time.

    Returns the ticket to go on from, None at the end of the line.
    """

    after: int

    def apply(self, tx: Tx) -> int | None:
        now = grounds(tx)
        rows = tx.connection.execute(
            select(
                tasks.c.seq,
                tasks.c.tenant,
                tasks.c.id,
                tasks.c.lane,
                tasks.c.priority,
                tasks.c.requirements,
                tasks.c.require,
                tasks.c.paths,
                jobs.c.queue,
                jobs.c.preset,
                jobs.c.labels,
            )
            .join(jobs, (jobs.c.tenant == tasks.c.tenant) & (jobs.c.id == tasks.c.job_id))
            .where(tasks.c.seq > self.after, tasks.c.state.in_(WAITING))
            .order_by(tasks.c.seq)
            .limit(PAGE)
        ).all()
        found = {
            row.id: lane_of(
                now,
                tenant=row.tenant,
                queue=row.queue,
                priority=row.priority,
                preset=row.preset,
                labels=row.labels,
                class_key=Requirements.from_json(json.loads(row.requirements)).class_key(),
                require=row.require,
                paths=row.paths,
            )
            for row in rows
        }
        moved = [row for row in rows if row.lane != found[row.id].key]
        store_lanes(tx, (found[row.id] for row in moved))
        tx.database.update(
            tx.connection,
            tasks,
            ("tenant", "id"),
            [{"lane": found[row.id].key, "tenant": row.tenant, "id": row.id} for row in moved],
        )
        if moved:
            tx.changed.add(topics.DISPATCH)
        return rows[-1].seq if len(rows) == PAGE else None
