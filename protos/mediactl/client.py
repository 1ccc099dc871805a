"""The blocking client."""

import builtins
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc

from mediactl import requests
from mediactl.channel import Credentials, parse_addresses, sync_channel
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

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self.presets = preset_service_pb2_grpc.PresetServiceStub(channel)
        self.fleet = fleet_service_pb2_grpc.FleetServiceStub(channel)
        self.queue = queue_service_pb2_grpc.QueueServiceStub(channel)
        self.transfers = transfer_service_pb2_grpc.TransferServiceStub(channel)


class Client:
    """Talks to a controller; usable from several threads.

    `address` is `unix:PATH` or `host:port`, or several of them with commas between, for controllers on one database:
    the first that answers is used until it no longer does, then the next. Without one, MEDIACTL_CONTROLLER or this
    user's single box. `timeout_s` bounds each try of a call but streams. `patience_s` is how long `watch`, `wait`,
    `logs` and `remains`, once they run, outlast that no controller answers. Specs and filters are messages of
    `mediactl.v1` or their protobuf JSON form. Calls are repeated where controllers are briefly away; that is safe for
    all of them.

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
        self._controllers = Rota(_Stubs(sync_channel(str(target), held)) for target in parse_addresses(self.address))
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and the connection."""
        self._closed.set()
        for at in self._controllers.members:
            at.channel.close()

    # Jobs

    def submit(self, spec: SpecLike, *, request_id: str | None = None) -> job_pb2.Job:
        """Stores one job. With a `request_id`, a second call returns the job of the first."""
        return self.submit_all([spec], request_id=request_id)[0]

    def submit_all(self, specs: Sequence[SpecLike], *, request_id: str | None = None) -> tuple[job_pb2.Job, ...]:
        """Stores all of the jobs or none."""
        return tuple(self._call(lambda at: at.jobs.SubmitJobs, requests.submission(specs, request_id)).jobs)

    def get(self, job_id: str, *, patient: bool = False) -> job_pb2.Job:
        """One job with its attempts, by id or unambiguous prefix; `patient` outlasts an outage as `wait` does."""
        request = job_service_pb2.GetJobRequest(job_id=job_id)
        return self._call(lambda at: at.jobs.GetJob, request, patient=patient).job

    def list(self, where: FilterLike | None = None) -> Iterator[job_pb2.Job]:
        """Jobs, newest first, fetched a page at a time."""
        token = ""
        while True:
            page = self.list_page(where, page_token=token)
            yield from page.jobs
            token = page.next_page_token
            if not token:
                return

    def list_page(
        self, where: FilterLike | None = None, *, page_size: int = 0, page_token: str = ""
    ) -> job_service_pb2.ListJobsResponse:
        """One page of jobs, newest first; the filter must stay the same from page to page."""
        return self._call(
            lambda at: at.jobs.ListJobs,
            job_service_pb2.ListJobsRequest(
                filter=requests.selection(where), page_size=page_size, page_token=page_token
            ),
        )

    def cancel(self, job_id: str, *, message: str = "") -> job_pb2.Job:
        """Asks for a job to be stopped; `watch` or `wait` tell when it has."""
        request = job_service_pb2.CancelJobRequest(job_id=job_id, message=message)
        return self._call(lambda at: at.jobs.CancelJob, request).job

    def retry_jobs(self, where: FilterLike, *, request_id: str | None = None) -> job_service_pb2.RetryJobsResponse:
        """Puts DEAD jobs in line again. With a `request_id`, a second call tells what the first one did."""
        return self._call(lambda at: at.jobs.RetryJobs, requests.retrying(where, request_id))

    def replay_job(
        self, job_id: str, *, request_id: str | None = None, output_uri: str = "", overwrite: bool = False
    ) -> job_pb2.Job:
        """A new job with the pinned inputs and preset of another. `output_uri`, a prefix, is where its outputs go."""
        request = requests.replaying(job_id, request_id, output_uri, overwrite)
        return self._call(lambda at: at.jobs.ReplayJob, request).job

    def hold_jobs(self, where: FilterLike, *, message: str = "") -> job_service_pb2.HoldJobsResponse:
        """Pauses jobs; what runs goes on."""
        request = job_service_pb2.HoldJobsRequest(filter=requests.selection(where), message=message)
        return self._call(lambda at: at.jobs.HoldJobs, request)

    def release_jobs(self, where: FilterLike, *, message: str = "") -> job_service_pb2.ReleaseJobsResponse:
        """Ends the pause of jobs."""
        request = job_service_pb2.ReleaseJobsRequest(filter=requests.selection(where), message=message)
        return self._call(lambda at: at.jobs.ReleaseJobs, request)

    def watch(
        self,
        where: FilterLike | None = None,
        *,
        after: int = 0,
        until_ended: bool = True,
        timeout_s: float | None = None,
    ) -> Iterator[job_service_pb2.WatchJobsResponse]:
        """Events of the selected jobs, past and coming, and progress; survives a restart of the controller.

        `after` is a cursor of an event. `until_ended` ends it when every selected job has ended, `timeout_s`
        ends it after so many seconds, without an error.
        """
        return self._follow(
            lambda at: at.jobs.WatchJobs, requests.Watching(where, after, until_ended), timeout_s=timeout_s
        )

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> job_pb2.Job:
        """The job once it has ended, however it ended.

        Raises WaitTimeout, a TimeoutError, after `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        job = self.get(job_id)
        while job.state not in ENDED:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout_s is not None and left is not None and left <= 0:
                raise WaitTimeout(job.id, timeout_s)
            for _ in self.watch({"ids": [job.id]}, timeout_s=left):
                pass
            job = self.get(job.id, patient=True)
        return job

    def logs(
        self, job_id: str, *, follow: bool = False, attempt_id: str = ""
    ) -> Iterator[job_service_pb2.StreamLogsResponse]:
        """Pieces of a job's log; with `follow`, until the job has ended."""
        return self._follow(lambda at: at.jobs.StreamLogs, requests.LogReading(job_id, follow, attempt_id))

    def remains(self, job_id: str, *, attempt_id: str = "") -> Iterator[job_service_pb2.FetchRemainsResponse]:
        """What a failed attempt left behind, as a gzipped tar archive in pieces; by default the newest that left any.

        The first response says whose it is; `size_bytes` is of the whole archive, and 0 while an agent still sends it.
        """
        return self._follow(lambda at: at.jobs.FetchRemains, requests.RemainsReading(job_id, attempt_id))

    def sign_artifacts(self, job_id: str, *, lifetime_s: int = 3600) -> job_service_pb2.SignArtifactsResponse:
        """A URL for each artifact in an object store, with which anybody can read it for `lifetime_s` seconds.

        At the most 7 days. An artifact that has no URL has a `failure` instead. Where no agent that reaches its store
        is connected to one controller, the others are asked as well.
        """
        request = requests.signing(job_id, lifetime_s)
        signed = self._call(lambda at: at.jobs.SignArtifacts, request)
        for _ in range(len(self._controllers) - 1):
            if not requests.unsigned(signed):
                break
            self._controllers.pass_on(self._controllers.current()[0])
            signed = requests.signed_by_either(signed, self._call(lambda at: at.jobs.SignArtifacts, request))
        return signed

    def events(self, job_id: str) -> Iterator[job_pb2.Event]:
        """A job's history, fetched a page at a time."""
        token = ""
        while True:
            page = self._call(
                lambda at: at.jobs.ListEvents, job_service_pb2.ListEventsRequest(job_id=job_id, page_token=token)
            )
            yield from page.events
            token = page.next_page_token
            if not token:
                return

    def explain(self, job_id: str) -> job_service_pb2.ExplainJobResponse:
        """Why a job waits."""
        return self._call(lambda at: at.jobs.ExplainJob, job_service_pb2.ExplainJobRequest(job_id=job_id))

    def plan(self, spec: SpecLike, *, timeout_s: float = 300.0) -> job_service_pb2.PlanJobResponse:
        """What would be run for a job, and why. An agent probes the inputs, so this may take a while."""
        job = requests.from_json(spec, job_pb2.JobSpec, field="job")
        return self._call(lambda at: at.jobs.PlanJob, job_service_pb2.PlanJobRequest(job=job), timeout_s=timeout_s)

    # Files in the controller's own store

    def upload(self, path: Path) -> transfer_service_pb2.Deposit:
        """Puts a file of this machine where jobs can read it, as its `uri` says; what is there already is not sent."""
        file = LocalFile.of(path)
        upload = self.begin_upload(name=path.name, size_bytes=file.size, sha256=file.sha256)
        self.extend_upload(upload, file.pieces)
        return self.finish_upload(upload.upload_id)

    def begin_upload(
        self, *, size_bytes: int, sha256: str, name: str = "", uri: str = "", attempt_id: str = ""
    ) -> transfer_service_pb2.Deposit:
        """An upload to go on with from its `received_bytes`: a new one, or one of the same file."""
        request = transfer_service_pb2.BeginUploadRequest(
            name=name, uri=uri, size_bytes=size_bytes, sha256=sha256, attempt_id=attempt_id
        )
        return (self._call(lambda at: at.transfers.BeginUpload, request)).deposit

    def extend_upload(
        self, upload: transfer_service_pb2.Deposit, source: Callable[[int], Iterator[bytes]]
    ) -> transfer_service_pb2.Deposit:
        """Sends the rest, which `source` gives from an offset on, at most 1 MiB at once; anew where it broke off."""
        sending = Sending(upload, Outage(self._patience_s, len(self._controllers)))
        while sending.missing:
            turn, at = self._controllers.current()
            try:
                known = sending.ended(at.transfers.ExtendUpload(sending.messages(source)).deposit)
            except grpc.RpcError as error:
                known = from_rpc_error(error)
            if known is not None:
                self._recover(sending.outage, known, turn)
                sending.learn(self.get_deposit(upload_id=upload.upload_id))
        return sending.upload

    def finish_upload(self, upload_id: str, *, overwrite: bool = False) -> transfer_service_pb2.Deposit:
        """Has all that was sent compared with its checksum and made readable."""
        deposit = None
        for told in self._follow(lambda at: at.transfers.FinishUpload, Finishing(upload_id, overwrite)):
            deposit = told.deposit
        return finished(deposit)

    def get_deposit(self, uri: str = "", *, upload_id: str = "") -> transfer_service_pb2.Deposit:
        """What is deposited under a URI, or how far an upload is."""
        request = transfer_service_pb2.GetDepositRequest(uri=uri, upload_id=upload_id)
        return (self._call(lambda at: at.transfers.GetDeposit, request, patient=True)).deposit

    def read_deposit(
        self, uri: str, *, upload_id: str = "", offset: int = 0, length: int = 0
    ) -> Iterator[transfer_service_pb2.ReadDepositResponse]:
        """Bytes of a deposit, or with `upload_id` of that version of it; `length` 0 is all behind the offset."""
        return self._follow(lambda at: at.transfers.ReadDeposit, DepositReading(uri, upload_id, offset, length))

    def delete_deposit(self, uri: str = "", *, upload_id: str = "", attempt_id: str = "") -> bool:
        """Deletes a deposit, or an unfinished upload: that one, or with both others those of an attempt. Whether there
        was anything."""
        request = transfer_service_pb2.DeleteDepositRequest(uri=uri, upload_id=upload_id, attempt_id=attempt_id)
        return self._call(lambda at: at.transfers.DeleteDeposit, request).existed

    # The queue

    def get_queue(self) -> queue_service_pb2.GetQueueResponse:
        """What waits, what runs where, and the limits."""
        return self._call(lambda at: at.queue.GetQueue, queue_service_pb2.GetQueueRequest())

    def set_queue(self, name: str, *, weight: float) -> queue_service_pb2.Queue:
        """Sets a queue's share relative to the others."""
        request = queue_service_pb2.SetQueueRequest(name=name, weight=weight)
        return self._call(lambda at: at.queue.SetQueue, request).queue

    def set_limit(self, key: str, maximum: int | None) -> queue_service_pb2.Limit | None:
        """Sets how many tasks of `key` may run at once; None removes the limit and is what is then returned."""
        response = self._call(lambda at: at.queue.SetLimit, queue_service_pb2.SetLimitRequest(key=key, maximum=maximum))
        return response.limit if response.HasField("limit") else None

    def get_statistics(
        self, *, window_s: float = 86_400.0, preset: str = "", queue: str = ""
    ) -> queue_service_pb2.GetStatisticsResponse:
        """What came of the jobs that ended within the last `window_s` seconds, by preset and by operation."""
        request = queue_service_pb2.GetStatisticsRequest(preset=preset, queue=queue)
        request.window.FromMicroseconds(int(window_s * 1e6))
        return self._call(lambda at: at.queue.GetStatistics, request)

    # Presets and profiles

    def presets(self) -> builtins.list[preset_service_pb2.Preset]:
        """All presets, without their documents."""
        request = preset_service_pb2.ListPresetsRequest()
        return [*self._call(lambda at: at.presets.ListPresets, request).presets]

    def preset(self, name: str) -> preset_service_pb2.Preset:
        """One preset with its document."""
        return self._call(lambda at: at.presets.GetPreset, preset_service_pb2.GetPresetRequest(name=name)).preset

    def add_preset(self, document: str) -> preset_service_pb2.Preset:
        """Adds a preset from its TOML text."""
        request = preset_service_pb2.AddPresetRequest(document=document)
        return self._call(lambda at: at.presets.AddPreset, request).preset

    def profiles(self) -> builtins.list[preset_service_pb2.Profile]:
        """All profiles, without their documents."""
        request = preset_service_pb2.ListProfilesRequest()
        return [*self._call(lambda at: at.presets.ListProfiles, request).profiles]

    def profile(self, name: str) -> preset_service_pb2.Profile:
        """One profile with its document."""
        return self._call(lambda at: at.presets.GetProfile, preset_service_pb2.GetProfileRequest(name=name)).profile

    def add_profile(self, document: str) -> preset_service_pb2.Profile:
        """Adds a profile from its TOML text."""
        request = preset_service_pb2.AddProfileRequest(document=document)
        return self._call(lambda at: at.presets.AddProfile, request).profile

    # The fleet

    def agents(self) -> builtins.list[fleet_service_pb2.Agent]:
        """All agents."""
        return [*self._call(lambda at: at.fleet.ListAgents, fleet_service_pb2.ListAgentsRequest()).agents]

    def agent(self, agent_id: str) -> fleet_service_pb2.Agent:
        """One agent, by id, unambiguous prefix or name."""
        return self._call(lambda at: at.fleet.GetAgent, fleet_service_pb2.GetAgentRequest(agent_id=agent_id)).agent

    def drain_agent(self, agent_id: str, *, deadline_s: float | None = None) -> fleet_service_pb2.Agent:
        """Has an agent finish what it has and take nothing new.

        What still runs after `deadline_s` seconds is handed back, and begun anew by another agent.
        """
        return self._call(lambda at: at.fleet.DrainAgent, requests.draining(agent_id, deadline_s)).agent

    def resume_agent(self, agent_id: str) -> fleet_service_pb2.Agent:
        """Lets a drained agent take work again."""
        request = fleet_service_pb2.ResumeAgentRequest(agent_id=agent_id)
        return self._call(lambda at: at.fleet.ResumeAgent, request).agent

    def remove_agent(self, agent_id: str) -> None:
        """Forgets an agent that is LOST."""
        self._call(lambda at: at.fleet.RemoveAgent, fleet_service_pb2.RemoveAgentRequest(agent_id=agent_id))

    def _call(
        self,
        method: Callable[[_Stubs], "grpc.UnaryUnaryMultiCallable[_Q, _R]"],
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
                return method(at)(request, timeout=timeout_s or self._timeout_s)
            except grpc.RpcError as error:
                known = from_rpc_error(error)
            self._recover(outage, known, turn)

    def _follow(
        self,
        method: Callable[[_Stubs], "grpc.UnaryStreamMultiCallable[_Q, _R]"],
        following: Following[_Q, _R],
        *,
        timeout_s: float | None = None,
    ) -> Iterator[_R]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        outage = Outage(self._patience_s, len(self._controllers))
        while True:
            turn, at = self._controllers.current()
            began = time.monotonic()
            left = None if deadline is None else max(0.0, deadline - began)
            call = method(at)(following.request(), timeout=left)
            try:
                for message in call:
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
            self._recover(outage, known, turn)

    def _recover(self, outage: Outage, error: MediactlError, turn: int) -> None:
        pause_s = outage.pause_s(error)
        self._controllers.pass_on(turn)
        if self._closed.wait(pause_s):
            raise error
