"""AgentService: one stream an agent, an exchange of state."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import structlog
from google.protobuf import json_format

from controller import sessions as live
from controller.core.liveness import Timers
from controller.sessions import Sessions, lease_frame
from controller.store import queries, topics
from controller.store.attempts import AppendLog, End, EpochSuperseded, Stage, Start
from controller.store.fleet import Register
from controller.store.leasing import leases_of
from controller.store.tables import AgentId, AttemptId
from controller.store.writer import Store
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

log = structlog.get_logger()

_Context = grpc.aio.ServicerContext[Any, Any]
_BEGUN = (pb.PHASE_RUNNING, pb.PHASE_STAGED, pb.PHASE_PUBLISHING)


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """Frames are handled in the order in which they came; what must be durable is answered after its commit."""

    def __init__(self, store: Store, sessions: Sessions, timers: Timers, dice: random.Random) -> None:
        self._store = store
        self._sessions = sessions
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
        reconciled = await self._store.execute(
            Register(
                agent_id=AgentId(hello.agent_id),
                instance_id=hello.instance_id,
                name=hello.name,
                version=hello.version,
                labels=json.dumps(dict(hello.labels)),
                capabilities=json_format.MessageToJson(hello.capabilities, indent=None),
                held=frozenset(holding.attempt_id for holding in hello.holdings),
                jitter=self._dice.random(),
            )
        )
        session = live.Session(hello, reconciled.epoch)
        superseded = self._sessions.add(session)
        if superseded is not None:
            superseded.close(EpochSuperseded())
        log.info("agent connected", agent=hello.name, agent_id=hello.agent_id, epoch=reconciled.epoch)
        welcome = pb.Welcome(epoch=reconciled.epoch)
        welcome.heartbeat_interval.FromMilliseconds(int(self._timers.heartbeat_s * 1000))
        session.send(pb.SessionResponse(welcome=welcome))
        for stop in reconciled.stops:
            session.send(pb.SessionResponse(stop=stop))
        for lease in reconciled.leases:
            session.send(lease_frame(lease))
        self._store.topics.publish([topics.DISPATCH])
        reading = asyncio.create_task(self._listen(session, request_iterator))
        telling = asyncio.create_task(self._tell(session))
        try:
            while (frame := await session.frames()) is not None:
                yield frame
        finally:
            self._sessions.remove(session)
            for task in (reading, telling):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            log.info("agent disconnected", agent=hello.name, agent_id=hello.agent_id, epoch=reconciled.epoch)

    async def _listen(self, session: live.Session, frames: AsyncIterator[pb.SessionRequest]) -> None:
        try:
            async for frame in frames:
                session.hear()
                self._handle(session, frame)
        except Exception as error:  # noqa: BLE001 - it ends the stream, which tells the agent and repeats everything
            session.close(error)
        else:
            session.close()

    def _handle(self, session: live.Session, frame: pb.SessionRequest) -> None:
        match frame.WhichOneof("frame"):
            case "status":
                session.report(frame.status)
                for holding in frame.status.holdings:
                    if holding.phase in _BEGUN:
                        self._begin(session, holding.attempt_id)
                        self._sessions.report_progress(holding)
            case "log":
                self._after(
                    session,
                    self._store.enqueue(AppendLog((frame.log,))),
                    partial(_acknowledge_log, frame.log),
                )
            case "staged":
                self._begin(session, frame.staged.attempt_id)
                reply = self._store.enqueue(Stage(session.speaker, frame.staged))
                self._after(session, reply, partial(_answer_stage, frame.staged))
            case "ended":
                reply_end = self._store.enqueue(End(session.speaker, frame.ended, self._dice.random()))
                self._after(session, reply_end, partial(_acknowledge_end, frame.ended))
            case "hello" | None:
                session.close(
                    InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "frame", "one hello a stream, then other frames"))
                )

    def _begin(self, session: live.Session, attempt_id: str) -> None:
        if attempt_id not in session.begun:
            session.begun.add(attempt_id)
            self._after(session, self._store.enqueue(Start(session.speaker, AttemptId(attempt_id))), None)

    def _after(self, session: live.Session, reply: asyncio.Future[Any], answer: Any) -> None:
        """Answer once the command is committed; a command that failed ends the stream, and the agent repeats."""

        def done(finished: asyncio.Future[Any]) -> None:
            error = None if finished.cancelled() else finished.exception()
            if isinstance(error, Exception):
                session.close(error)
            elif error is None and answer is not None and not finished.cancelled():
                session.send(answer(finished.result()))

        reply.add_done_callback(done)

    async def _tell(self, session: live.Session) -> None:
        """Stops at once, from the database; leases that the agent's status still lacks, again."""
        agent_id = session.speaker.agent_id
        try:
            with self._store.topics.subscribe(topics.agent(agent_id)) as changes:
                while True:
                    for row in await self._store.read(queries.stops_for, agent_id):
                        stop = pb.Stop(attempt_id=row.id, reason=row.stop_reason)
                        session.send(pb.SessionResponse(stop=stop))
                    await changes.wait(self._timers.heartbeat_s)
                    before_us = self._store.now_us() - int(2e6 * self._timers.heartbeat_s)
                    unconfirmed = await self._store.read(queries.unconfirmed, agent_id, before_us)
                    if missing := [attempt for attempt in unconfirmed if attempt not in session.held]:
                        for lease in await self._store.read(leases_of, agent_id, *missing):
                            session.send(lease_frame(lease))
        except Exception as error:  # noqa: BLE001 - it ends the stream, which tells the agent and repeats everything
            session.close(error)


def _acknowledge_log(chunk: pb.LogChunk, _: None) -> pb.SessionResponse:
    return pb.SessionResponse(
        acknowledgement=pb.Acknowledgement(attempt_id=chunk.attempt_id, stream=chunk.stream, sequence=chunk.sequence)
    )


def _acknowledge_end(report: pb.EndReport, _: None) -> pb.SessionResponse:
    return pb.SessionResponse(acknowledgement=pb.Acknowledgement(attempt_id=report.attempt_id))


def _answer_stage(report: pb.StageReport, granted: bool) -> pb.SessionResponse:
    if granted:
        return pb.SessionResponse(publish=pb.Publish(attempt_id=report.attempt_id))
    return pb.SessionResponse(stop=pb.Stop(attempt_id=report.attempt_id, reason=Reason.PUBLISH_REFUSED))
