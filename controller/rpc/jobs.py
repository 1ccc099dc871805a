"""JobService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc

from controller.admission import admit, deposits_of, digest
from controller.archive import Archive
from controller.core.states import JOB_ENDS
from controller.library import Library
from controller.offers import stored_offer
from controller.rpc import asked, messages, pages
from controller.rpc.logs import Log
from controller.rpc.remains import RemainsReader
from controller.sessions import Sessions
from controller.signatures import Signatures
from controller.store import queries, topics, views
from controller.store.cancelling import CancelJob, JobEnded
from controller.store.explaining import explain
from controller.store.interventions import HoldJobs, Outcome, ReleaseJobs, RetryJobs
from controller.store.replaying import replayed
from controller.store.submission import NewJob, Submit
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


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    """Thin: validation is admission's, writing the store's commands'."""

    def __init__(
        self,
        store: Store,
        library: Library,
        sessions: Sessions,
        archive: Archive | None,
        remains: RemainsReader,
        signatures: Signatures,
    ) -> None:
        self._store = store
        self._library = library
        self._sessions = sessions
        self._archive = archive
        self._remains = remains
        self._signatures = signatures

    async def _resolve(self, prefix: str) -> JobId:
        return await self._store.read(queries.resolve_job, DEFAULT_TENANT, prefix)

    async def _jobs(self, ids: list[JobId], *, with_attempts: bool = False) -> list[job_pb2.Job]:
        rows = await self._store.read(
            views.get_jobs, self._store.database, DEFAULT_TENANT, ids, with_attempts=with_attempts
        )
        return [messages.job(row, self._sessions.progress(row.job.id)) for row in rows]

    async def SubmitJobs(
        self, request: job_service_pb2.SubmitJobsRequest, context: _Context
    ) -> job_service_pb2.SubmitJobsResponse:
        asked.check(request_id=request.request_id)
        known = digest(request)
        new = await self._admitted(request.jobs, request.request_id, known)
        if not isinstance(new, tuple):
            # A repeat is answered before it is validated: the fleet may have changed since the first time.
            return job_service_pb2.SubmitJobsResponse(jobs=await self._jobs(new))
        stored = await self._store.execute(Submit(DEFAULT_TENANT, new, request.request_id, known))
        if stored.created_us is None or any(job.after for job in new):
            return job_service_pb2.SubmitJobsResponse(jobs=await self._jobs(stored))
        return job_service_pb2.SubmitJobsResponse(
            jobs=[
                messages.new_job(job_id, job, DEFAULT_TENANT, stored.created_us)
                for job_id, job in zip(stored, new, strict=True)
            ]
        )

    async def _admitted(
        self,
        specs: Sequence[job_pb2.JobSpec],
        request_id: str = "",
        known: str = "",
        *,
        kind: str = "media",
        field: str = "jobs[{index}].",
    ) -> tuple[NewJob, ...] | list[JobId]:
        """New jobs, or those that the same request made before. Raises InvalidRequest."""
        asked.check_parents(specs, field)
        catalog = await self._library.catalog(DEFAULT_TENANT)
        grounds = await self._store.read(
            queries.admission_grounds,
            self._store.database,
            DEFAULT_TENANT,
            request_id,
            known,
            [text for spec in specs for text in spec.after],
            deposits_of(item.uri for spec in specs for item in spec.inputs),
        )
        if grounds.before:
            return grounds.before
        after = {text: _parent(text, found) for text, found in grounds.parents.items()}
        return admit(
            catalog,
            specs,
            roots=grounds.roots,
            now_us=grounds.now_us,
            after=after,
            deposited=grounds.deposited,
            kind=kind,
            field=field,
        )

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: _Context) -> job_service_pb2.GetJobResponse:
        rows = await self._store.read(views.find_job, self._store.database, DEFAULT_TENANT, request.job_id)
        return job_service_pb2.GetJobResponse(job=messages.job(rows, self._sessions.progress(rows.job.id)))

    async def _chosen(self, message: job_pb2.JobFilter) -> tuple[tuple[JobId, ...], list[job_service_pb2.Refusal]]:
        """Jobs named by id, whatever became of them, or all that a filter selects; and ids that name no job.

        One id alone that names none is the whole request's error.
        """
        chosen = asked.chosen(message)
        if not chosen.ids:
            return tuple(await self._store.read(queries.find_jobs, chosen, most=asked.MOST_CHOSEN)), []
        try:
            return tuple(await self._store.read(queries.resolve_jobs, DEFAULT_TENANT, chosen.ids)), []
        except (queries.JobNotFound, queries.JobAmbiguous):
            if len(chosen.ids) == 1:
                raise
        found: dict[JobId, None] = {}
        unknown = []
        for given in chosen.ids:
            try:
                found[await self._resolve(given)] = None
            except queries.JobNotFound:
                told = "no job has this id; `mediactl jobs list` shows them"
                unknown.append(job_service_pb2.Refusal(job_id=given, reason=Reason.JOB_NOT_FOUND, message=told))
            except queries.JobAmbiguous:
                told = "several jobs begin with this; give more of the id"
                unknown.append(job_service_pb2.Refusal(job_id=given, reason=Reason.INVALID_ARGUMENT, message=told))
        return tuple(found), unknown

    async def RetryJobs(
        self, request: job_service_pb2.RetryJobsRequest, context: _Context
    ) -> job_service_pb2.RetryJobsResponse:
        asked.check(request_id=request.request_id)
        if not request.filter.ids and not request.filter.states:
            request.filter.states.append(job_pb2.JOB_STATE_DEAD)
        known = digest(request)
        ids, unknown = await self._chosen(request.filter)
        outcome = await self._store.execute(RetryJobs(DEFAULT_TENANT, ids, request.request_id, known))
        return job_service_pb2.RetryJobsResponse(
            job_ids=outcome.done, refused=[*unknown, *_refused(outcome, request.filter)]
        )

    async def HoldJobs(
        self, request: job_service_pb2.HoldJobsRequest, context: _Context
    ) -> job_service_pb2.HoldJobsResponse:
        asked.check(message=request.message)
        ids, unknown = await self._chosen(request.filter)
        outcome = await self._store.execute(HoldJobs(DEFAULT_TENANT, ids, request.message))
        return job_service_pb2.HoldJobsResponse(
            job_ids=outcome.done, refused=[*unknown, *_refused(outcome, request.filter)]
        )

    async def ReleaseJobs(
        self, request: job_service_pb2.ReleaseJobsRequest, context: _Context
    ) -> job_service_pb2.ReleaseJobsResponse:
        asked.check(message=request.message)
        ids, unknown = await self._chosen(request.filter)
        outcome = await self._store.execute(ReleaseJobs(DEFAULT_TENANT, ids, request.message))
        return job_service_pb2.ReleaseJobsResponse(
            job_ids=outcome.done, refused=[*unknown, *_refused(outcome, request.filter)]
        )

    async def ReplayJob(
        self, request: job_service_pb2.ReplayJobRequest, context: _Context
    ) -> job_service_pb2.ReplayJobResponse:
        asked.check(request_id=request.request_id)
        known = digest(request)
        ids = await self._store.read(queries.requested, DEFAULT_TENANT, request.request_id, known)
        if not (request.request_id and ids):
            job_id = await self._resolve(request.job_id)
            new = await self._store.read(replayed, DEFAULT_TENANT, job_id, request.output_uri, request.overwrite)
            ids = await self._store.execute(Submit(DEFAULT_TENANT, (new,), request.request_id, known))
        [job] = await self._jobs(ids)
        return job_service_pb2.ReplayJobResponse(job=job)

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: _Context
    ) -> job_service_pb2.ListJobsResponse:
        limit = pages.size(request.page_size, default=50)
        before = pages.position(request.page_token, request.filter)
        rows = await self._store.read(
            views.list_jobs, self._store.database, asked.chosen(request.filter), before_seq=before, limit=limit + 1
        )
        more = len(rows) > limit
        rows = rows[:limit]
        return job_service_pb2.ListJobsResponse(
            jobs=[messages.job(row, self._sessions.progress(row.job.id)) for row in rows],
            next_page_token=pages.token(rows[-1].job.seq, request.filter) if more else "",
        )

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, context: _Context
    ) -> job_service_pb2.CancelJobResponse:
        asked.check(message=request.message)
        job_id = await self._resolve(request.job_id)
        await self._store.execute(CancelJob(DEFAULT_TENANT, job_id, request.message))
        [job] = await self._jobs([job_id])
        return job_service_pb2.CancelJobResponse(job=job)

    async def WatchJobs(
        self, request: job_service_pb2.WatchJobsRequest, context: _Context
    ) -> AsyncIterator[job_service_pb2.WatchJobsResponse]:
        chosen = asked.chosen(request.filter)
        ids = await self._store.read(queries.resolve_jobs, DEFAULT_TENANT, chosen.ids)
        chosen = replace(chosen, ids=tuple(ids))
        cursor = request.after_sequence
        told: dict[str, job_pb2.Progress] = {}
        with self._store.topics.subscribe(*([topics.job(i) for i in ids] or [topics.JOBS])) as changes:
            while True:
                left = await self._store.read(queries.unended, chosen) if request.until_ended else 1
                # Read after the count: whatever ended the last job is then among these, settled or not.
                while rows := await self._store.read(
                    queries.events_after,
                    self._store.database,
                    chosen,
                    cursor=cursor,
                    limit=PAGE,
                    settled=left > 0,
                ):
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
        if not request.attempt_id.isprintable():
            raise InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "attempt_id", "the id of an attempt is expected"))
        log = Log(self._store, self._archive, job_id, request.attempt_id)
        with self._store.topics.subscribe(topics.log(job_id), topics.job(job_id)) as changes:
            while True:
                state = await self._store.read(queries.job_state, DEFAULT_TENANT, job_id)
                last = not request.follow or state in JOB_ENDS
                async for piece in log.news(settled=not last):
                    yield piece
                if last:
                    return
                await changes.wait(POLL_S)

    async def FetchRemains(
        self, request: job_service_pb2.FetchRemainsRequest, context: _Context
    ) -> AsyncIterator[job_service_pb2.FetchRemainsResponse]:
        asked.check_remains(request)
        job_id = await self._resolve(request.job_id)
        async for piece in self._remains.fetch(job_id, request.attempt_id, request.offset):
            yield piece

    async def SignArtifacts(
        self, request: job_service_pb2.SignArtifactsRequest, context: _Context
    ) -> job_service_pb2.SignArtifactsResponse:
        lifetime_s = asked.lifetime_s(request)
        [job] = await self._jobs([await self._resolve(request.job_id)])
        return job_service_pb2.SignArtifactsResponse(artifacts=await self._signatures.sign(job.artifacts, lifetime_s))

    async def ExplainJob(
        self, request: job_service_pb2.ExplainJobRequest, context: _Context
    ) -> job_service_pb2.ExplainJobResponse:
        job_id = await self._resolve(request.job_id)
        found = await self._store.read(
            explain,
            self._store.database,
            DEFAULT_TENANT,
            job_id,
            offers=self._sessions.offers(),
            absent=stored_offer,
            objection=lambda row: self._sessions.objection(row.id, row.drain_reason),
        )
        return job_service_pb2.ExplainJobResponse(
            summary=found.summary,
            agents=[
                job_service_pb2.AgentVerdict(
                    agent_id=verdict.agent_id,
                    name=verdict.name,
                    suitable=not verdict.reasons,
                    reasons=verdict.reasons,
                )
                for verdict in found.verdicts
            ],
        )

    async def PlanJob(
        self, request: job_service_pb2.PlanJobRequest, context: _Context
    ) -> job_service_pb2.PlanJobResponse:
        new = await self._admitted([request.job], kind="plan", field="job.")
        assert isinstance(new, tuple), "it has no request id"  # noqa: S101 - for the type checker
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


def _parent(text: str, found: JobId | Exception) -> JobId | Problem:
    match found:
        case queries.JobNotFound():
            return Problem(Reason.JOB_NOT_FOUND, "", f"no job has the id {text!r}")
        case queries.JobAmbiguous():
            return Problem(Reason.INVALID_ARGUMENT, "", f"several jobs begin with {text!r}; give more of the id")
        case Exception():
            raise found
        case _:
            return found


def _refused(outcome: Outcome, wanted: job_pb2.JobFilter) -> list[job_service_pb2.Refusal]:
    """Jobs that a filter happened to select aren't worth a word."""
    if not wanted.ids:
        return []
    return [
        job_service_pb2.Refusal(job_id=job_id, reason=reason, message=message)
        for job_id, reason, message in outcome.refused
    ]
