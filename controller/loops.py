"""The controller's background work: leasing, and the sweeps that time drives."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from controller.archive import Archive
from controller.core.liveness import Timers, may_expire
from controller.core.matching import Feasibility, Rules
from controller.deposits import Deposits
from controller.metrics import Metrics
from controller.rpc.interceptors import Presence
from controller.sessions import Sessions
from controller.settings import Keeping
from controller.store import queries
from controller.store.attempts import EpochSuperseded
from controller.store.cancelling import EnforceStops, ExpireJobs
from controller.store.draining import HandBackOverdue
from controller.store.fleet import ExpireAgents, Seen, Sign
from controller.store.interventions import FallDue
from controller.store.lanes import Relane
from controller.store.leases import Leased
from controller.store.leasing import MOST_GRANTS, GrantLeases
from controller.store.limits import ReconcileLimits
from controller.store.retention import DropEnded, DropRequests
from controller.store.topics import DISPATCH, RELANE
from controller.store.writer import Store, Tx

log = structlog.get_logger()

POLL_S = 1.0
SWEEP_S = 0.5
STAGING_S = 5.0
SEEN_RESOLUTION_S = 2.0
HOUSEKEEPING_S = 30.0
RECONCILE_S = 60.0
STRAYS_S = 3600.0
DROP_AT_ONCE = 200
BOX_GRACE_S = 0.3
"""How long an embedded box outlives its last client."""
BOX_FIRST_CLIENT_S = 20.0
"""How long it waits for its first one."""


async def forever(name: str, step: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """Repeat a step; what goes wrong is logged and tried again, for nothing here may end silently."""
    while True:
        try:
            await step()
        except Exception as error:
            log.error("background step failed", step=name, exc_info=error)
        await asyncio.sleep(pause_s)


class Dispatcher:
    """Leases whenever something changed that could allow it.

    On SQLite it does so in the very transaction that brought the change: what was submitted is leased with the same
    commit. Where several controllers share a database, granting has a transaction of its own.
    """

    def __init__(self, store: Store, sessions: Sessions, rules: Rules, metrics: Metrics) -> None:
        self._store = store
        self._sessions = sessions
        self._rules = rules
        self._metrics = metrics
        self._feasibility = Feasibility()

    def _command(self) -> GrantLeases | None:
        offers = self._sessions.offers()
        return GrantLeases(offers, self._rules, self._feasibility) if offers else None

    def follow_up(self, tx: Tx) -> Callable[[], None]:
        """Grant within a transaction, on its thread; what is returned sends the leases once they are durable."""
        if DISPATCH not in tx.changed or (command := self._command()) is None:
            return _nothing
        leases = command.apply(tx)
        if len(leases) < MOST_GRANTS:
            tx.changed.discard(DISPATCH)
        return lambda: self._send(leases)

    async def run(self) -> None:
        """Grant at every change that `follow_up` did not take care of, and every second for what only time changes."""
        with self._store.topics.subscribe(DISPATCH) as changes:
            while True:
                command = self._command()
                leases = await self._store.execute(command) if command is not None else []
                self._send(leases)
                if len(leases) < MOST_GRANTS:
                    await changes.wait(POLL_S)

    def _send(self, leases: list[Leased]) -> None:
        for leased in leases:
            self._metrics.leased(leased.queue_wait_s)
            if leased.task_kind != "plan":
                self._metrics.preset_leased(leased.preset, leased.queue_wait_s)
            session = self._sessions.get(leased.agent_id)
            # Without a session it is sent again when the agent's next one begins.
            if session is not None:
                session.send(session.exchange.lease(leased))


def _nothing() -> None:
    pass


async def relane(store: Store) -> None:
    """Put waiting tasks into the lanes that are theirs, at the start and whenever what makes a lane has changed."""
    with store.topics.subscribe(RELANE) as changes:
        while True:
            after: int | None = -1
            while after is not None:
                after = await store.execute(Relane(after))
            await changes.wait(HOUSEKEEPING_S * 10)


class Sweeper:
    """What only time makes due."""

    def __init__(self, store: Store, sessions: Sessions, timers: Timers, dice: random.Random) -> None:
        self._store = store
        self._sessions = sessions
        self._timers = timers
        self._dice = dice
        self._awake_since = time.monotonic()
        self._last_sweep = self._awake_since

    async def sweep(self) -> None:
        now = time.monotonic()
        if now - self._last_sweep > max(self._timers.unreachable_s, 4 * SWEEP_S):
            # This process or its database stood still: agents could not be heard in the meantime.
            self._awake_since = now
        heard = [s for s in self._sessions.all() if s.silent_s < self._timers.unreachable_s]
        if heard:
            seen = Seen(
                tuple(
                    Sign(s.agent_id, s.exchange.speaker.epoch, int(s.silent_s * 1e6), s.exchange.objection)
                    for s in heard
                ),
                resolution_us=int(min(SEEN_RESOLUTION_S, self._timers.lost_s / 4) * 1e6),
            )
            for agent_id, epoch in await self._store.execute(seen):
                session = self._sessions.get(agent_id)
                if session is not None and session.exchange.speaker.epoch == epoch:
                    session.close(EpochSuperseded())
        while await self._store.execute(FallDue()):
            pass
        await self._store.execute(HandBackOverdue())
        await self._store.execute(EnforceStops())
        await self._store.execute(ExpireJobs())
        if may_expire(now - self._awake_since, self._timers):
            silent_us = int(self._timers.lost_s * 1e6)
            for agent_id in await self._store.execute(ExpireAgents(silent_us, self._dice.random())):
                # Its stream may have survived: the agent must come back to learn what became of its attempts.
                if (session := self._sessions.get(agent_id)) is not None:
                    session.close(EpochSuperseded())
        # Not before: a database that is away lets nobody be heard.
        self._last_sweep = now


class Housekeeper:
    """What can wait: forgetting what was kept long enough, moving logs, counting again."""

    def __init__(self, store: Store, archive: Archive | None, keeping: Keeping, deposits: Deposits) -> None:
        self._store = store
        self._archive = archive
        self._deposits = deposits
        self._keeping = keeping
        self._reconciled = 0.0
        self._looked_for_strays = -STRAYS_S

    async def keep(self) -> None:
        store = self._store
        now_us = await store.read(store.database.now_us)
        await self._forget(now_us)
        if time.monotonic() - self._reconciled > RECONCILE_S:
            self._reconciled = time.monotonic()
            for drift in await store.execute(ReconcileLimits()):
                log.warning("a limit's count was wrong", key=drift.key, counted=drift.counted, running=drift.running)
        # Last: a store of logs that is away must keep nothing else from being done.
        if self._archive is not None:
            await self._archive.sweep(store, now_us)
            await self._deposits.sweep()
            if time.monotonic() - self._looked_for_strays > STRAYS_S:
                self._looked_for_strays = time.monotonic()
                if removed := await self._archive.remove_strays(store, now_us):
                    log.info("removed remains that belong to no job", blobs=removed)
                if removed := await self._deposits.remove_strays(now_us):
                    log.info("removed what belongs to no deposit", blobs=removed)

    async def _forget(self, now_us: int) -> None:
        store, keeping = self._store, self._keeping
        dropped = 0
        while True:
            gone = await store.execute(DropEnded(now_us - int(keeping.jobs_s * 1e6), DROP_AT_ONCE))
            dropped += gone.jobs
            if self._archive is not None:
                await self._archive.delete(gone.blob_keys)
            if gone.jobs < DROP_AT_ONCE:
                break
        if dropped:
            log.info("forgot finished jobs", jobs=dropped)
        await store.execute(DropRequests(now_us - int(keeping.requests_s * 1e6)))


async def until_idle(store: Store, presence: Presence) -> None:
    """Return when no client is here and no job lives. Agents don't count."""
    begun = time.monotonic()
    while True:
        patience_s = BOX_GRACE_S if presence.seen else BOX_FIRST_CLIENT_S
        absent_s = presence.absent_s if presence.seen else time.monotonic() - begun
        if absent_s >= patience_s and not await store.read(queries.any_live):
            return
        await asyncio.sleep(0.1)
