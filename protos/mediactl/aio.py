"""The asyncio client. The same methods as `mediactl.client.Client`; see there."""

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio

from mediactl import requests
from mediactl.channel import Credentials, aio_channel, parse_addresses
from mediactl.deposits import DepositReading, Finishing, LocalFile, Sending, finished
from mediactl.errors import MediactlError, WaitTimeout, from_rpc_error
from mediactl.places import default_address
from mediactl.requests import ENDED, ESTABLISHED_S, FilterLike, Following, Outage, Rota, SpecLike
from mediactl.v1 import (
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    preset_service_pb2,
    preset_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    transfer_service_pb2,
    transfer_service_pb2_grpc,
)

_Q = TypeVar("_Q")
_R = TypeVar("_R")


class _Stubs:
    """One controller."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.jobs: job_service_pb2_grpc.JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(channel)
        self.presets: preset_service_pb2_grpc.PresetServiceAsyncStub = preset_service_pb2_grpc.PresetServiceStub(
            channel
        )
        self.fleet: fleet_service_pb2_grpc.FleetServiceAsyncStub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        self.queue: queue_service_pb2_grpc.QueueServiceAsyncStub = queue_service_pb2_grpc.QueueServiceStub(channel)
        self.transfers: transfer_service_pb2_grpc.TransferServiceAsyncStub = (
            transfer_service_pb2_grpc.TransferServiceStub(channel)
        )


class AsyncClient:
    """Talks to a controller from one event loop; make it inside that loop. Parameters as of `Client`.

    Every method raises MediactlError.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        credentials: Credentials | None = None,
        timeout_s: float = 30.0,
        patience_s: float = 30.0,
    ) -> None:
        self.address = address or default_address()
        held = credentials or Credentials.from_environment()
        self._controllers = Rota(_Stubs(aio_channel(str(target), held)) for target in parse_addresses(self.address))
        self._timeout_s = timeout_s
        self._patience_s = patience_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call and the connection."""
        for at in self._controllers.members:
            await at.channel.close()

    # Jobs

    async def submit(self, spec: SpecLike, *, request_id: str | None = None) -> job_pb2.Job:
        """Stores one job. With a `request_id`, a second call returns the job of the first."""
        return (await self.submit_all([spec], request_id=request_id))[0]

    async def submit_all(self, specs: Sequence[SpecLike], *, request_id: str | None = None) -> tuple[job_pb2.Job, ...]:
        """Stores all of the jobs or none."""
        response = await self._call(lambda at: at.jobs.SubmitJobs, requests.submission(specs, request_id))
        return tuple(response.jobs)

    async def get(self, job_id: str, *, patient: bool = False) -> job_pb2.Job:
        """One job with its attempts, by id or unambiguous prefix; `patient` outlasts an outage as `wait` does."""
        request = job_service_pb2.GetJobRequest(job_id=job_id)
        return (await self._call(lambda at: at.jobs.GetJob, request, patient=patient)).job

    async def list(self, where: FilterLike | None = None) -> AsyncIterator[job_pb2.Job]:
        """Jobs, newest first, fetched a page at a time."""
        token = ""
        while True:
            page = await self.list_page(where, page_token=token)
            for job in page.jobs:
                yield job
            token = page.next_page_token
            if not token:
                return

    async def list_page(
        self, where: FilterLike | None = None, *, page_size: int = 0, page_token: str = ""
    ) -> job_service_pb2.ListJobsResponse:
        """One page of jobs, newest first; the filter must stay the same from page to page."""
        return await self._call(
            lambda at: at.jobs.ListJobs,
            job_service_pb2.ListJobsRequest(
                filter=requests.selection(where), page_size=page_size, page_token=page_token
            ),
        )

    async def cancel(self, job_id: str, *, message: str = "") -> job_pb2.Job:
        """Asks for a job to be stopped; `watch` or `wait` tell when it has."""
        request = job_service_pb2.CancelJobRequest(job_id=job_id, message=message)
        return (await self._call(lambda at: at.jobs.CancelJob, request)).job

    async def retry_jobs(
        self, where: FilterLike, *, request_id: str | None = None
    ) -> job_service_pb2.RetryJobsResponse:
        """Puts DEAD jobs in line again. With a `request_id`, a second call tells what the first one did."""
        return await self._call(lambda at: at.jobs.RetryJobs, requests.retrying(where, request_id))

    async def replay_job(
        self, job_id: str, *, request_id: str | None = None, output_uri: str = "", overwrite: bool = False
    ) -> job_pb2.Job:
        """A new job with the pinned inputs and preset of another. `output_uri`, a prefix, is where its outputs go."""
        request = requests.replaying(job_id, request_id, output_uri, overwrite)
        return (await self._call(lambda at: at.jobs.ReplayJob, request)).job

    async def hold_jobs(self, where: FilterLike, *, message: str = "") -> job_service_pb2.HoldJobsResponse:
        """Pauses jobs; what runs goes on."""
        request = job_service_pb2.HoldJobsRequest(filter=requests.selection(where), message=message)
        return await self._call(lambda at: at.jobs.HoldJobs, request)

    async def release_jobs(self, where: FilterLike, *, message: str = "") -> job_service_pb2.ReleaseJobsResponse:
        """Ends the pause of jobs."""
        request = job_service_pb2.ReleaseJobsRequest(filter=requests.selection(where), message=message)
        return await self._call(lambda at: at.jobs.ReleaseJobs, request)

    def watch(
        self,
        where: FilterLike | None = None,
        *,
        after: int = 0,
        until_ended: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[job_service_pb2.WatchJobsResponse]:
        """Events of the selected jobs, past and coming, and progress; survives a restart of the controller.

        `after` is a cursor of an event. `until_ended` ends it when every selected job has ended, `timeout_s`
        ends it after so many seconds, without an error.
        """
        return self._follow(
            lambda at: at.jobs.WatchJobs, requests.Watching(where, after, until_ended), timeout_s=timeout_s
        )

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> job_pb2.Job:
        """The job once it has ended, however it ended.

        Raises WaitTimeout, a TimeoutError, after `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        job = await self.get(job_id)
        while job.state not in ENDED:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout_s is not None and left is not None and left <= 0:
                raise WaitTimeout(job.id, timeout_s)
            async for _ in self.watch({"ids": [job.id]}, timeout_s=left):
                pass
            job = await self.get(job.id, patient=True)
        return job

    def logs(
        self, job_id: str, *, follow: bool = False, attempt_id: str = ""
    ) -> AsyncIterator[job_service_pb2.StreamLogsResponse]:
        """Pieces of a job's log; with `follow`, until the job has ended."""
        return self._follow(lambda at: at.jobs.StreamLogs, requests.LogReading(job_id, follow, attempt_id))

    def remains(self, job_id: str, *, attempt_id: str = "") -> AsyncIterator[job_service_pb2.FetchRemainsResponse]:
        """What a failed attempt left behind, as a gzipped tar archive in pieces; by default the newest that left any.

        The first response says whose it is; `size_bytes` is of the whole archive, and 0 while an agent still sends it.
        """
        return self._follow(lambda at: at.jobs.FetchRemains, requests.RemainsReading(job_id, attempt_id))

    async def sign_artifacts(self, job_id: str, *, lifetime_s: int = 3600) -> job_service_pb2.SignArtifactsResponse:
        """A URL for each artifact in an object store, with which anybody can read it for `lifetime_s` seconds.

        At the most 7 days. An artifact that has no URL has a `failure` instead. Where no agent that reaches its store
        is connected to one controller, the others are asked as well.
        """
        request = requests.signing(job_id, lifetime_s)
        signed = await self._call(lambda at: at.jobs.SignArtifacts, request)
        for _ in range(len(self._controllers) - 1):
            if not requests.unsigned(signed):
                break
            self._controllers.pass_on(self._controllers.current()[0])
            signed = requests.signed_by_either(signed, await self._call(lambda at: at.jobs.SignArtifacts, request))
        return signed

    async def events(self, job_id: str) -> AsyncIterator[job_pb2.Event]:
        """A job's history, fetched a page at a time."""
        token = ""
        while True:
            page = await self._call(
                lambda at: at.jobs.ListEvents, job_service_pb2.ListEventsRequest(job_id=job_id, page_token=token)
            )
            for event in page.events:
                yield event
            token = page.next_page_token
            if not token:
                return

    async def explain(self, job_id: str) -> job_service_pb2.ExplainJobResponse:
        """Why a job waits."""
        return await self._call(lambda at: at.jobs.ExplainJob, job_service_pb2.ExplainJobRequest(job_id=job_id))

    async def plan(self, spec: SpecLike, *, timeout_s: float = 300.0) -> job_service_pb2.PlanJobResponse:
        """What would be run for a job, and why. An agent probes the inputs, so this may take a while."""
        job = requests.from_json(spec, job_pb2.JobSpec, field="job")
        return await self._call(
            lambda at: at.jobs.PlanJob, job_service_pb2.PlanJobRequest(job=job), timeout_s=timeout_s
        )

    # Files in the controller's own store

    async def upload(self, path: Path) -> transfer_service_pb2.Deposit:
        """Puts a file of this machine where jobs can read it, as its `uri` says; what is there already is not sent."""
        file = await asyncio.to_thread(LocalFile.of, path)

        async def pieces(offset: int) -> AsyncIterator[bytes]:
            for data in file.pieces(offset):
                yield data

        upload = await self.begin_upload(name=path.name, size_bytes=file.size, sha256=file.sha256)
        await self.extend_upload(upload, pieces)
        return await self.finish_upload(upload.upload_id)

    async def begin_upload(
        self, *, size_bytes: int, sha256: str, name: str = "", uri: str = "", attempt_id: str = ""
    ) -> transfer_service_pb2.Deposit:
        """An upload to go on with from its `received_bytes`: a new one, or one of the same file."""
        request = transfer_service_pb2.BeginUploadRequest(
            name=name, uri=uri, size_bytes=size_bytes, sha256=sha256, attempt_id=attempt_id
        )
        return (await self._call(lambda at: at.transfers.BeginUpload, request)).deposit

    async def extend_upload(
        self, upload: transfer_service_pb2.Deposit, source: Callable[[int], AsyncIterator[bytes]]
    ) -> transfer_service_pb2.Deposit:
        """Sends the rest, which `source` gives from an offset on, at most 1 MiB at once; anew where it broke off."""
        sending = Sending(upload, Outage(self._patience_s, len(self._controllers)))
        while sending.missing:
            turn, at = self._controllers.current()
            try:
                known = sending.ended((await at.transfers.ExtendUpload(sending.amessages(source))).deposit)
            except grpc.RpcError as error:
                known = from_rpc_error(error)
            if known is not None:
                await self._recover(sending.outage, known, turn)
                sending.learn(await self.get_deposit(upload_id=upload.upload_id))
        return sending.upload

    async def finish_upload(self, upload_id: str, *, overwrite: bool = False) -> transfer_service_pb2.Deposit:
        """Has all that was sent compared with its checksum and made readable."""
        deposit = None
        async for told in self._follow(lambda at: at.transfers.FinishUpload, Finishing(upload_id, overwrite)):
            deposit = told.deposit
        return finished(deposit)

    async def get_deposit(self, uri: str = "", *, upload_id: str = "") -> transfer_service_pb2.Deposit:
        """What is deposited under a URI, or how far an upload is."""
        request = transfer_service_pb2.GetDepositRequest(uri=uri, upload_id=upload_id)
        return (await self._call(lambda at: at.transfers.GetDeposit, request, patient=True)).deposit

    def read_deposit(
        self, uri: str, *, upload_id: str = "", offset: int = 0, length: int = 0
    ) -> AsyncIterator[transfer_service_pb2.ReadDepositResponse]:
        """Bytes of a deposit, or with `upload_id` of that version of it; `length` 0 is all behind the offset."""
        return self._follow(lambda at: at.transfers.ReadDeposit, DepositReading(uri, upload_id, offset, length))

    async def delete_deposit(self, uri: str = "", *, upload_id: str = "", attempt_id: str = "") -> bool:
        """Deletes a deposit, or an unfinished upload: that one, or with both others those of an attempt. Whether there
        was anything."""
        request = transfer_service_pb2.DeleteDepositRequest(uri=uri, upload_id=upload_id, attempt_id=attempt_id)
        return (await self._call(lambda at: at.transfers.DeleteDeposit, request)).existed

    # The queue

    async def get_queue(self) -> queue_service_pb2.GetQueueResponse:
        """What waits, what runs where, and the limits."""
        return await self._call(lambda at: at.queue.GetQueue, queue_service_pb2.GetQueueRequest())

    async def set_queue(self, name: str, *, weight: float) -> queue_service_pb2.Queue:
        """Sets a queue's share relative to the others."""
        request = queue_service_pb2.SetQueueRequest(name=name, weight=weight)
        return (await self._call(lambda at: at.queue.SetQueue, request)).queue

    async def set_limit(self, key: str, maximum: int | None) -> queue_service_pb2.Limit | None:
        """Sets how many tasks of `key` may run at once; None removes the limit and is what is then returned."""
        response = await self._call(
            lambda at: at.queue.SetLimit, queue_service_pb2.SetLimitRequest(key=key, maximum=maximum)
        )
        return response.limit if response.HasField("limit") else None

    async def get_statistics(
        self, *, window_s: float = 86_400.0, preset: str = "", queue: str = ""
    ) -> queue_service_pb2.GetStatisticsResponse:
        """What came of the jobs that ended within the last `window_s` seconds, by preset and by operation."""
        request = queue_service_pb2.GetStatisticsRequest(preset=preset, queue=queue)
        request.window.FromMicroseconds(int(window_s * 1e6))
        return await self._call(lambda at: at.queue.GetStatistics, request)

    # Presets and profiles

    async def presets(self) -> builtins.list[preset_service_pb2.Preset]:
        """All presets, without their documents."""
        request = preset_service_pb2.ListPresetsRequest()
        return [*(await self._call(lambda at: at.presets.ListPresets, request)).presets]

    async def preset(self, name: str) -> preset_service_pb2.Preset:
        """One preset with its document."""
        request = preset_service_pb2.GetPresetRequest(name=name)
        return (await self._call(lambda at: at.presets.GetPreset, request)).preset

    async def add_preset(self, document: str) -> preset_service_pb2.Preset:
        """Adds a preset from its TOML text."""
        request = preset_service_pb2.AddPresetRequest(document=document)
        return (await self._call(lambda at: at.presets.AddPreset, request)).preset

    async def profiles(self) -> builtins.list[preset_service_pb2.Profile]:
        """All profiles, without their documents."""
        request = preset_service_pb2.ListProfilesRequest()
        return [*(await self._call(lambda at: at.presets.ListProfiles, request)).profiles]

    async def profile(self, name: str) -> preset_service_pb2.Profile:
        """One profile with its document."""
        request = preset_service_pb2.GetProfileRequest(name=name)
        return (await self._call(lambda at: at.presets.GetProfile, request)).profile

    async def add_profile(self, document: str) -> preset_service_pb2.Profile:
        """Adds a profile from its TOML text."""
        request = preset_service_pb2.AddProfileRequest(document=document)
        return (await self._call(lambda at: at.presets.AddProfile, request)).profile

    # The fleet

    async def agents(self) -> builtins.list[fleet_service_pb2.Agent]:
        """All agents."""
        request = fleet_service_pb2.ListAgentsRequest()
        return [*(await self._call(lambda at: at.fleet.ListAgents, request)).agents]

    async def agent(self, agent_id: str) -> fleet_service_pb2.Agent:
        """One agent, by id, unambiguous prefix or name."""
        request = fleet_service_pb2.GetAgentRequest(agent_id=agent_id)
        return (await self._call(lambda at: at.fleet.GetAgent, request)).agent

    async def drain_agent(self, agent_id: str, *, deadline_s: float | None = None) -> fleet_service_pb2.Agent:
        """Has an agent finish what it has and take nothing new.

        What still runs after `deadline_s` seconds is handed back, and begun anew by another agent.
        """
        return (await self._call(lambda at: at.fleet.DrainAgent, requests.draining(agent_id, deadline_s))).agent

    async def resume_agent(self, agent_id: str) -> fleet_service_pb2.Agent:
        """Lets a drained agent take work again."""
        request = fleet_service_pb2.ResumeAgentRequest(agent_id=agent_id)
        return (await self._call(lambda at: at.fleet.ResumeAgent, request)).agent

    async def remove_agent(self, agent_id: str) -> None:
        """Forgets an agent that is LOST."""
        await self._call(lambda at: at.fleet.RemoveAgent, fleet_service_pb2.RemoveAgentRequest(agent_id=agent_id))

    async def _call(
        self,
        method: Callable[[_Stubs], "aio.UnaryUnaryMultiCallable[_Q, _R]"],
        request: _Q,
        *,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> _R:
        outage = Outage(self._patience_s, len(self._controllers))
        if patient:
            outage.alive()
        while True:
            turn, at = self._controllers.current()
            try:
                return await method(at)(request, timeout=timeout_s or self._timeout_s)
            except grpc.RpcError as error:
                known = from_rpc_error(error)
            await self._recover(outage, known, turn)

    async def _follow(
        self,
        method: Callable[[_Stubs], "aio.UnaryStreamMultiCallable[_Q, _R]"],
        following: Following[_Q, _R],
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[_R]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        outage = Outage(self._patience_s, len(self._controllers))
        while True:
            turn, at = self._controllers.current()
            began = time.monotonic()
            left = None if deadline is None else max(0.0, deadline - began)
            call = method(at)(following.request(), timeout=left)
            try:
                async for message in call:
                    outage.alive()
                    if following.fresh(message):
                        yield message
                return
            except grpc.RpcError as error:
                known = from_rpc_error(error)
            finally:
                call.cancel()
            if deadline is not None and known.code == "DEADLINE_EXCEEDED":
                return
            if time.monotonic() - began >= ESTABLISHED_S:
                outage.alive()
            await self._recover(outage, known, turn)

    async def _recover(self, outage: Outage, error: MediactlError, turn: int) -> None:
        pause_s = outage.pause_s(error)
        self._controllers.pass_on(turn)
        await asyncio.sleep(pause_s)
