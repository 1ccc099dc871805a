"""The agent's end of the stream: connect, exchange state, connect again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

import grpc
import structlog

from agent import delivery, signing, sweeping
from agent.attempts import Attempts
from agent.core.reluctance import Reluctance
from agent.delivery import Delivery
from agent.means import Means
from agent.outbox import Outbox
from agent.settings import Settings
from agent.signing import Signing
from agent.sweeping import Sweeping
from mediactl.channel import aio_channel, parse_addresses
from mediactl.errors import from_rpc_error
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc, fleet_service_pb2
from presets.reasons import Reason

log = structlog.get_logger()

LEAST_STATUS_S = 0.1
"""Progress and logs are told no more often than this; a change of phase at once."""
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 10.0
ACCEPTED_S = 10.0
CONFLICT_S = 60.0
"""Between tries while another machine uses the same agent id."""
STOP_S = 5.0

BUNDLES = "bundles"
"""The feature of taking several frames as one."""
RECALL = "recall"
"""The controller's feature of answering Recall."""
MOST_IN_BUNDLE = 16
"""A chunk of log has 64 KiB, and a message at the most 4 MiB."""

_Call = grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]


class Agent:
    """Speaks to a controller for what it holds. `run` until `stop` or `leave`."""

    def __init__(self, settings: Settings, hello: Callable[[], pb.Hello], means: Means, dice: random.Random) -> None:
        self._settings = settings
        self._hello = hello
        self._dice = dice
        self._addresses = [str(target) for target in parse_addresses(settings.controller)]
        self._turn = 0
        self._bundles = False
        self._outbox = Outbox(settings.outbox)
        self._delivery = Delivery(means.remains, self._outbox.fresh.set)
        self._signing = Signing(means.stores, self._outbox.fresh.set)
        self._sweeping = Sweeping(means.stores, self._holds, self._outbox.fresh.set)
        self._reluctance = Reluctance()
        self.attempts = Attempts(means, self._outbox)
        self._stopping = asyncio.Event()
        self._in_haste = asyncio.Event()
        self.leaving = False
        """What runs is left to the agent's next life."""
        self._renewed = False
        self._connected_to = ""

    def status(self) -> str:
        """In one line, for people."""
        held = len(self.attempts)
        told = [f"{held} attempt{'' if held == 1 else 's'}"]
        told.append(f"connected to {self._connected_to}" if self._connected_to else "no controller answers")
        if self._reluctance.reason:
            told.append(f"no new work: {self._reluctance.reason}")
        return ", ".join(told)

    async def alive(self) -> None:
        """Returns if work can go on: while storage that hangs holds every thread, none can."""
        await asyncio.to_thread(lambda: None)

    async def run(self) -> None:
        """Take up what a former life of the agent left, and keep a session up until `stop` or `leave`."""
        await self.attempts.take_up()
        connecting = asyncio.create_task(self._stay_connected())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            # It never ends by itself: a defect, which the supervisor of this process must see.
            stopping.cancel()
            await connecting
        if not self.leaving:
            await self._finish()
        connecting.cancel()
        with suppress(asyncio.CancelledError):
            await connecting
        # What was not acknowledged, or not handed back, is the next life's.
        await self.attempts.leave(STOP_S)
        self._outbox.flush()
        self._outbox.close()

    async def _finish(self) -> None:
        """Let work end in the time allowed, hand back what does not, wait a moment for the acknowledgements."""
        haste = asyncio.create_task(self._in_haste.wait())
        idle = asyncio.create_task(self.attempts.idle.wait())
        if self.attempts:
            log.info("finishing what is in hand", attempts=len(self.attempts), within_s=self._settings.drain_s)
            await asyncio.wait([haste, idle], timeout=self._settings.drain_s, return_when=asyncio.FIRST_COMPLETED)
        haste.cancel()
        idle.cancel()
        self.attempts.hand_back("the agent is stopping")
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._outbox.empty.wait()

    def stop(self) -> None:
        """Take nothing new, finish or hand back what runs, and end. Asked for twice: hand it back at once."""
        if self._stopping.is_set():
            self._in_haste.set()
        self._stopping.set()
        self.object("stop", "it is stopping")

    def leave(self) -> None:
        """End at once and leave what runs to its supervisors: the agent's next life takes it up."""
        self.leaving = True
        self._stopping.set()

    def renew(self, means: Means) -> None:
        """The machine can do something else now: attempts to come work with that, and the controller hears of it."""
        self.attempts.means = means
        self._renewed = True
        self._outbox.fresh.set()

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
                if why.reason is Reason.AGENT_ID_CONFLICT:
                    await self._bear_conflict()
                    continue
            except OSError as error:
                log.warning("session ended", message=str(error))
            failures = 0 if time.monotonic() - begun > BACKOFF_MOST_S else failures + 1
            # Whatever ended it: another controller may do better, and all of them know the same.
            self._turn += 1
            most = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 10))
            await asyncio.sleep(most * (0.5 + 0.5 * self._dice.random()))

    async def _bear_conflict(self) -> None:
        # Nothing but a person, or the loss of the other machine, ends it.
        log.error(
            "another machine speaks under this agent's id, so this one gets no work; is it a copy, stop this agent, "
            "delete the file and start it again",
            file=str(self._settings.data_dir / "agent-id"),
            next_try_s=CONFLICT_S,
        )
        await asyncio.sleep(CONFLICT_S * (0.5 + 0.5 * self._dice.random()))

    async def _session(self) -> None:
        address = self._addresses[self._turn % len(self._addresses)]
        async with aio_channel(address, self._settings.credentials) as channel:
            call: _Call = agent_service_pb2_grpc.AgentServiceStub(channel).Session()
            self._renewed = False
            hello = self._hello()
            hello.holdings.extend(self._outbox.holdings())
            hello.features.extend((BUNDLES, delivery.FEATURE, signing.FEATURE, sweeping.FEATURE))
            await greet(call, hello)
            async with asyncio.timeout(ACCEPTED_S):
                first = await call.read()
            if not isinstance(first, pb.SessionResponse) or not first.HasField("welcome"):
                raise await _status_of(call)
            heartbeat_s = first.welcome.heartbeat_interval.ToMilliseconds() / 1000
            log.info("connected", controller=address, epoch=first.welcome.epoch)
            if first.welcome.quarantined:
                log.warning(
                    "the controller's database was restored and does not know attempts that run here: they can publish "
                    "nothing; stop the agent and start it again to end them (a restart takes them up again)",
                    attempts=list(first.welcome.quarantined),
                )
            self._connected_to = address
            self._outbox.recalls = RECALL in first.welcome.features
            self._outbox.restart()
            self._bundles = BUNDLES in first.welcome.features
            speaking = asyncio.create_task(self._speak(call, heartbeat_s))
            try:
                while isinstance(frame := await call.read(), pb.SessionResponse):
                    self._handle(frame)
                raise await _status_of(call)
            finally:
                self._delivery.reset()
                self._signing.reset()
                self._sweeping.reset()
                self._connected_to = ""
                speaking.cancel()
                with suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await speaking

    async def _speak(self, call: _Call, heartbeat_s: float) -> None:
        told_at = 0.0
        while True:
            outbox = self._outbox
            outbox.fresh.clear()
            if self._renewed:
                # What it can do is said in a hello, and that only at the beginning of a session.
                await call.done_writing()
                return
            since = time.monotonic() - told_at
            due = outbox.urgent or since >= LEAST_STATUS_S
            if due:
                outbox.flush()
            frames: Iterable[pb.SessionRequest] = outbox.take()
            if due:
                outbox.urgent = False
                frames = chain(frames, [pb.SessionRequest(status=self._status())])
                told_at = time.monotonic()
                since = 0.0
                patience_s = heartbeat_s
            else:
                patience_s = LEAST_STATUS_S - since
            for frame in self._bundled(frames):
                await call.write(frame)
            if (piece := self._delivery.take()) is not None:
                await call.write(pb.SessionRequest(remains=piece))
            while (signed := self._signing.take()) is not None:
                await call.write(pb.SessionRequest(signed=signed))
            while (swept := self._sweeping.take()) is not None:
                await call.write(pb.SessionRequest(swept=swept))
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await outbox.fresh.wait()

    def _bundled(self, frames: Iterable[pb.SessionRequest]) -> Iterator[pb.SessionRequest]:
        """The same frames in few messages, as far as the controller understands that."""
        size = MOST_IN_BUNDLE if self._bundles else 1
        source = iter(frames)
        while some := list(islice(source, size)):
            yield some[0] if len(some) == 1 else pb.SessionRequest(bundle=pb.RequestBundle(frames=some))

    def _holds(self, attempt_id: str) -> bool:
        return self._outbox.ledger.get(attempt_id) is not None

    def _status(self) -> pb.AgentStatus:
        return pb.AgentStatus(
            holdings=self._outbox.holdings(),
            scratch_free_bytes=self.attempts.means.room.free_bytes,
            draining=bool(self._reluctance.reason),
            drain_reason=self._reluctance.reason,
            cache=self._cache(),
        )

    def _cache(self) -> fleet_service_pb2.CacheStatus | None:
        cache = self.attempts.means.stores.cache
        if cache is None or not cache.limit_bytes:
            return None
        return fleet_service_pb2.CacheStatus(
            limit_bytes=cache.limit_bytes,
            held_bytes=cache.held_bytes,
            hits=cache.hits,
            misses=cache.misses,
            saved_bytes=cache.saved_bytes,
        )

    def _handle(self, frame: pb.SessionResponse) -> None:
        match frame.WhichOneof("frame"):
            case "bundle":
                for inner in frame.bundle.frames:
                    if not inner.HasField("bundle"):
                        self._handle(inner)
            case "lease":
                # One that comes while it stops is given to others once it is gone.
                if not self._stopping.is_set():
                    self.attempts.take(frame.lease, self._hello().capabilities.revision)
            case "stop":
                self.attempts.stop(frame.stop)
            case "publish":
                self.attempts.publish(frame.publish.attempt_id)
            case "acknowledgement":
                self._outbox.acknowledge(frame.acknowledgement)
            case "collect":
                self._delivery.ask(frame.collect)
            case "recalled":
                self.attempts.recalled(frame.recalled)
            case "sign":
                self._signing.ask(frame.sign)
            case "sweep":
                self._sweeping.ask(frame.sweep)
            case "welcome" | None:
                # Of a protocol this version doesn't know: the controller repeats what matters.
                pass


async def greet(call: _Call, hello: pb.Hello) -> None:
    """Say who speaks. Raises AioRpcError where the call has ended already."""
    try:
        await call.write(pb.SessionRequest(hello=hello))
    except asyncio.InvalidStateError:
        # The library tells nothing more of a call that fails before the first word, as one does that nobody answers.
        raise await _status_of(call) from None


async def _status_of(call: _Call) -> grpc.aio.AioRpcError:
    """How the controller ended the stream."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
