"""The asyncio client. The same methods as `mediactl.client.Client`; see there."""

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio

from mediactl import requests
from mediactl.channel import Credentials, aio_channel
from mediactl.errors import WaitTimeout, from_rpc_error
from mediactl.places import default_address
from mediactl.requests import ENDED, FilterLike, Following, Outage, SpecLike
from mediactl.v1 import (
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    preset_service_pb2,
    preset_service_pb2_grpc,
)

_Q = TypeVar("_Q")
_R = TypeVar("_R")


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
        self._channel = aio_channel(self.address, credentials or Credentials.from_environment())
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._jobs: job_service_pb2_grpc.JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(self._channel)
        self._presets: preset_service_pb2_grpc.PresetServiceAsyncStub = preset_service_pb2_grpc.PresetServiceStub(
            self._channel
        )
        self._fleet: fleet_service_pb2_grpc.FleetServiceAsyncStub = fleet_service_pb2_grpc.FleetServiceStub(
            self._channel
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call and the connection."""
        await self._channel.close()

    # Jobs

    async def submit(self, spec: SpecLike, *, request_id: str | None = None) -> job_pb2.Job:
        """Stores one job. With a `request_id`, a second call returns the job of the first."""
        return (await self.submit_all([spec], request_id=request_id))[0]

    async def submit_all(self, specs: Sequence[SpecLike], *, request_id: str | None = None) -> tuple[job_pb2.Job, ...]:
        """Stores all of the jobs or none."""
        response = await self._call(self._jobs.SubmitJobs, requests.submission(specs, request_id))
        return tuple(response.jobs)

    async def get(self, job_id: str) -> job_pb2.Job:
        """One job with its attempts, by id or unambiguous prefix."""
        return (await self._call(self._jobs.GetJob, job_service_pb2.GetJobRequest(job_id=job_id))).job

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
            self._jobs.ListJobs,
            job_service_pb2.ListJobsRequest(
                filter=requests.selection(where), page_size=page_size, page_token=page_token
            ),
        )

    async def cancel(self, job_id: str, *, message: str = "") -> job_pb2.Job:
        """Asks for a job to be stopped; `watch` or `wait` tell when it has."""
        request = job_service_pb2.CancelJobRequest(job_id=job_id, message=message)
        return (await self._call(self._jobs.CancelJob, request)).job

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
        return self._follow(self._jobs.WatchJobs, requests.Watching(where, after, until_ended), timeout_s=timeout_s)

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
            job = await self.get(job.id)
        return job

    def logs(
        self, job_id: str, *, follow: bool = False, attempt_id: str = ""
    ) -> AsyncIterator[job_service_pb2.StreamLogsResponse]:
        """Pieces of a job's log; with `follow`, until the job has ended."""
        return self._follow(self._jobs.StreamLogs, requests.LogReading(job_id, follow, attempt_id))

    async def events(self, job_id: str) -> AsyncIterator[job_pb2.Event]:
        """A job's history, fetched a page at a time."""
        token = ""
        while True:
            page = await self._call(
                self._jobs.ListEvents, job_service_pb2.ListEventsRequest(job_id=job_id, page_token=token)
            )
            for event in page.events:
                yield event
            token = page.next_page_token
            if not token:
                return

    async def explain(self, job_id: str) -> job_service_pb2.ExplainJobResponse:
        """Why a job waits."""
        return await self._call(self._jobs.ExplainJob, job_service_pb2.ExplainJobRequest(job_id=job_id))

    async def plan(self, spec: SpecLike, *, timeout_s: float = 300.0) -> job_service_pb2.PlanJobResponse:
        """What would be run for a job, and why. An agent probes the inputs, so this may take a while."""
        job = requests.from_json(spec, job_pb2.JobSpec, field="job")
        return await self._call(self._jobs.PlanJob, job_service_pb2.PlanJobRequest(job=job), timeout_s=timeout_s)

    # Presets and profiles

    async def presets(self) -> builtins.list[preset_service_pb2.Preset]:
        """All presets, without their documents."""
        request = preset_service_pb2.ListPresetsRequest()
        return [*(await self._call(self._presets.ListPresets, request)).presets]

    async def preset(self, name: str) -> preset_service_pb2.Preset:
        """One preset with its document."""
        request = preset_service_pb2.GetPresetRequest(name=name)
        return (await self._call(self._presets.GetPreset, request)).preset

    async def add_preset(self, document: str) -> preset_service_pb2.Preset:
        """Adds a preset from its TOML text."""
        request = preset_service_pb2.AddPresetRequest(document=document)
        return (await self._call(self._presets.AddPreset, request)).preset

    async def profiles(self) -> builtins.list[preset_service_pb2.Profile]:
        """All profiles, without their documents."""
        request = preset_service_pb2.ListProfilesRequest()
        return [*(await self._call(self._presets.ListProfiles, request)).profiles]

    async def profile(self, name: str) -> preset_service_pb2.Profile:
        """One profile with its document."""
        request = preset_service_pb2.GetProfileRequest(name=name)
        return (await self._call(self._presets.GetProfile, request)).profile

    async def add_profile(self, document: str) -> preset_service_pb2.Profile:
        """Adds a profile from its TOML text."""
        request = preset_service_pb2.AddProfileRequest(document=document)
        return (await self._call(self._presets.AddProfile, request)).profile

    # The fleet

    async def agents(self) -> builtins.list[fleet_service_pb2.Agent]:
        """All agents."""
        request = fleet_service_pb2.ListAgentsRequest()
        return [*(await self._call(self._fleet.ListAgents, request)).agents]

    async def agent(self, agent_id: str) -> fleet_service_pb2.Agent:
        """One agent, by id, unambiguous prefix or name."""
        request = fleet_service_pb2.GetAgentRequest(agent_id=agent_id)
        return (await self._call(self._fleet.GetAgent, request)).agent

    async def _call(
        self,
        method: "aio.UnaryUnaryMultiCallable[_Q, _R]",
        request: _Q,
        *,
        timeout_s: float | None = None,
    ) -> _R:
        try:
            return await method(request, timeout=timeout_s or self._timeout_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    async def _follow(
        self,
        method: "aio.UnaryStreamMultiCallable[_Q, _R]",
        following: Following[_Q, _R],
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[_R]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        outage = Outage(self._patience_s)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            call = method(following.request(), timeout=left)
            try:
                async for message in call:
                    outage.alive()
                    if following.fresh(message):
                        yield message
                return
            except grpc.RpcError as error:
                known = from_rpc_error(error)
                if deadline is not None and known.code == "DEADLINE_EXCEEDED":
                    return
                await asyncio.sleep(outage.pause_s(known))
            finally:
                call.cancel()
