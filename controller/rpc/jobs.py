"""JobService."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from controller.admission import admit, digest
from controller.core import matching
from controller.core.states import JOB_ENDS, TaskState
from controller.library import Library
from controller.rpc import messages, pages
from controller.sessions import Sessions, offer_of
from controller.store import queries, topics
from controller.store.cancelling import CancelJob, JobEnded
from controller.store.leasing import candidate, charged
from controller.store.submission import Submit
from controller.store.tables import DEFAULT_TENANT, JobId
from controller.store.writer import Store
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

POLL_S = 1.0
"""A wake-up that was missed delays by this much."""
PAGE = 500

_Context = grpc.aio.ServicerContext[Any, Any]


def _filter(message: job_pb2.JobFilter) -> queries.Filter:
    return queries.Filter(
        tenant=DEFAULT_TENANT,
        ids=tuple(message.ids),
        states=tuple(_state_name(state) for state in message.states),
        preset=message.preset,
        queue=message.queue,
        labels=dict(message.labels),
    )


def _state_name(state: job_pb2.JobState.ValueType) -> str:
    if state not in job_pb2.JobState.values() or state == job_pb2.JOB_STATE_UNSPECIFIED:
        raise InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "filter.states", f"{state} is no state of a job"))
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    """Thin: validation is admission's, writing the store's commands'."""

    def __init__(self, store: Store, library: Library, sessions: Sessions) -> None:
        self._store = store
        self._library = library
        self._sessions = sessions

    async def _resolve(self, prefix: str) -> JobId:
        return await self._store.read(queries.resolve_job, DEFAULT_TENANT, prefix)

    async def _jobs(self, ids: list[JobId], *, with_attempts: bool = False) -> list[job_pb2.Job]:
        rows = await self._store.read(queries.get_jobs, DEFAULT_TENANT, ids, with_attempts=with_attempts)
        return [messages.job(row, self._sessions.progress(row.job.id)) for row in rows]

    async def SubmitJobs(
        self, request: job_service_pb2.SubmitJobsRequest, context: _Context
    ) -> job_service_pb2.SubmitJobsResponse:
        known = digest(request.jobs)
        # A repeat is answered before it is validated: the fleet may have changed since the first time.
        before = await self._store.read(queries.requested, DEFAULT_TENANT, request.request_id, known)
        if before:
            return job_service_pb2.SubmitJobsResponse(jobs=await self._jobs(before))
        catalog = await self._library.catalog(DEFAULT_TENANT)
        roots = await self._store.read(queries.declared_roots)
        new = admit(catalog, request.jobs, roots=roots)
        ids = await self._store.execute(Submit(DEFAULT_TENANT, new, request.request_id, known))
        return job_service_pb2.SubmitJobsResponse(jobs=await self._jobs(ids))

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: _Context) -> job_service_pb2.GetJobResponse:
        job_id = await self._resolve(request.job_id)
        [job] = await self._jobs([job_id], with_attempts=True)
        return job_service_pb2.GetJobResponse(job=job)

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: _Context
    ) -> job_service_pb2.ListJobsResponse:
        limit = pages.size(request.page_size, default=50)
        before = pages.position(request.page_token, request.filter)
        rows = await self._store.read(queries.list_jobs, _filter(request.filter), before_seq=before, limit=limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return job_service_pb2.ListJobsResponse(
            jobs=[messages.job(row, self._sessions.progress(row.job.id)) for row in rows],
            next_page_token=pages.token(rows[-1].job.seq, request.filter) if more else "",
        )

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, context: _Context
    ) -> job_service_pb2.CancelJobResponse:
        job_id = await self._resolve(request.job_id)
        await self._store.execute(CancelJob(DEFAULT_TENANT, job_id, request.message))
        [job] = await self._jobs([job_id])
        return job_service_pb2.CancelJobResponse(job=job)

    async def WatchJobs(
        self, request: job_service_pb2.WatchJobsRequest, context: _Context
    ) -> AsyncIterator[job_service_pb2.WatchJobsResponse]:
        ids = [await self._resolve(prefix) for prefix in request.filter.ids]
        chosen = _filter(request.filter)
        cursor = request.after_sequence
        told: dict[str, job_pb2.Progress] = {}
        with self._store.topics.subscribe(*([topics.job(i) for i in ids] or [topics.JOBS])) as changes:
            while True:
                left = await self._store.read(queries.unended, chosen) if request.until_ended else 1
                # Read after the count: whatever ended the last job is then among these.
                while rows := await self._store.read(queries.events_after, chosen, cursor=cursor, limit=PAGE):
                    for row in rows:
                        cursor = row.cursor
                        yield job_service_pb2.WatchJobsResponse(event=messages.event(row))
                if left == 0:
                    return
                for job_id in ids:
                    progress = self._sessions.progress(job_id)
                    if progress is not None and progress is not told.get(job_id):
                        told[job_id] = progress
                        yield job_service_pb2.WatchJobsResponse(progress=progress)
                await changes.wait(POLL_S)

    async def ListEvents(
        self, request: job_service_pb2.ListEventsRequest, context: _Context
    ) -> job_service_pb2.ListEventsResponse:
        job_id = await self._resolve(request.job_id)
        limit = pages.size(request.page_size, default=100)
        scope = job_service_pb2.ListEventsRequest(job_id=job_id)
        after = pages.position(request.page_token, scope) or 0
        rows = await self._store.read(
            queries.list_events, DEFAULT_TENANT, job_id, after_sequence=after, limit=limit + 1
        )
        more = len(rows) > limit
        rows = rows[:limit]
        return job_service_pb2.ListEventsResponse(
            events=[messages.event(row) for row in rows],
            next_page_token=pages.token(rows[-1].sequence, scope) if more else "",
        )

    async def StreamLogs(
        self, request: job_service_pb2.StreamLogsRequest, context: _Context
    ) -> AsyncIterator[job_service_pb2.StreamLogsResponse]:
        job_id = await self._resolve(request.job_id)
        position = 0
        with self._store.topics.subscribe(topics.log(job_id), topics.job(job_id)) as changes:
            while True:
                state = await self._store.read(queries.job_state, DEFAULT_TENANT, job_id)
                while rows := await self._store.read(
                    queries.log_after,
                    DEFAULT_TENANT,
                    job_id,
                    request.attempt_id,
                    position=position,
                    limit=PAGE,
                ):
                    for row in rows:
                        position = row.position
                        yield job_service_pb2.StreamLogsResponse(
                            attempt_id=row.attempt_id, stream=row.stream, sequence=row.sequence, data=row.data
                        )
                if not request.follow or state in JOB_ENDS:
                    return
                await changes.wait(POLL_S)

    async def ExplainJob(
        self, request: job_service_pb2.ExplainJobRequest, context: _Context
    ) -> job_service_pb2.ExplainJobResponse:
        job_id = await self._resolve(request.job_id)
        tasks = await self._store.read(queries.job_tasks, DEFAULT_TENANT, job_id)
        waiting = next((task for task in tasks if task.state == TaskState.PENDING), None)
        [job] = await self._jobs([job_id])
        if waiting is None:
            state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
            summary = f"The job does not wait for an agent: it is {state}"
            if job.failure.reason:
                summary += f" ({job.failure.reason}: {job.failure.message})"
            return job_service_pb2.ExplainJobResponse(summary=summary + ".")
        offers = await self._store.read(charged, self._sessions.offers())
        asked = candidate(waiting, self._store.now_us())
        verdicts = []
        for row in await self._store.read(queries.list_agents):
            offer = next((offer for offer in offers if offer.agent_id == row.id), None)
            if offer is None:
                known = messages.capabilities(row)
                absent = matching.infeasible(
                    asked, offer_of(row.id, row.name, json.loads(row.labels), known), asked.requirements.alternatives[0]
                )
                reasons = ["is lost" if row.lost else "is not connected or takes no new work", *absent]
            else:
                reasons = matching.verdict(asked, offer)
            verdicts.append(
                job_service_pb2.AgentVerdict(agent_id=row.id, name=row.name, suitable=not reasons, reasons=reasons)
            )
        ahead = await self._store.read(queries.ahead_in_line, waiting)
        return job_service_pb2.ExplainJobResponse(summary=_summary(verdicts, ahead), agents=verdicts)

    async def PlanJob(
        self, request: job_service_pb2.PlanJobRequest, context: _Context
    ) -> job_service_pb2.PlanJobResponse:
        catalog = await self._library.catalog(DEFAULT_TENANT)
        roots = await self._store.read(queries.declared_roots)
        new = admit(catalog, [request.job], roots=roots, kind="plan", field="job.")
        [job_id] = await self._store.execute(Submit(DEFAULT_TENANT, new, "", ""))
        try:
            with self._store.topics.subscribe(topics.job(job_id)) as changes:
                while await self._store.read(queries.job_state, DEFAULT_TENANT, job_id) not in JOB_ENDS:
                    await changes.wait(POLL_S)
        except BaseException:
            with suppress(JobEnded):
                await self._store.execute(CancelJob(DEFAULT_TENANT, job_id, "the caller went away"))
            raise
        [job] = await self._jobs([job_id], with_attempts=True)
        if job.state != job_pb2.JOB_STATE_COMPLETED:
            raise MediactlError(job.failure.reason or Reason.CANCELLED, job.failure.message or "it was cancelled")
        last = job.attempts[-1]
        return job_service_pb2.PlanJobResponse(plan=last.plan, agent_id=last.agent_id)


def _summary(verdicts: list[job_service_pb2.AgentVerdict], ahead: int) -> str:
    if not verdicts:
        return "No agent has registered yet: start `mediactl-agent` on a machine that reaches the inputs."
    if any(verdict.suitable for verdict in verdicts):
        return f"It is about to be leased; {ahead} tasks are before it in line."
    grouped: dict[str, list[str]] = {}
    for verdict in verdicts:
        grouped.setdefault(verdict.reasons[0], []).append(verdict.name)
    parts = [f"{', '.join(names)} {reason}" for reason, names in grouped.items()]
    return "No agent can take it now: " + "; ".join(parts) + f". {ahead} tasks are before it in line."
