"""The controller's background work: leasing, and the sweeps that time drives."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from controller.core.liveness import Timers, may_expire
from controller.rpc.interceptors import Presence
from controller.sessions import Sessions, lease_frame
from controller.store import queries
from controller.store.attempts import EpochSuperseded, RetryDue
from controller.store.cancelling import EnforceStops
from controller.store.fleet import ExpireAgents, Seen
from controller.store.leasing import GrantLeases
from controller.store.topics import DISPATCH
from controller.store.writer import Store

log = structlog.get_logger()

POLL_S = 1.0
SWEEP_S = 0.5
SEEN_RESOLUTION_S = 2.0
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


async def dispatch(store: Store, sessions: Sessions) -> None:
    """Lease whenever something changed that could allow it."""
    with store.topics.subscribe(DISPATCH) as changes:
        while True:
            offers = sessions.offers()
            if offers:
                for leased in await store.execute(GrantLeases(offers)):
                    session = sessions.get(leased.agent_id)
                    # Without a session it is sent again when the agent's next one begins.
                    if session is not None:
                        session.send(lease_frame(leased))
            await changes.wait(POLL_S)


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
        self._last_sweep = now
        heard = [s for s in self._sessions.all() if s.silent_s < self._timers.unreachable_s]
        if heard:
            await self._store.execute(
                Seen(
                    tuple((s.speaker.agent_id, s.speaker.epoch, int(s.silent_s * 1e6)) for s in heard),
                    resolution_us=int(min(SEEN_RESOLUTION_S, self._timers.lost_s / 4) * 1e6),
                )
            )
        await self._store.execute(RetryDue())
        await self._store.execute(EnforceStops())
        if may_expire(now - self._awake_since, self._timers):
            silent_since_us = self._store.now_us() - int(self._timers.lost_s * 1e6)
            for agent_id in await self._store.execute(ExpireAgents(silent_since_us, self._dice.random())):
                # Its stream may have survived: the agent must come back to learn what became of its attempts.
                if (session := self._sessions.get(agent_id)) is not None:
                    session.close(EpochSuperseded())


async def until_idle(store: Store, presence: Presence) -> None:
    """Return when no client is here and no job lives. Agents don't count."""
    begun = time.monotonic()
    while True:
        patience_s = BOX_GRACE_S if presence.seen else BOX_FIRST_CLIENT_S
        absent_s = presence.absent_s if presence.seen else time.monotonic() - begun
        if absent_s >= patience_s and not await store.read(queries.any_live):
            return
        await asyncio.sleep(0.1)
