"""What is kept of failed attempts on its way to the controller: piece by piece, as far as the controller allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from agent.remains import NothingKept, Remains
from mediactl.v1 import agent_service_pb2 as pb

log = structlog.get_logger()

FEATURE = "remains"
"""The feature of answering Collect."""
CREDIT_S = 60.0
"""How long a delivery waits to be allowed to go on."""
MOST_ASKED = 100
"""Attempts in line; the controller repeats what it wants."""


class Delivery:
    """One attempt's archive at a time, of which one piece waits to be taken. `fresh` is called when there is one.

    For one stream: `reset` when that ends. Whatever the stream carries besides goes between any two pieces.
    """

    def __init__(self, remains: Remains, fresh: Callable[[], None]) -> None:
        self._remains = remains
        self._fresh = fresh
        self._until: dict[str, int] = {}
        self._allowed = asyncio.Event()
        self._slot: asyncio.Queue[pb.Remains] = asyncio.Queue(1)
        self._task: asyncio.Task[None] | None = None

    def ask(self, collect: pb.Collect) -> None:
        """Deliver an attempt's archive, or go on with it. A repeat changes nothing."""
        attempt_id, before = collect.attempt_id, self._until.get(collect.attempt_id)
        if before is None and len(self._until) >= MOST_ASKED:
            return
        if before is not None and 0 < collect.until < before:
            # Whoever received it has lost the beginning.
            self.reset(keeping={**self._until, attempt_id: collect.until})
        self._until[attempt_id] = collect.until
        self._allowed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._deliver_all(), name="delivery")

    def take(self) -> pb.Remains | None:
        """The piece that waits, if any."""
        with suppress(asyncio.QueueEmpty):
            return self._slot.get_nowait()
        return None

    def reset(self, keeping: dict[str, int] | None = None) -> None:
        """Forget what was asked for and not delivered."""
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._until = keeping or {}
        self._slot = asyncio.Queue(1)

    async def _deliver_all(self) -> None:
        while self._until:
            attempt_id = next(iter(self._until))
            try:
                await self._deliver(attempt_id)
            except NothingKept as nothing:
                await self._put(pb.Remains(attempt_id=attempt_id, missing=str(nothing)))
            except TimeoutError:
                log.info("the controller asked no further for what is kept of an attempt", attempt=attempt_id)
            except Exception as error:
                log.error("what is kept of an attempt could not be sent", attempt=attempt_id, exc_info=error)
                await self._put(pb.Remains(attempt_id=attempt_id, missing=f"the agent could not read it: {error}"))
            del self._until[attempt_id]

    async def _deliver(self, attempt_id: str) -> None:
        pieces, offset = self._remains.pieces(attempt_id), 0
        while data := await asyncio.to_thread(next, pieces, b""):
            await self._until_allowed(attempt_id, offset)
            await self._put(pb.Remains(attempt_id=attempt_id, offset=offset, data=data))
            offset += len(data)
        await self._put(pb.Remains(attempt_id=attempt_id, offset=offset, last=True))

    async def _until_allowed(self, attempt_id: str, offset: int) -> None:
        async with asyncio.timeout(CREDIT_S):
            while 0 < self._until[attempt_id] <= offset:
                self._allowed.clear()
                await self._allowed.wait()

    async def _put(self, piece: pb.Remains) -> None:
        await self._slot.put(piece)
        self._fresh()
