"""The agent's end of the stream: connect, exchange state, connect again."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice

import grpc
import structlog

from agent.attempt import Attempt
from agent.core.ledger import Effect
from agent.core.reluctance import Reluctance
from agent.delivery import FEATURE, Delivery
from agent.journal import left_lease
from agent.media.supervised import end_steps
from agent.outbox import Outbox
from agent.records import failure_message
from agent.settings import Settings
from agent.transform import Means
from agent.workspace import Workspace, workspaces
from mediactl.channel import aio_channel, parse_addresses
from mediactl.errors import from_rpc_error
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc
from presets.capabilities import Requirements, choose_binary
from presets.problems import MediaFailure
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
        self._outbox = Outbox(settings.outbox)
        self._delivery = Delivery(means.remains, self._outbox.fresh.set)
        self._reluctance = Reluctance()
        self._attempts: dict[str, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._in_haste = asyncio.Event()
        self.leaving = False
        """What runs is left to the agent's next life."""
        self._idle = asyncio.Event()
        self._renewed = False
        self.on_failure: Callable[[Reason], None] = lambda reason: None
        """Hears of the failures of its attempts."""
        self._connected_to = ""

    def status(self) -> str:
        """In one line, for people."""
        held = len(self._attempts)
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
        await self._take_up()
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
        for attempt in self._attempts.values():
            attempt.leave()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        self._outbox.flush()
        self._outbox.close()

    async def _finish(self) -> None:
        """Let work end in the time allowed, hand back what does not, wait a moment for the acknowledgements."""
        haste = asyncio.create_task(self._in_haste.wait())
        idle = asyncio.create_task(self._idle.wait())
        if self._attempts:
            log.info("finishing what is in hand", attempts=len(self._attempts), within_s=self._settings.drain_s)
            await asyncio.wait([haste, idle], timeout=self._settings.drain_s, return_when=asyncio.FIRST_COMPLETED)
        haste.cancel()
        idle.cancel()
        self.hand_back("the agent is stopping")
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

    async def _take_up(self) -> None:
        """Hold again what was held, and go on with what can go on. Nobody else works in the scratch folder."""
        for attempt_id in self._outbox.load():
            held = self._outbox.ledger.get(attempt_id)
            if held is not None and held.ended is not None:
                continue
            lease = left_lease(Workspace(self._means.scratch, attempt_id))
            if lease is None:
                self._outbox.forget(attempt_id)
                continue
            log.info("attempt taken up again", attempt=attempt_id, job=lease.job_id)
            self._begin(lease, taken_up=True)
        for orphan in workspaces(self._means.scratch):
            if orphan.attempt_id not in self._attempts:
                await self._remove(orphan)
        await asyncio.to_thread(self._means.confinement.sweep, tuple(self._attempts))

    async def _remove(self, orphan: Workspace) -> None:
        """As far as that goes: the agent must start, if only so that there is room again on a full disk."""
        try:
            try:
                await end_steps(orphan.steps)
            finally:
                await asyncio.to_thread(orphan.remove)
        except OSError as error:
            log.warning("an orphaned workspace resists", attempt=orphan.attempt_id, error=str(error))
        else:
            log.info("removed an orphaned workspace", attempt=orphan.attempt_id)

    def hand_back(self, why: str) -> None:
        """Stop what runs, to be begun anew elsewhere; what is being published is finished. A repeat does no harm."""
        if self._attempts:
            log.info("handing back what runs", attempts=list(self._attempts), why=why)
        for attempt in list(self._attempts.values()):
            attempt.stop(Reason.AGENT_STOPPING)

    def renew(self, means: Means) -> None:
        """The machine can do something else now: attempts to come work with that, and the controller hears of it."""
        self._means = means
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
            hello.features.extend((BUNDLES, FEATURE))
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
                    "nothing; stop the agent and start it again to end them (a restart takes them up again)",
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
                self._delivery.reset()
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
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await outbox.fresh.wait()

    def _bundled(self, frames: Iterable[pb.SessionRequest]) -> Iterator[pb.SessionRequest]:
        """The same frames in few messages, as far as the controller understands that."""
        size = MOST_IN_BUNDLE if self._bundles else 1
        source = iter(frames)
        while some := list(islice(source, size)):
            yield some[0] if len(some) == 1 else pb.SessionRequest(bundle=pb.RequestBundle(frames=some))

    def _status(self) -> pb.AgentStatus:
        return pb.AgentStatus(
            holdings=self._outbox.holdings(),
            scratch_free_bytes=self._means.room.free_bytes,
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
                if self._outbox.publish(frame.publish.attempt_id) is Effect.PUBLISH:
                    self._attempts[frame.publish.attempt_id].publish()
            case "acknowledgement":
                self._outbox.acknowledge(frame.acknowledgement)
            case "collect":
                self._delivery.ask(frame.collect)
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
        try:
            effect = self._outbox.lease(lease.attempt_id, lease.incarnation)
        except OSError as error:
            self._outbox.decline(pb.Decline(attempt_id=lease.attempt_id, message=f"the agent's disk: {error}"))
            return
        if effect is not Effect.START:
            return
        log.info("attempt leased", attempt=lease.attempt_id, job=lease.job_id)
        self._begin(lease, taken_up=False)

    def _begin(self, lease: pb.Lease, *, taken_up: bool) -> None:
        attempt = Attempt(lease, self._means, self._outbox, taken_up=taken_up)
        self._attempts[lease.attempt_id] = attempt
        self._idle.clear()
        task = attempt.start()
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, lease.attempt_id))

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
        self._tasks.discard(task)
        if self.leaving:
            return
        del self._attempts[attempt_id]
        if not self._attempts:
            self._idle.set()
        held = self._outbox.ledger.get(attempt_id)
        if held is not None and held.ended is None:
            # Stopped before its first step, or a defect in its clean-up: the controller waits for an end all the same.
            report = pb.EndReport(attempt_id=attempt_id, outcome=pb.OUTCOME_STOPPED)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.error("attempt ended by a defect", attempt=attempt_id, exc_info=error)
                # Uses an attempt: what meets a defect once may meet it for ever.
                report.outcome = pb.OUTCOME_FAILED
                defect = f"the agent met a defect: {type(error).__name__}"
                report.failure.CopyFrom(failure_message(MediaFailure(Reason.INTERNAL, defect), ""))
            self._outbox.conclude(report)
            self._outbox.end(report)
        outcome = pb.Outcome.Name(held.ended.outcome) if held is not None and held.ended is not None else "?"
        log.info("attempt ended", attempt=attempt_id, outcome=outcome)
        if held is not None and held.ended is not None and held.ended.failure.reason in Reason.__members__:
            self.on_failure(Reason(held.ended.failure.reason))

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
