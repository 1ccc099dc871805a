"""What agents kept of failed attempts, received piece by piece and put into the controller's own store.

An agent may send as far as it was allowed to: what is on its way, and in memory here, is bounded however slow the store
is, and the stream, which carries heartbeats too, is never held up. One attempt of an agent at a time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog

from controller.archive import REMAINS, Archive
from controller.sessions import Session
from controller.store.collecting import GiveUp, MarkCollected
from controller.store.engine import StoreUnavailable
from controller.store.queries import Record
from controller.store.tables import AttemptId, JobId, Tenant
from controller.store.topics import agent
from controller.store.writer import Store
from mediactl.v1 import agent_service_pb2 as pb

log = structlog.get_logger()

WINDOW_BYTES = 4 * 2**20
"""What an agent may send ahead of what is in the store."""
ASK_S = 5.0
"""After so long without a piece the agent is asked again."""
TIMES_ASKED = 6
MOST_AT_ONCE = 16
"""Agents that send to this controller; others have their turn later."""


class _Refused(Exception):
    """The archive is not taken."""


class _Gone(Exception):
    """The agent keeps it no longer."""


class Receptions:
    """All of this controller's. `begin` may be repeated; `hear` takes whatever an agent says."""

    def __init__(self, store: Store, archive: Archive | None, most_bytes: int) -> None:
        self._store = store
        self._archive = archive
        self._most_bytes = most_bytes
        self._by_agent: dict[str, _Reception] = {}

    def begin(self, session: Session, wanted: Record) -> None:
        """Ask for what the agent kept, unless it sends something already."""
        if session.agent_id not in self._by_agent and len(self._by_agent) < MOST_AT_ONCE:
            reception = _Reception(session, wanted)
            self._by_agent[session.agent_id] = reception
            reception.task = asyncio.create_task(self._receive(reception), name=f"reception {wanted.id}")

    def hear(self, session: Session, piece: pb.Remains) -> None:
        """Take a piece that was asked for; any other is nobody's."""
        reception = self._by_agent.get(session.agent_id)
        if reception is not None and reception.session is session:
            reception.hear(piece)

    def leave(self, session: Session) -> None:
        """The stream is over: what did not come whole is dropped."""
        reception = self._by_agent.get(session.agent_id)
        if reception is not None and reception.session is session:
            del self._by_agent[session.agent_id]
            if reception.task is not None:
                reception.task.cancel()

    async def _receive(self, reception: _Reception) -> None:
        of = reception.wanted
        try:
            await self._put(reception)
        except Exception as error:
            gone = isinstance(error, _Gone)
            defect = None if isinstance(error, _Gone | _Refused) else error
            log.warning("remains could not be collected", attempt_id=of.id, message=str(error), exc_info=defect)
            with suppress(StoreUnavailable):
                await self._store.execute(GiveUp(Tenant(of.tenant), AttemptId(of.id), JobId(of.job_id), gone))
        finally:
            if self._by_agent.get(reception.session.agent_id) is reception:
                del self._by_agent[reception.session.agent_id]
                # The next one's turn.
                self._store.topics.publish([agent(reception.session.agent_id)])

    async def _put(self, reception: _Reception) -> None:
        of = reception.wanted
        if not reception.session.exchange.keeps_remains:
            raise _Refused("the agent's version can't send what it keeps")
        if self._archive is None:
            raise _Refused("this controller has no --store to put it into")
        # A name of its own: what two controllers receive at once is two whole blobs, of which one is chosen.
        key = f"{REMAINS}{of.tenant}/{of.job_id}/{of.id}-{secrets.token_hex(4)}.tar.gz"
        await self._archive.put(key, reception.pieces(self._most_bytes))
        # Cut off here, the blob is a stray or is not: that is found out later.
        if not await self._store.execute(MarkCollected(Tenant(of.tenant), AttemptId(of.id), JobId(of.job_id), key)):
            await self._archive.delete([key])
        log.info("collected what is left of a failed attempt", attempt_id=of.id, agent_id=reception.session.agent_id)


class _Reception:
    """One archive. `wanted` is a row of `wanted_from`."""

    def __init__(self, session: Session, wanted: Record) -> None:
        self.session = session
        self.wanted = wanted
        self.task: asyncio.Task[None] | None = None
        self._arrived: asyncio.Queue[pb.Remains] = asyncio.Queue()
        self._heard = 0
        self._until = 0
        self._whole = False

    def hear(self, piece: pb.Remains) -> None:
        if piece.attempt_id != self.wanted.id or self._whole:
            return
        ends = piece.last or bool(piece.missing)
        # Anything else is a repeat, has lost its forerunner, or was not allowed yet.
        expected = piece.offset == self._heard and (piece.offset < self._until if piece.data else ends)
        if expected or piece.missing:
            self._heard += len(piece.data)
            self._whole = ends
            self._arrived.put_nowait(piece)

    async def pieces(self, most_bytes: int) -> AsyncIterator[bytes]:
        received = 0
        self._allow(WINDOW_BYTES)
        while True:
            piece = await self._next()
            if piece.missing:
                raise _Gone(piece.missing)
            received += len(piece.data)
            if received > most_bytes:
                raise _Refused(f"it is larger than the {most_bytes} bytes that are taken of one attempt")
            if piece.data:
                yield piece.data
            if piece.last:
                return
            if self._until - received <= WINDOW_BYTES // 2:
                self._allow(received + WINDOW_BYTES)

    async def _next(self) -> pb.Remains:
        for _ in range(TIMES_ASKED):
            try:
                async with asyncio.timeout(ASK_S):
                    return await self._arrived.get()
            except TimeoutError:
                self._allow(self._until)
        raise _Refused(f"the agent sent nothing for {TIMES_ASKED * ASK_S:.0f} s")

    def _allow(self, until: int) -> None:
        self._until = until
        collect = pb.Collect(attempt_id=self.wanted.id, until=until)
        self.session.send(pb.SessionResponse(collect=collect))
