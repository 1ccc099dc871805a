"""One simulated agent: sessions, one after the other, and what it holds and owes across them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from grpc import aio

from agent.core.ledger import Effect, Ledger, Phase
from bench.fleet.deeds import Deed, Script, end_report, prompt, records, stages
from bench.fleet.hooks import Hooks, Tally
from bench.fleet.machine import Machine
from mediactl.channel import KEEPALIVE_SERVER, MAX_MESSAGE_BYTES, parse_address
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc

LEAST_STATUS_S = 0.1
"""Changes worth telling are told no more often than this."""
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 5.0
ACCEPTED_S = 10.0
MOST_BUNDLED = 1000
"""Frames in one bundle: a message may have 16 MiB."""

_OPTIONS = (
    *KEEPALIVE_SERVER,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.default_authority", "localhost"),
    # Without it all channels of a process share one connection, which no real fleet does.
    ("grpc.use_local_subchannel_pool", 1),
    # The agent's own back-off decides.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
)
_PHASES = {
    Phase.ACCEPTED: pb.PHASE_ACCEPTED,
    Phase.RUNNING: pb.PHASE_RUNNING,
    Phase.STAGED: pb.PHASE_STAGED,
    Phase.PUBLISHING: pb.PHASE_PUBLISHING,
    Phase.ENDED: pb.PHASE_ENDED,
}

_Call = aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]


@dataclass(slots=True)
class _Doing:
    lease: pb.Lease
    deed: Deed
    since: float
    records: list[pb.RedoRecord] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


_Step = Callable[[_Doing], None]


class SimulatedAgent:
    """`run` until cancelled. Belongs to one event loop; plain text connections only.

    `controllers` are addresses as `mediactl.channel` takes them, tried in turn. Another agent object with the same id
    and `instance_id` is the same machine after a restart that lost all it held.
    """

    def __init__(
        self,
        agent_id: str,
        controllers: Sequence[str],
        *,
        machine: Machine | None = None,
        script: Script = prompt,
        hooks: Hooks | None = None,
        tally: Tally | None = None,
        seed: int = 0,
        instance_id: str = "",
    ) -> None:
        self.agent_id = agent_id
        self.tally = tally or Tally()
        self.connected = asyncio.Event()
        """Set while it has a session."""
        self._controllers = [str(parse_address(address)) for address in controllers]
        self._next_controller = 0
        self._machine = machine or Machine()
        self._hello = self._machine.hello(agent_id, instance_id or f"machine of {agent_id}")
        self._script = script
        self._hooks = hooks or Hooks()
        self._dice = random.Random(f"{seed} {agent_id}")  # noqa: S311 - jitter
        self._ledger: Ledger[pb.LogChunk, pb.StageReport, pb.EndReport] = Ledger()
        self._doing: dict[str, _Doing] = {}
        self._incarnations: dict[str, str] = {}
        self._unsent: list[pb.SessionRequest] = []
        self._fresh = asyncio.Event()
        self._changed = False
        self._draining = False
        self._call: _Call | None = None

    @property
    def holds(self) -> tuple[str, ...]:
        """Attempts it holds, ended ones that wait for their acknowledgement among them."""
        return tuple(held.attempt_id for held in self._ledger)

    async def run(self) -> None:
        """Keep a session up; ends by being cancelled only. What it holds is kept for another `run`."""
        failures = 0
        while True:
            begun = time.monotonic()
            try:
                with suppress(aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                    await self._session()
            except asyncio.CancelledError:
                # A call that was cut raises it too.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
            failures = 0 if time.monotonic() - begun > BACKOFF_MOST_S else failures + 1
            most = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 10))
            await asyncio.sleep(most * (0.5 + 0.5 * self._dice.random()))

    def cut(self) -> None:
        """Break the session off; it comes back after its back-off."""
        if self._call is not None:
            self._call.cancel()

    def drain(self) -> None:
        """Ask for no new work from now on."""
        self._draining = self._changed = True
        self._fresh.set()

    # The session

    async def _session(self) -> None:
        address = self._controllers[self._next_controller % len(self._controllers)]
        self._next_controller += 1
        async with aio.insecure_channel(
            address if address.startswith("unix:") else f"dns:///{address}", _OPTIONS
        ) as channel:
            stub: agent_service_pb2_grpc.AgentServiceAsyncStub = agent_service_pb2_grpc.AgentServiceStub(channel)
            self._call = call = stub.Session()
            hello = pb.Hello()
            hello.CopyFrom(self._hello)
            hello.holdings.extend(self._holdings())
            async with asyncio.timeout(ACCEPTED_S):
                await call.write(pb.SessionRequest(hello=hello))
                first = await call.read()
            if not isinstance(first, pb.SessionResponse) or not first.HasField("welcome"):
                return
            # This controller is a good one: come back to it first.
            self._next_controller -= 1
            self._unsent = [_frame(owed) for owed in self._ledger.owed()]
            self._fresh.set()
            self.tally.connected += 1
            self.tally.sessions += 1
            self.connected.set()
            self._hooks.connected(self, first.welcome)
            speaking = asyncio.create_task(self._speak(call, first.welcome))
            try:
                while isinstance(frame := await call.read(), pb.SessionResponse):
                    if frame.HasField("bundle"):
                        for inner in frame.bundle.frames:
                            self._handle(inner)
                    else:
                        self._handle(frame)
                self._next_controller += 1
            finally:
                self.connected.clear()
                self.tally.connected -= 1
                self._call = None
                speaking.cancel()
                with suppress(asyncio.CancelledError, aio.AioRpcError, asyncio.InvalidStateError):
                    await speaking

    async def _speak(self, call: _Call, welcome: pb.Welcome) -> None:
        heartbeat_s = welcome.heartbeat_interval.ToMilliseconds() / 1000
        bundled = MOST_BUNDLED if "bundles" in welcome.features else 1
        told = float("-inf")
        while True:
            self._fresh.clear()
            frames, self._unsent = self._unsent, []
            if time.monotonic() - told >= (LEAST_STATUS_S if self._changed else heartbeat_s):
                self._changed = False
                told = time.monotonic()
                frames.append(pb.SessionRequest(status=self._status()))
            for start in range(0, len(frames), bundled):
                piece = frames[start : start + bundled]
                whole = piece[0] if len(piece) == 1 else pb.SessionRequest(bundle=pb.RequestBundle(frames=piece))
                await call.write(whole)
            patience_s = told + (LEAST_STATUS_S if self._changed else heartbeat_s) - time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._fresh.wait()

    def _status(self) -> pb.AgentStatus:
        return pb.AgentStatus(
            holdings=self._holdings(),
            scratch_free_bytes=self._hello.capabilities.scratch_bytes,
            draining=self._draining,
        )

    def _holdings(self) -> list[pb.Holding]:
        return [
            pb.Holding(
                attempt_id=held.attempt_id,
                phase=_PHASES[held.phase],
                incarnation=self._incarnations.get(held.attempt_id, ""),
            )
            for held in self._ledger
        ]

    def _say(self, frame: pb.SessionRequest) -> None:
        self._unsent.append(frame)
        self._fresh.set()

    # What the controller says

    def _handle(self, frame: pb.SessionResponse) -> None:
        match frame.WhichOneof("frame"):
            case "lease":
                self._lease(frame.lease)
            case "publish":
                self._publish(frame.publish.attempt_id)
            case "acknowledgement":
                self._acknowledged(frame.acknowledgement)
            case "stop":
                self._stop(frame.stop)
            case "welcome" | "bundle" | "collect" | "recalled" | "sign" | "sweep" | None:
                pass

    def _lease(self, lease: pb.Lease) -> None:
        if self._ledger.get(lease.attempt_id) is not None:
            return
        deed = self._script(lease)
        why_not = deed.decline
        if self._draining:
            why_not = "it drains"
        elif lease.capability_revision not in ("", self._hello.capabilities.revision):
            why_not = "the capabilities are others now"
        if why_not:
            self.tally.declined += 1
            self._say(pb.SessionRequest(decline=pb.Decline(attempt_id=lease.attempt_id, message=why_not)))
            return
        if self._ledger.lease(lease.attempt_id) is not Effect.START:
            return
        self.tally.leased += 1
        self._incarnations[lease.attempt_id] = lease.incarnation
        self._doing[lease.attempt_id] = doing = _Doing(lease, deed, time.monotonic())
        self.tally.first_leased_at = self.tally.first_leased_at or doing.since
        self._hooks.leased(self, lease)
        if lease.redo:
            doing.records = list(lease.redo)
            self._enter(lease.attempt_id, Phase.PUBLISHING)
            self._later(doing, deed.publish_s, self._published)
        elif deed.work_s:
            self._enter(lease.attempt_id, Phase.RUNNING)
            self._later(doing, deed.work_s, self._worked)
        else:
            self._worked(doing)

    def _worked(self, doing: _Doing) -> None:
        if not stages(doing.lease, doing.deed):
            self._end(end_report(doing.lease, doing.deed, time.monotonic() - doing.since))
            return
        doing.records = records(doing.lease)
        report = pb.StageReport(attempt_id=doing.lease.attempt_id, records=doing.records)
        self._ledger.owe_stage(report.attempt_id, report)
        self._say(pb.SessionRequest(staged=report))

    def _publish(self, attempt_id: str) -> None:
        if self._ledger.publish(attempt_id) is Effect.PUBLISH:
            doing = self._doing[attempt_id]
            self._later(doing, doing.deed.publish_s, self._published)

    def _published(self, doing: _Doing) -> None:
        self.tally.published += 1
        self._hooks.published(self, doing.lease.attempt_id, doing.records)
        self._end(end_report(doing.lease, doing.deed, time.monotonic() - doing.since))

    def _stop(self, stop: pb.Stop) -> None:
        self._hooks.stopped(self, stop)
        match self._ledger.stop(stop.attempt_id):
            case Effect.STOP:
                doing = self._doing[stop.attempt_id]
                if doing.timer is not None:
                    doing.timer.cancel()
            case Effect.REPORT_STOPPED:
                self._ledger.lease(stop.attempt_id)
            case _:
                return
        self.tally.stopped += 1
        self._end(pb.EndReport(attempt_id=stop.attempt_id, outcome=pb.OUTCOME_STOPPED))

    def _end(self, report: pb.EndReport) -> None:
        self._doing.pop(report.attempt_id, None)
        self._ledger.owe_end(report.attempt_id, report)
        self.tally.ended += 1
        self._say(pb.SessionRequest(ended=report))
        self._hooks.ended(self, report)

    def _acknowledged(self, said: pb.Acknowledgement) -> None:
        held = self._ledger.get(said.attempt_id)
        if said.stream or held is None or held.ended is None:
            return
        self._ledger.acknowledge_end(said.attempt_id)
        self._incarnations.pop(said.attempt_id, None)
        self.tally.acknowledged += 1
        self.tally.acknowledged_at = time.monotonic()
        self._hooks.acknowledged(self, said.attempt_id)

    # Time

    def _enter(self, attempt_id: str, phase: Phase) -> None:
        held = self._ledger.get(attempt_id)
        if held is not None:
            held.phase = phase
            self._changed = True
            self._fresh.set()

    def _later(self, doing: _Doing, delay_s: float, then: _Step) -> None:
        doing.timer = None
        if delay_s:
            doing.timer = asyncio.get_running_loop().call_later(delay_s, then, doing)
        else:
            then(doing)


def _frame(owed: pb.LogChunk | pb.StageReport | pb.EndReport) -> pb.SessionRequest:
    match owed:
        case pb.StageReport():
            return pb.SessionRequest(staged=owed)
        case pb.EndReport():
            return pb.SessionRequest(ended=owed)
        case pb.LogChunk():
            return pb.SessionRequest(log=owed)
