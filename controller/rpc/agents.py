"""AgentService: one stream an agent, an exchange of state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import structlog

from controller import sessions as live
from controller.core.liveness import Timers
from controller.exchange import Exchange
from controller.frames import check_hello
from controller.reception import Receptions
from controller.sessions import Sessions
from controller.signatures import Signatures
from controller.store import queries, topics
from controller.store.attempts import Answer, Decline, EpochSuperseded, Item, Report
from controller.store.collecting import wanted_from
from controller.store.leases import leases_of
from controller.store.writer import Store
from controller.sweeping import StagingSweeper
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

log = structlog.get_logger()

_Context = grpc.aio.ServicerContext[Any, Any]
_BEGUN = (pb.PHASE_RUNNING, pb.PHASE_STAGED, pb.PHASE_PUBLISHING)


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """Frames are handled in the order in which they came; what must be durable is answered after its commit."""

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        receptions: Receptions,
        signatures: Signatures,
        staging: StagingSweeper,
        timers: Timers,
        dice: random.Random,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._receptions = receptions
        self._signatures = signatures
        self._staging = staging
        self._timers = timers
        self._dice = dice

    async def Session(
        self, request_iterator: AsyncIterator[pb.SessionRequest], context: _Context
    ) -> AsyncIterator[pb.SessionResponse]:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("hello") or not first.hello.agent_id:
            raise InvalidRequest(
                Problem(Reason.INVALID_ARGUMENT, "hello.agent_id", "the first frame must introduce the agent")
            )
        hello = first.hello
        check_hello(hello)
        exchange = Exchange(hello, self._dice.random)
        found = await self._store.execute(exchange.register())
        welcome = exchange.welcome(found, self._timers.heartbeat_s)
        session = live.Session(exchange)
        session.send(*welcome)
        superseded = self._sessions.add(session)
        if superseded is not None:
            superseded.close(EpochSuperseded())
        log.info("agent connected", agent=hello.name, agent_id=hello.agent_id, epoch=found.epoch)
        if found.quarantined:
            log.warning(
                "attempts that a former life of the database granted are quarantined",
                agent=hello.name,
                attempts=list(found.quarantined),
            )
        self._store.topics.publish([topics.DISPATCH])
        listener = _Listener(self._store, self._sessions, self._receptions, self._signatures, self._staging, session)
        reading = asyncio.create_task(listener.listen(request_iterator))
        telling = asyncio.create_task(self._tell(session))
        try:
            while frames := list(await session.frames()):
                for frame in frames:
                    yield frame
        finally:
            self._sessions.remove(session)
            self._receptions.leave(session)
            self._signatures.leave(session)
            self._staging.leave(session)
            for task in (reading, telling):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            log.info("agent disconnected", agent=hello.name, agent_id=hello.agent_id, epoch=found.epoch)

    async def _tell(self, session: live.Session) -> None:
        """Stops and what is wanted of failed attempts at once, from the database; leases that the agent's status still
        lacks, again.
        """
        agent_id = session.agent_id
        try:
            with self._store.topics.subscribe(topics.agent(agent_id)) as changes:
                while True:
                    for row in await self._store.read(queries.stops_for, agent_id):
                        session.send(pb.SessionResponse(stop=pb.Stop(attempt_id=row.id, reason=row.stop_reason)))
                    for wanted in await self._store.read(wanted_from, self._store.database, agent_id):
                        self._receptions.begin(session, wanted)
                    await changes.wait(2 * self._timers.heartbeat_s)
                    unconfirmed = await self._store.read(
                        queries.unconfirmed, agent_id, int(2e6 * self._timers.heartbeat_s), self._store.database
                    )
                    held = session.exchange.held()
                    if missing := [attempt for attempt in unconfirmed if attempt not in held]:
                        for leased in await self._store.read(leases_of, self._store.database, agent_id, *missing):
                            session.send(session.exchange.lease(leased))
        except Exception as error:  # noqa: BLE001 - it ends the stream, which tells the agent and repeats everything
            session.close(error)


class _Listener:
    """What one stream says. Frames that arrive together go to the store together."""

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        receptions: Receptions,
        signatures: Signatures,
        staging: StagingSweeper,
        session: live.Session,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._receptions = receptions
        self._signatures = signatures
        self._staging = staging
        self._session = session
        self._items: list[Item] = []
        self._loop = asyncio.get_running_loop()

    async def listen(self, frames: AsyncIterator[pb.SessionRequest]) -> None:
        session = self._session
        try:
            async for frame in frames:
                session.hear()
                before = session.exchange.status
                items = session.exchange.hear(frame)
                # It may have come in a bundle.
                if session.exchange.status is not before:
                    for holding in session.exchange.status.holdings:
                        if holding.phase in _BEGUN:
                            self._sessions.report_progress(holding)
                if frame.HasField("remains"):
                    self._receptions.hear(session, frame.remains)
                if frame.HasField("signed"):
                    self._signatures.hear(session, frame.signed)
                if frame.HasField("swept"):
                    self._staging.hear(session, frame.swept)
                if items:
                    if not self._items:
                        self._loop.call_soon(self._hand_over)
                    self._items += items
        except Exception as error:  # noqa: BLE001 - it ends the stream, which tells the agent and repeats everything
            session.close(error)
        else:
            session.close()

    def _hand_over(self) -> None:
        items, self._items = tuple(self._items), []
        if any(isinstance(item, Decline) for item in items):
            self._session.pause()
        reply = self._store.enqueue(Report(self._session.exchange.speaker, items))
        reply.add_done_callback(lambda done: self._answer(items, done))

    def _answer(self, items: tuple[Item, ...], done: asyncio.Future[list[Answer]]) -> None:
        """Answer once the items are committed; a report that failed ends the stream, and the agent repeats."""
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, Exception):
            self._session.close(error)
            return
        frames = [
            frame
            for item, answer in zip(items, done.result(), strict=True)
            if (frame := self._session.exchange.answer(item, answer)) is not None
        ]
        if frames:
            self._session.send(*frames)
