"""What there is to give: what agents have left, and limits; which agents may come, and which had better not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from controller.core.fitting import Offer
from controller.core.limits import limit_of
from controller.core.matching import Lane
from controller.core.retries import BLOCK_S
from controller.offers import stored_offer
from controller.store.engine import AnyRow, Database
from controller.store.writer import Tx

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
