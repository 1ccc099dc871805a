"""The agent's end of the stream: connect, exchange state, connect again."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import grpc
import structlog

from agent.core.ledger import Effect
from agent.core.reluctance import Reluctance
from agent.executor import Attempt, Means
from agent.outbox import Outbox
from agent.settings import Settings
from agent.workspace import free_bytes
from mediactl.channel import aio_channel, parse_addresses
from mediactl.errors import from_rpc_error
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc
from presets.capabilities import Requirements, choose_binary
from presets.reasons import Reason

log = structlog.get_logger()

LEAST_STATUS_S = 0.1
"""Progress and logs are told no more often than this; a change of phase at once."""
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 10.0
ACCEPTED_S = 10.0
STOP_S = 5.0

BUNDLES = "bundles"
"""The feature of taking several frames as one."""
MOST_IN_BUNDLE = 16
"""A chunk of log has 64 KiB, and a message at the most 4 MiB."""
KINDS = (pb.TASK_KIND_TRANSFORM, pb.TASK_KIND_PLAN)

_Call = grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]


class Agent:
    """Holds attempts across sessions. `run` until `stop`."""

    def __init__(self, settings: Settings, hello: Callable[[], pb.Hello], means: Means, dice: random.Random) -> None:
        self._settings = settings
        self._hello = hello
        self._means = means
        self._dice = dice
        self._addresses = [str(target) for target in parse_addresses(settings.controller)]
        self._turn = 0
        self._bundles = False
        self._outbox = Outbox()
        self._reluctance = Reluctance()
        self._attempts: dict[str, Attempt] = {}
        self._stopping = asyncio.Event()
        self._connected_to = ""

    def status(self) -> str:
        """In one line, for people."""
        held = len(self._attempts)
        told = [f"{held} attempt{'' if held == 1 else 's'}"]
        told.append(f"connected to {self._connected_to}" if self._connected_to else "no controller answers")
        if self._reluctance.reason:
            told.append(f"no new work: {self._reluctance.reason}")
        return ", ".join(told)

    async def run(self) -> None:
        """Keep a session up until `stop`; then hand back what runs and wait a moment for the acknowledgements."""
        connecting = asyncio.create_task(self._stay_connected())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            # It never ends by itself: a defect, which the supervisor of this process must see.
            stopping.cancel()
            await connecting
        for attempt in list(self._attempts.values()):
            attempt.stop(Reason.AGENT_STOPPING)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._outbox.empty.wait()
        connecting.cancel()
        with suppress(asyncio.CancelledError):
            await connecting

    def stop(self) -> None:
        """Take nothing new and end."""
        self._stopping.set()
        self.object("stop", "it is stopping")

    def object(self, source: str, reason: str) -> None:
        """Take nothing new for this reason, until its source withdraws it by an empty one."""
        if self._reluctance.set(source, reason):
            log.info(
                "no new work is wanted" if reason else "no longer in the way of new work", source=source, why=reason
            )
            self._outbox.urgent = True
            self._outbox.fresh.set()

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            begun = time.monotonic()
            try:
                await self._session()
            except grpc.aio.AioRpcError as error:
                why = from_rpc_error(error)
                log.warning("session ended", reason=str(why.reason), message=why.message)
            except OSError as error:
                log.warning("session ended", message=str(error))
            failures = 0 if time.monotonic() - begun > BACKOFF_MOST_S else failures + 1
            # Whatever ended it: another controller may do better, and all of them know the same.
            self._turn += 1
            most = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 10))
            await asyncio.sleep(most * (0.5 + 0.5 * self._dice.random()))

    async def _session(self) -> None:
        address = self._addresses[self._turn % len(self._addresses)]
        async with aio_channel(address, self._settings.credentials) as channel:
            call: _Call = agent_service_pb2_grpc.AgentServiceStub(channel).Session()
            hello = self._hello()
            hello.holdings.extend(self._outbox.holdings())
            hello.features.append(BUNDLES)
            await call.write(pb.SessionRequest(hello=hello))
            async with asyncio.timeout(ACCEPTED_S):
                first = await call.read()
            if not isinstance(first, pb.SessionResponse) or not first.HasField("welcome"):
                raise await _status_of(call)
            heartbeat_s = first.welcome.heartbeat_interval.ToMilliseconds() / 1000
            log.info("connected", controller=address, epoch=first.welcome.epoch)
            if first.welcome.quarantined:
                log.warning(
                    "the controller's database was restored and does not know attempts that run here: they can publish "
                    "nothing; restart the agent to end them",
                    attempts=list(first.welcome.quarantined),
                )
            self._connected_to = address
            self._outbox.restart()
            self._bundles = BUNDLES in first.welcome.features
            speaking = asyncio.create_task(self._speak(call, heartbeat_s))
            try:
                while isinstance(frame := await call.read(), pb.SessionResponse):
                    self._handle(frame)
                raise await _status_of(call)
            finally:
                self._connected_to = ""
                speaking.cancel()
                with suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await speaking

    async def _speak(self, call: _Call, heartbeat_s: float) -> None:
        told_at = 0.0
        while True:
            outbox = self._outbox
            outbox.fresh.clear()
            since = time.monotonic() - told_at
            due = outbox.urgent or since >= LEAST_STATUS_S
            if due:
                outbox.flush()
            frames = list(outbox.take())
            if due:
                outbox.urgent = False
                frames.append(pb.SessionRequest(status=self._status()))
                told_at = time.monotonic()
                since = 0.0
                patience_s = heartbeat_s
            else:
                patience_s = LEAST_STATUS_S - since
            for frame in self._bundled(frames):
                await call.write(frame)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await outbox.fresh.wait()

    def _bundled(self, frames: list[pb.SessionRequest]) -> Iterator[pb.SessionRequest]:
        """The same frames in few messages, as far as the controller understands that."""
        size = MOST_IN_BUNDLE if self._bundles else 1
        for start in range(0, len(frames), size):
            some = frames[start : start + size]
            yield some[0] if len(some) == 1 else pb.SessionRequest(bundle=pb.RequestBundle(frames=some))

    def _status(self) -> pb.AgentStatus:
        return pb.AgentStatus(
            holdings=self._outbox.holdings(),
            scratch_free_bytes=free_bytes(self._means.scratch),
            draining=bool(self._reluctance.reason),
            drain_reason=self._reluctance.reason,
        )

    def _handle(self, frame: pb.SessionResponse) -> None:
        match frame.WhichOneof("frame"):
            case "bundle":
                for inner in frame.bundle.frames:
                    if not inner.HasField("bundle"):
                        self._handle(inner)
            case "lease":
                self._lease(frame.lease)
            case "stop":
                self._stop(frame.stop)
            case "publish":
                if self._outbox.ledger.publish(frame.publish.attempt_id) is Effect.PUBLISH:
                    self._attempts[frame.publish.attempt_id].publish()
            case "acknowledgement":
                self._outbox.acknowledge(frame.acknowledgement)
            case "welcome" | None:
                # Of a protocol this version doesn't know: the controller repeats what matters.
                pass

    def _lease(self, lease: pb.Lease) -> None:
        if self._stopping.is_set():
            # The attempt is handed back with all others, or was never begun.
            return
        if wrong := self._unfit(lease):
            log.info("lease declined", attempt=lease.attempt_id, why=wrong)
            self._outbox.decline(pb.Decline(attempt_id=lease.attempt_id, message=wrong))
            return
        if self._outbox.lease(lease.attempt_id, lease.incarnation) is not Effect.START:
            return
        log.info("attempt leased", attempt=lease.attempt_id, job=lease.job_id)
        attempt = Attempt(lease, self._means, self._outbox)
        self._attempts[lease.attempt_id] = attempt
        attempt.start().add_done_callback(partial(self._ended, lease.attempt_id))

    def _unfit(self, lease: pb.Lease) -> str:
        """Why a lease that this agent doesn't hold yet can't be taken; empty: it can."""
        if self._outbox.ledger.get(lease.attempt_id) is not None:
            return ""
        if lease.kind not in KINDS:
            return "this agent's version does not know this kind of task"
        if lease.capability_revision != self._hello().capabilities.revision and lease.requirements_json:
            needs = Requirements.from_json(json.loads(lease.requirements_json)).alternatives
            if choose_binary(self._means.binaries, needs[0]) is None:
                return "this agent's capabilities have changed, and it lacks what the task needs"
        return ""

    def _ended(self, attempt_id: str, task: asyncio.Task[None]) -> None:
        del self._attempts[attempt_id]
        held = self._outbox.ledger.get(attempt_id)
        if held is not None and held.ended is None:
            # Stopped before its first step, or a defect in its clean-up: the controller waits for an end all the same.
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.error("attempt ended by a defect", attempt=attempt_id, exc_info=error)
            self._outbox.end(pb.EndReport(attempt_id=attempt_id, outcome=pb.OUTCOME_STOPPED))
        outcome = pb.Outcome.Name(held.ended.outcome) if held is not None and held.ended is not None else "?"
        log.info("attempt ended", attempt=attempt_id, outcome=outcome)

    def _stop(self, stop: pb.Stop) -> None:
        match self._outbox.ledger.stop(stop.attempt_id):
            case Effect.STOP:
                log.info("attempt told to stop", attempt=stop.attempt_id, reason=stop.reason)
                self._attempts[stop.attempt_id].stop(stop.reason, leave_staged=stop.leave_staged)
            case Effect.REPORT_STOPPED:
                self._outbox.report_stopped(stop.attempt_id)
            case _:
                pass


async def _status_of(call: _Call) -> grpc.aio.AioRpcError:
    """How the controller ended the stream."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
