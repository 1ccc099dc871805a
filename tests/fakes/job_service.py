"""JobService with invented answers: see :mod:`tests.fakes.controller`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from tests.fakes.calls import Calls, refuse

ENDED = {job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_DEAD, job_pb2.JOB_STATE_CANCELLED}


class FakeJobs(Calls, job_service_pb2_grpc.JobServiceServicer):
    """Jobs that do as their preset says."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, job_pb2.Job] = {}
        self.requests: dict[str, list[str]] = {}
        self.events: list[job_pb2.Event] = []
        self.logs = [
            job_service_pb2.StreamLogsResponse(
                attempt_id="a1", stream="ffmpeg", sequence=number, data=f"line {number}\n".encode()
            )
            for number in range(1, 4)
        ]
        self.break_streams_after: list[int] = []
        self.remains = b"an archive, as far as anybody here looks"
        self.signed = job_service_pb2.SignArtifactsResponse()
        self._changed = asyncio.Condition()

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

    async def SignArtifacts(
        self, request: job_service_pb2.SignArtifactsRequest, context: Any
    ) -> job_service_pb2.SignArtifactsResponse:
        await self._enter("SignArtifacts", request, context)
        await self._job(request.job_id, context)
        return self.signed
