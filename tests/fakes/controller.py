"""A controller in this process: the real wire, invented answers.

Jobs of the preset `slow` stay PROCESSING until they are cancelled or `finish` is called; those of `broken` end DEAD;
those of `unknown` are refused; all others complete at once, except that held ones stay HELD and those after others
BLOCKED. No sleeps: watchers wait on a condition.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from grpc import aio
from grpc_status import rpc_status

from mediactl.channel import SERVER_OPTIONS, Credentials, server_credentials, unix_bind_target
from mediactl.errors import MediactlError, status_of
from mediactl.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    preset_service_pb2,
    preset_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
)
from presets.problems import InvalidRequest, MediaFailure, Problem
from presets.reasons import Reason

ENDED = {job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_DEAD, job_pb2.JOB_STATE_CANCELLED}


async def refuse(context: Any, error: MediactlError | InvalidRequest | MediaFailure) -> NoReturn:
    """Ends a call with the error's rich status."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort raises")


class FakeController(
    job_service_pb2_grpc.JobServiceServicer,
    preset_service_pb2_grpc.PresetServiceServicer,
    fleet_service_pb2_grpc.FleetServiceServicer,
    agent_service_pb2_grpc.AgentServiceServicer,
    queue_service_pb2_grpc.QueueServiceServicer,
):
    """The services, and the switches of the tests. Runs in a loop of its own thread (`served`).

    `beside` another one it has the same jobs, as controllers on one database do.
    """

    def __init__(self, beside: "FakeController | None" = None) -> None:
        self.jobs: dict[str, job_pb2.Job] = beside.jobs if beside else {}
        self.requests: dict[str, list[str]] = beside.requests if beside else {}
        self.events: list[job_pb2.Event] = beside.events if beside else []
        self.queue = queue_service_pb2.GetQueueResponse()
        self.agent = self._agent()
        self.keeps_ready = False
        """Somebody resumes the agent as soon as it is drained."""
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.failures: dict[str, list[MediactlError]] = {}
        self.logs = [
            job_service_pb2.StreamLogsResponse(
                attempt_id="a1", stream="ffmpeg", sequence=number, data=f"line {number}\n".encode()
            )
            for number in range(1, 4)
        ]
        self.break_streams_after: list[int] = []
        self.documents: dict[str, str] = {}
        self.remains = b"an archive, as far as anybody here looks"
        self._changed = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    # Switches

    async def run(self) -> None:
        """Serves until `stop`."""
        self._loop = asyncio.get_running_loop()
        # Both belong to a loop: another one where the fake is served again.
        self._changed, self._stop = asyncio.Condition(), asyncio.Event()
        await self._stop.wait()

    def stop(self) -> None:
        """Ends `run`. For use outside the loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def fail(self, method: str, *errors: MediactlError) -> None:
        """The next calls of `method` end so, one after another."""
        self.failures.setdefault(method, []).extend(errors)

    def finish(self, job_id: str) -> None:
        """Completes a slow job. For use outside the loop."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._end(job_id, job_pb2.JOB_STATE_COMPLETED), self._loop).result(10)

    def named(self, method: str) -> list[Any]:
        """The requests that came for a method."""
        return [request for name, request in self.calls if name == method]

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        self.calls.append((method, request))
        self.metadata.append(dict(context.invocation_metadata()))
        waiting = self.failures.get(method)
        if waiting:
            await refuse(context, waiting.pop(0))

    async def _happen(self, job: job_pb2.Job, kind: str, reason: str = "", message: str = "") -> None:
        event = job_pb2.Event(
            job_id=job.id,
            sequence=1 + sum(one.job_id == job.id for one in self.events),
            cursor=len(self.events) + 1,
            type=kind,
            job_state=job.state,
            reason=reason,
            message=message,
        )
        event.time.GetCurrentTime()
        self.events.append(event)
        async with self._changed:
            self._changed.notify_all()

    async def _end(self, job_id: str, state: "job_pb2.JobState.ValueType") -> None:
        job = self.jobs[job_id]
        job.state = state
        job.end_time.GetCurrentTime()
        if state == job_pb2.JOB_STATE_COMPLETED:
            job.progress = 1.0
            job.artifacts.add(
                name="aac_192",
                uri=job.spec.outputs[0].uri,
                size_bytes=3_300_000_000,
                sha256="00" * 32,
                duration_seconds=8.4,
                streams=["aac 48000 Hz mono"],
                loudness=job_pb2.LoudnessReport(
                    before=job_pb2.Loudness(integrated_lufs=-27.8, true_peak_dbtp=-7.4),
                    after=job_pb2.Loudness(integrated_lufs=-16.0, true_peak_dbtp=-1.0),
                ),
            )
            await self._happen(job, "completed")
        elif state == job_pb2.JOB_STATE_DEAD:
            job.failure.reason = "INPUT_NOT_FOUND"
            job.failure.message = "there is no such file"
            await self._happen(job, "failed", "INPUT_NOT_FOUND", "there is no such file")
        else:
            await self._happen(job, "cancelled")

    async def _job(self, job_id: str, context: Any) -> job_pb2.Job:
        for known, job in self.jobs.items():
            if known.startswith(job_id):
                return job
        return await refuse(context, MediactlError(Reason.JOB_NOT_FOUND, f"there is no job {job_id}"))

    def _selected(self, where: job_pb2.JobFilter) -> list[job_pb2.Job]:
        return [
            job
            for job in reversed(self.jobs.values())
            if (not where.ids or job.id in where.ids)
            and (not where.states or job.state in where.states)
            and (not where.queue or job.spec.queue == where.queue)
            and (not where.reasons or job.failure.reason in where.reasons)
        ]

    # JobService

    async def SubmitJobs(
        self, request: job_service_pb2.SubmitJobsRequest, context: Any
    ) -> job_service_pb2.SubmitJobsResponse:
        await self._enter("SubmitJobs", request, context)
        if any(spec.preset == "unknown" for spec in request.jobs):
            await refuse(
                context,
                InvalidRequest(
                    Problem(Reason.PRESET_NOT_FOUND, "jobs[0].preset", "there is no preset unknown"),
                    Problem(Reason.PARAMETER_UNKNOWN, "jobs[0].params.x", "there is no parameter x"),
                ),
            )
        if request.request_id not in self.requests:
            ids = []
            for spec in request.jobs:
                job = job_pb2.Job(
                    id=f"job-{len(self.jobs) + 1}",
                    state=job_pb2.JOB_STATE_PROCESSING,
                    spec=spec,
                    preset=f"{spec.preset}_v1",
                    attempt_count=1,
                )
                job.create_time.GetCurrentTime()
                self.jobs[job.id] = job
                ids.append(job.id)
                if spec.hold or spec.after:
                    job.state = job_pb2.JOB_STATE_HELD if spec.hold else job_pb2.JOB_STATE_BLOCKED
                    job.held = spec.hold
                    job.attempt_count = 0
                await self._happen(job, "submitted")
                if job.state != job_pb2.JOB_STATE_PROCESSING:
                    continue
                if spec.preset == "broken":
                    await self._end(job.id, job_pb2.JOB_STATE_DEAD)
                elif spec.preset != "slow":
                    await self._end(job.id, job_pb2.JOB_STATE_COMPLETED)
            self.requests[request.request_id] = ids
        jobs = [self.jobs[job_id] for job_id in self.requests[request.request_id]]
        return job_service_pb2.SubmitJobsResponse(jobs=jobs)

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: Any) -> job_service_pb2.GetJobResponse:
        await self._enter("GetJob", request, context)
        return job_service_pb2.GetJobResponse(job=await self._job(request.job_id, context))

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: Any
    ) -> job_service_pb2.ListJobsResponse:
        await self._enter("ListJobs", request, context)
        jobs = self._selected(request.filter)
        start = int(request.page_token or 0)
        stop = start + (request.page_size or 2)
        return job_service_pb2.ListJobsResponse(
            jobs=jobs[start:stop], next_page_token=str(stop) if stop < len(jobs) else ""
        )

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, context: Any
    ) -> job_service_pb2.CancelJobResponse:
        await self._enter("CancelJob", request, context)
        job = await self._job(request.job_id, context)
        if job.state in ENDED:
            await refuse(context, MediactlError(Reason.JOB_ENDED, "the job has ended"))
        await self._end(job.id, job_pb2.JOB_STATE_CANCELLED)
        return job_service_pb2.CancelJobResponse(job=job)

    def _meant(
        self, where: job_pb2.JobFilter, suits: Callable[[job_pb2.Job], bool], reason: Reason
    ) -> tuple[list[job_pb2.Job], list[job_service_pb2.Refusal]]:
        found = self._selected(where)[::-1]
        refused = [
            job_service_pb2.Refusal(job_id=job.id, reason=reason, message="not this one")
            for job in found
            if where.ids and not suits(job)
        ]
        return [job for job in found if suits(job)], refused

    async def RetryJobs(
        self, request: job_service_pb2.RetryJobsRequest, context: Any
    ) -> job_service_pb2.RetryJobsResponse:
        await self._enter("RetryJobs", request, context)
        jobs, refused = self._meant(
            request.filter, lambda job: job.state == job_pb2.JOB_STATE_DEAD, Reason.JOB_NOT_DEAD
        )
        for job in jobs:
            job.state = job_pb2.JOB_STATE_PENDING
            job.ClearField("failure")
            await self._happen(job, "retried")
        return job_service_pb2.RetryJobsResponse(job_ids=[job.id for job in jobs], refused=refused)

    async def ReplayJob(
        self, request: job_service_pb2.ReplayJobRequest, context: Any
    ) -> job_service_pb2.ReplayJobResponse:
        await self._enter("ReplayJob", request, context)
        job = await self._job(request.job_id, context)
        if not job.attempt_count:
            await refuse(context, MediactlError(Reason.JOB_NOT_STARTED, "it was never started"))
        if request.request_id not in self.requests:
            again = job_pb2.Job(
                id=f"job-{len(self.jobs) + 1}", state=job_pb2.JOB_STATE_PENDING, spec=job.spec, replay_of=job.id
            )
            self.jobs[again.id] = again
            self.requests[request.request_id] = [again.id]
            await self._happen(again, "submitted")
        return job_service_pb2.ReplayJobResponse(job=self.jobs[self.requests[request.request_id][0]])

    async def HoldJobs(
        self, request: job_service_pb2.HoldJobsRequest, context: Any
    ) -> job_service_pb2.HoldJobsResponse:
        await self._enter("HoldJobs", request, context)
        jobs, refused = self._meant(request.filter, lambda job: job.state not in ENDED, Reason.JOB_ENDED)
        for job in jobs:
            job.held = True
        return job_service_pb2.HoldJobsResponse(job_ids=[job.id for job in jobs], refused=refused)

    async def ReleaseJobs(
        self, request: job_service_pb2.ReleaseJobsRequest, context: Any
    ) -> job_service_pb2.ReleaseJobsResponse:
        await self._enter("ReleaseJobs", request, context)
        ended = [job for job in self._selected(request.filter) if request.filter.ids and job.state in ENDED]
        jobs = [job for job in self._selected(request.filter)[::-1] if job.held]
        for job in jobs:
            job.held = False
        return job_service_pb2.ReleaseJobsResponse(
            job_ids=[job.id for job in jobs],
            refused=[job_service_pb2.Refusal(job_id=job.id, reason=Reason.JOB_ENDED, message="over") for job in ended],
        )

    async def WatchJobs(
        self, request: job_service_pb2.WatchJobsRequest, context: Any
    ) -> AsyncIterator[job_service_pb2.WatchJobsResponse]:
        await self._enter("WatchJobs", request, context)
        left = self.break_streams_after.pop(0) if self.break_streams_after else None
        sent = request.after_sequence
        while True:
            ids = {job.id for job in self._selected(request.filter)}
            for event in self.events[sent:]:
                sent += 1
                if event.job_id not in ids:
                    continue
                if left == 0:
                    await refuse(context, MediactlError(Reason.CONTROLLER_STOPPING, "stopping"))
                left = None if left is None else left - 1
                yield job_service_pb2.WatchJobsResponse(event=event)
                yield job_service_pb2.WatchJobsResponse(
                    progress=job_pb2.Progress(job_id=event.job_id, fraction=0.5, activity="encoding", speed=40)
                )
            if len(self.events) > sent:
                continue
            if request.until_ended and all(self.jobs[job_id].state in ENDED for job_id in ids):
                return
            async with self._changed:
                while len(self.events) <= sent:
                    await self._changed.wait()

    async def ListEvents(
        self, request: job_service_pb2.ListEventsRequest, context: Any
    ) -> job_service_pb2.ListEventsResponse:
        await self._enter("ListEvents", request, context)
        job = await self._job(request.job_id, context)
        events = [event for event in self.events if event.job_id == job.id]
        start = int(request.page_token or 0)
        return job_service_pb2.ListEventsResponse(
            events=events[start : start + 1],
            next_page_token=str(start + 1) if start + 1 < len(events) else "",
        )

    async def StreamLogs(
        self, request: job_service_pb2.StreamLogsRequest, context: Any
    ) -> AsyncIterator[job_service_pb2.StreamLogsResponse]:
        await self._enter("StreamLogs", request, context)
        await self._job(request.job_id, context)
        left = self.break_streams_after.pop(0) if self.break_streams_after else None
        for piece in self.logs:
            if left == 0:
                await refuse(context, MediactlError(Reason.CONTROLLER_STOPPING, "stopping"))
            left = None if left is None else left - 1
            yield piece

    async def ExplainJob(
        self, request: job_service_pb2.ExplainJobRequest, context: Any
    ) -> job_service_pb2.ExplainJobResponse:
        await self._enter("ExplainJob", request, context)
        await self._job(request.job_id, context)
        return job_service_pb2.ExplainJobResponse(
            summary="waits: 1 agent lacks encoder:aac",
            agents=[job_service_pb2.AgentVerdict(agent_id="g1", name="box", reasons=["lacks encoder:aac"])],
        )

    async def PlanJob(self, request: job_service_pb2.PlanJobRequest, context: Any) -> job_service_pb2.PlanJobResponse:
        await self._enter("PlanJob", request, context)
        return job_service_pb2.PlanJobResponse(
            plan=job_pb2.Plan(
                steps=[
                    job_pb2.PlanStep(
                        id="encode",
                        purpose="encode it",
                        arguments=["-i", "in/0", "-af", "volume={gain_db}dB", "out/x y.m4a"],
                        provisional=True,
                    )
                ],
                decisions=[job_pb2.Decision(subject="encoder", choice="aac", because="libfdk_aac is absent")],
                binary_version="5.1.9",
                binary_path="/usr/bin/ffmpeg",
            ),
            agent_id="g1",
        )

    async def FetchRemains(
        self, request: job_service_pb2.FetchRemainsRequest, context: Any
    ) -> AsyncIterator[job_service_pb2.FetchRemainsResponse]:
        await self._enter("FetchRemains", request, context)
        job = await self._job(request.job_id, context)
        head = job_service_pb2.FetchRemainsResponse(job_id=job.id, attempt_id="a1", agent_id="g1")
        yield head
        head.size_bytes = len(self.remains)
        yield head
        for start in range(request.offset, len(self.remains), 4):
            if self.break_streams_after and self.break_streams_after[0] <= start:
                self.break_streams_after.pop(0)
                await refuse(context, MediactlError(Reason.CONTROLLER_STOPPING, "the controller is stopping"))
            yield job_service_pb2.FetchRemainsResponse(data=self.remains[start : start + 4])

    # QueueService

    async def GetQueue(
        self, request: queue_service_pb2.GetQueueRequest, context: Any
    ) -> queue_service_pb2.GetQueueResponse:
        await self._enter("GetQueue", request, context)
        return self.queue

    async def SetQueue(
        self, request: queue_service_pb2.SetQueueRequest, context: Any
    ) -> queue_service_pb2.SetQueueResponse:
        await self._enter("SetQueue", request, context)
        return queue_service_pb2.SetQueueResponse(
            queue=queue_service_pb2.Queue(tenant="default", name=request.name, weight=request.weight)
        )

    async def SetLimit(
        self, request: queue_service_pb2.SetLimitRequest, context: Any
    ) -> queue_service_pb2.SetLimitResponse:
        await self._enter("SetLimit", request, context)
        if not request.HasField("maximum"):
            return queue_service_pb2.SetLimitResponse()
        return queue_service_pb2.SetLimitResponse(
            limit=queue_service_pb2.Limit(key=request.key, maximum=request.maximum)
        )

    # PresetService

    async def ListPresets(
        self, request: preset_service_pb2.ListPresetsRequest, context: Any
    ) -> preset_service_pb2.ListPresetsResponse:
        await self._enter("ListPresets", request, context)
        return preset_service_pb2.ListPresetsResponse(presets=[self._preset("")])

    async def GetPreset(
        self, request: preset_service_pb2.GetPresetRequest, context: Any
    ) -> preset_service_pb2.GetPresetResponse:
        await self._enter("GetPreset", request, context)
        return preset_service_pb2.GetPresetResponse(preset=self._preset('name = "loudness"'))

    def _preset(self, document: str) -> preset_service_pb2.Preset:
        return preset_service_pb2.Preset(
            full_name="loudness_v1",
            name="loudness",
            version=1,
            title="Loudness",
            roles=[preset_service_pb2.Role(name="audio", media="audio", default=True)],
            parameters=[
                preset_service_pb2.Parameter(
                    name="target_lufs", type="number", unit="LUFS", default_json="-16", min=-31, max=-9
                )
            ],
            default_profile="aac_192_v1",
            document=document,
        )

    async def AddPreset(
        self, request: preset_service_pb2.AddPresetRequest, context: Any
    ) -> preset_service_pb2.AddPresetResponse:
        await self._enter("AddPreset", request, context)
        return preset_service_pb2.AddPresetResponse(preset=self._preset(request.document))

    async def ListProfiles(
        self, request: preset_service_pb2.ListProfilesRequest, context: Any
    ) -> preset_service_pb2.ListProfilesResponse:
        await self._enter("ListProfiles", request, context)
        return preset_service_pb2.ListProfilesResponse(profiles=[self._profile()])

    async def GetProfile(
        self, request: preset_service_pb2.GetProfileRequest, context: Any
    ) -> preset_service_pb2.GetProfileResponse:
        await self._enter("GetProfile", request, context)
        return preset_service_pb2.GetProfileResponse(profile=self._profile())

    async def AddProfile(
        self, request: preset_service_pb2.AddProfileRequest, context: Any
    ) -> preset_service_pb2.AddProfileResponse:
        await self._enter("AddProfile", request, context)
        return preset_service_pb2.AddProfileResponse(profile=self._profile())

    def _profile(self) -> preset_service_pb2.Profile:
        return preset_service_pb2.Profile(full_name="aac_192_v1", container="mp4", extension="m4a")

    # FleetService

    async def ListAgents(
        self, request: fleet_service_pb2.ListAgentsRequest, context: Any
    ) -> fleet_service_pb2.ListAgentsResponse:
        await self._enter("ListAgents", request, context)
        return fleet_service_pb2.ListAgentsResponse(agents=[self.agent])

    async def GetAgent(
        self, request: fleet_service_pb2.GetAgentRequest, context: Any
    ) -> fleet_service_pb2.GetAgentResponse:
        await self._enter("GetAgent", request, context)
        await self._known(request.agent_id, context)
        if self.agent.attempt_ids:
            # It finishes one of them whenever somebody looks.
            self.agent.attempt_ids.pop()
        return fleet_service_pb2.GetAgentResponse(agent=self.agent)

    async def DrainAgent(
        self, request: fleet_service_pb2.DrainAgentRequest, context: Any
    ) -> fleet_service_pb2.DrainAgentResponse:
        await self._enter("DrainAgent", request, context)
        await self._known(request.agent_id, context)
        if not self.keeps_ready:
            self.agent.state = fleet_service_pb2.AGENT_STATE_DRAINING
        self.agent.drain_reason = "a person asked for it"
        self.agent.ClearField("drain_deadline")
        if request.HasField("deadline"):
            self.agent.drain_deadline.GetCurrentTime()
        return fleet_service_pb2.DrainAgentResponse(agent=self.agent)

    async def ResumeAgent(
        self, request: fleet_service_pb2.ResumeAgentRequest, context: Any
    ) -> fleet_service_pb2.ResumeAgentResponse:
        await self._enter("ResumeAgent", request, context)
        await self._known(request.agent_id, context)
        self.agent.state = fleet_service_pb2.AGENT_STATE_READY
        self.agent.drain_reason = ""
        self.agent.ClearField("drain_deadline")
        return fleet_service_pb2.ResumeAgentResponse(agent=self.agent)

    async def RemoveAgent(
        self, request: fleet_service_pb2.RemoveAgentRequest, context: Any
    ) -> fleet_service_pb2.RemoveAgentResponse:
        await self._enter("RemoveAgent", request, context)
        if self.agent.state != fleet_service_pb2.AGENT_STATE_LOST:
            await refuse(context, MediactlError(Reason.AGENT_NOT_LOST, "it is not LOST"))
        return fleet_service_pb2.RemoveAgentResponse()

    async def _known(self, agent_id: str, context: Any) -> None:
        if agent_id not in {"g1", "box"}:
            await refuse(context, MediactlError(Reason.AGENT_NOT_FOUND, "there is no such agent"))

    def _agent(self) -> fleet_service_pb2.Agent:
        return fleet_service_pb2.Agent(
            id="g1",
            name="box",
            state=fleet_service_pb2.AGENT_STATE_READY,
            capabilities=fleet_service_pb2.Capabilities(
                cores=2,
                max_tasks=2,
                binaries=[
                    fleet_service_pb2.FfmpegBinary(
                        path="/usr/bin/ffmpeg",
                        version="5.1.9",
                        capabilities=["encoder:aac"],
                        trials=[fleet_service_pb2.Trial(encoder="h264_nvenc", message="Cannot load libcuda.so.1")],
                    )
                ],
                gpu_message="no NVIDIA driver",
            ),
        )

    # AgentService: says every status back as an acknowledgement, to prove that a stream carries both ways.

    async def Session(
        self, request_iterator: AsyncIterator[agent_service_pb2.SessionRequest], context: Any
    ) -> AsyncIterator[agent_service_pb2.SessionResponse]:
        await self._enter("Session", None, context)
        async for request in request_iterator:
            yield agent_service_pb2.SessionResponse(
                acknowledgement=agent_service_pb2.Acknowledgement(attempt_id=request.log.attempt_id)
            )


async def _serving(
    fake: FakeController, listen: Sequence[str], credentials: Credentials, ready: "Future[list[int]]"
) -> None:
    server = aio.server(options=SERVER_OPTIONS)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(fake, server)
    preset_service_pb2_grpc.add_PresetServiceServicer_to_server(fake, server)
    fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fake, server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(fake, server)
    queue_service_pb2_grpc.add_QueueServiceServicer_to_server(fake, server)
    tls = server_credentials(credentials)
    ports = [server.add_secure_port(address, tls) if tls else server.add_insecure_port(address) for address in listen]
    await server.start()
    asyncio.get_running_loop().call_soon(ready.set_result, ports)
    await fake.run()
    await server.stop(0)


@contextmanager
def served(fake: FakeController, *, socket: Path | None = None, tls: Credentials | None = None) -> Iterator[str]:
    """Serves on a unix socket, or on a free loopback port; gives the address."""
    ready: Future[list[int]] = Future()
    listen = [unix_bind_target(socket)] if socket else ["localhost:0"]

    def serve() -> None:
        try:
            asyncio.run(_serving(fake, listen, tls or Credentials(), ready))
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=serve, name="fake-controller")
    thread.start()
    try:
        ports = ready.result(10)
        yield f"unix:{socket}" if socket else f"localhost:{ports[0]}"
    finally:
        fake.stop()
        thread.join(10)
