"""An agent whose every word a test decides: the raw stream of AgentService, no FFmpeg and no rules of its own.

It reports its status at the controller's heartbeat interval, as an agent must, until `silent` is set; whatever the
controller says is kept until the test asks for it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio

from bench.fleet.machine import ABLE
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc, fleet_service_pb2, job_pb2
from presets.reasons import Reason

PATIENCE_S = 15.0
"""How long a test waits for what must come. Generous: machines that run tests are busy."""

T = TypeVar("T")


def capabilities(
    *, cores: int = 4, max_tasks: int = 4, roots: Sequence[str] = ("/media",), able: Sequence[str] = ABLE
) -> fleet_service_pb2.Capabilities:
    """Those of a machine with one FFmpeg."""
    return fleet_service_pb2.Capabilities(
        cores=cores,
        memory_bytes=8 << 30,
        scratch_bytes=8 << 30,
        media_roots=roots,
        max_tasks=max_tasks,
        binaries=[fleet_service_pb2.FfmpegBinary(path="/usr/bin/ffmpeg", version="9.0", capabilities=able)],
    )


class AgentPeer:
    """One stream. Another stream of the same agent is another AgentPeer with the same `agent_id`."""

    def __init__(
        self,
        channel: aio.Channel,
        agent_id: str = "a1",
        *,
        instance_id: str = "",
        labels: Mapping[str, str] | None = None,
        able: fleet_service_pb2.Capabilities | None = None,
        holdings: Sequence[pb.Holding] = (),
        features: Sequence[str] = (),
    ) -> None:
        stub: agent_service_pb2_grpc.AgentServiceAsyncStub = agent_service_pb2_grpc.AgentServiceStub(channel)
        self._call: aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse] = stub.Session()
        self.agent_id = agent_id
        self.hello = pb.Hello(
            agent_id=agent_id,
            instance_id=instance_id or f"machine of {agent_id}",
            name=f"box-{agent_id}",
            version="0",
            labels=labels or {},
            capabilities=able or capabilities(),
            holdings=holdings,
            features=features,
        )
        self.holdings: dict[str, pb.Holding] = {holding.attempt_id: holding for holding in holdings}
        self.silent = False
        self.epoch = 0
        self._beats = 0
        # gRPC takes one write at a time.
        self._writing = asyncio.Lock()
        self._said: list[pb.SessionResponse] = []
        self._news = asyncio.Condition()
        self._over: aio.AioRpcError | bool = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Introduce the agent and wait for the welcome. Raises the AioRpcError of a refusal."""
        self._tasks.append(asyncio.create_task(self._read()))
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(pb.SessionRequest(hello=self.hello))
        welcome = (await self._expect("welcome", lambda _: True)).welcome
        self.epoch = welcome.epoch
        self._tasks.append(asyncio.create_task(self._beat(welcome.heartbeat_interval.ToMilliseconds() / 1000)))

    async def close(self) -> None:
        """Cut the link, as a machine that vanishes does."""
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the agent says

    async def say(self, **frame: object) -> None:
        """One frame, by the name of its field."""
        async with self._writing:
            await self._call.write(pb.SessionRequest(**frame))  # type: ignore[arg-type]  # one of the oneof's fields

    async def status(self, *, draining: bool = False, drain_reason: str = "") -> None:
        """What it holds now."""
        holdings = self.holdings.values()
        await self.say(status=pb.AgentStatus(holdings=holdings, draining=draining, drain_reason=drain_reason))

    async def hold(
        self, attempt_id: str, phase: "pb.Phase.ValueType" = pb.PHASE_RUNNING, progress: float = 0.0, activity: str = ""
    ) -> None:
        """Hold an attempt from now on, and say so."""
        self.holdings[attempt_id] = pb.Holding(attempt_id=attempt_id, phase=phase, progress=progress, activity=activity)
        await self.status()

    async def log(self, attempt_id: str, sequence: int, data: bytes, stream: str = "ffmpeg") -> None:
        """A piece of a log."""
        await self.say(log=pb.LogChunk(attempt_id=attempt_id, stream=stream, sequence=sequence, data=data))

    async def stage(self, attempt_id: str, *uris: str) -> None:
        """Outputs are staged; one record for each URI."""
        await self.say(staged=stage_report(attempt_id, *uris))

    async def end(
        self,
        attempt_id: str,
        outcome: "pb.Outcome.ValueType" = pb.OUTCOME_COMPLETED,
        *,
        reason: Reason | None = None,
        plan: job_pb2.Plan | None = None,
        kept_bytes: int = 0,
    ) -> None:
        """An attempt is over; with a reason, it failed."""
        self.holdings.pop(attempt_id, None)
        report = pb.EndReport(attempt_id=attempt_id, outcome=pb.OUTCOME_FAILED if reason else outcome, plan=plan)
        report.kept_bytes = kept_bytes
        if reason:
            report.failure.reason, report.failure.message = reason, f"it was {reason}"
        await self.say(ended=report)

    async def complete(self, attempt_id: str, *uris: str) -> None:
        """Run an attempt from begin to end as a good agent does."""
        await self.hold(attempt_id)
        await self.stage(attempt_id, *uris)
        await self.publish(attempt_id)
        await self.end(attempt_id)
        await self.acknowledged(attempt_id)

    # What the controller says

    async def lease(self) -> pb.Lease:
        """The next lease."""
        return (await self._expect("lease", lambda _: True)).lease

    async def stop(self, attempt_id: str) -> pb.Stop:
        """The next stop of an attempt."""
        return (await self._expect("stop", lambda said: said.stop.attempt_id == attempt_id)).stop

    async def publish(self, attempt_id: str) -> None:
        """Permission to publish an attempt."""
        await self._expect("publish", lambda said: said.publish.attempt_id == attempt_id)

    async def acknowledged(self, attempt_id: str, stream: str = "") -> pb.Acknowledgement:
        """The next acknowledgement of an attempt's end, or of a stream of its log."""
        frame = await self._expect(
            "acknowledgement",
            lambda said: said.acknowledgement.attempt_id == attempt_id and said.acknowledgement.stream == stream,
        )
        return frame.acknowledgement

    async def collect(self, attempt_id: str) -> pb.Collect:
        """The next request for what is kept of an attempt."""
        return (await self._expect("collect", lambda said: said.collect.attempt_id == attempt_id)).collect

    async def over(self) -> aio.AioRpcError | None:
        """How the controller ended the stream; None for a regular end."""
        await self._until(lambda: self._over or None)
        return self._over if isinstance(self._over, aio.AioRpcError) else None

    def unread(self, kind: str) -> list[pb.SessionResponse]:
        """Frames of a kind that were received and not asked for."""
        return [said for said in self._said if said.WhichOneof("frame") == kind]

    def forget(self) -> None:
        """Drop what was received and not asked for."""
        self._said.clear()

    async def beats(self, count: int) -> None:
        """Wait for so many more heartbeats of this agent: the controller's own rounds take as long."""
        goal = self._beats + count
        await self._until(lambda: self._beats >= goal or None)

    async def _expect(self, kind: str, wanted: Callable[[pb.SessionResponse], bool]) -> pb.SessionResponse:
        def found() -> pb.SessionResponse | None:
            for frame in self.unread(kind):
                if wanted(frame):
                    self._said.remove(frame)
                    return frame
            if isinstance(self._over, aio.AioRpcError):
                raise self._over
            assert not self._over, f"the stream ended before a {kind}"
            return None

        return await self._until(found)

    async def _until(self, look: Callable[[], T | None]) -> T:
        async with asyncio.timeout(PATIENCE_S), self._news:
            while (found := look()) is None:
                await self._news.wait()
            return found

    async def _read(self) -> None:
        over: aio.AioRpcError | bool = True
        try:
            while isinstance(frame := await self._call.read(), pb.SessionResponse):
                self._said.append(frame)
                await self._tell()
            if await self._call.code() is not grpc.StatusCode.OK:
                over = aio.AioRpcError(
                    await self._call.code(),
                    await self._call.initial_metadata(),
                    await self._call.trailing_metadata(),
                    await self._call.details(),
                )
        except aio.AioRpcError as error:
            over = error
        self._over = over
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _beat(self, interval_s: float) -> None:
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                if not self.silent:
                    await self.status()
                    self._beats += 1
                    await self._tell()
                await asyncio.sleep(interval_s)


def holding(attempt_id: str, phase: "pb.Phase.ValueType" = pb.PHASE_RUNNING, progress: float = 0.0) -> pb.Holding:
    """What an agent says of an attempt that it has kept across streams."""
    return pb.Holding(attempt_id=attempt_id, phase=phase, progress=progress)


def stage_report(attempt_id: str, *uris: str) -> pb.StageReport:
    """Redo records for these final names, staged beside them under the attempt's id."""
    records = [
        pb.RedoRecord(
            artifact=job_pb2.Artifact(name="aac_192", uri=uri, size_bytes=1000, sha256="ab" * 32, profile="aac_192_v1"),
            staged_uri=f"{uri}.{attempt_id}",
        )
        for uri in uris
    ]
    return pb.StageReport(attempt_id=attempt_id, records=records)
