"""Callers and agents that send what nobody should: they are told, and nobody else notices, on both engines."""

import asyncio
import json
import string
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode, aio

from controller.frames import MOST_MESSAGE, check, check_hello
from controller.store.attempts import End
from controller.store.overview import queue_depths
from controller.store.submission import Submit
from controller.store.tables import DEFAULT_TENANT
from controller.store.writer import Command
from mediactl.errors import MediactlError, from_status, status_of
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from presets.parse import InvalidDocument, load
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from tests.fakes.agent_peer import AgentPeer
from tests.fakes.running import Desk, controller, desk_on_engine, eventually, new_job

UNINDEXABLE = "".join(Random(1).choices(string.ascii_letters + string.digits, k=20_000))  # noqa: S311 - no secret
"""Too long for an index of PostgreSQL, and hard to compress."""


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


def _spec(number: int = 0) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        inputs=[job_pb2.Input(uri="file:///media/x.wav")],
        preset="loudness_podcast",
        outputs=[job_pb2.Output(uri=f"file:///media/{number}/")],
    )


async def test_what_no_index_holds_fails_alone(desk: Desk) -> None:
    """Commands that are committed together: those beside the one that the database refuses are done."""
    commands: list[Command[object]] = [
        Submit(DEFAULT_TENANT, (new_job(),), UNINDEXABLE if number == 2 else f"request {number}", "d")
        for number in range(5)
    ]
    told = await asyncio.gather(*(desk.do(command) for command in commands), return_exceptions=True)
    assert [number for number, one in enumerate(told) if isinstance(one, Exception)] in ([], [2])
    assert not any(type(one).__name__ == "StoreUnavailable" for one in told)


async def test_a_log_that_no_index_holds_harms_no_other_agent(desk: Desk) -> None:
    """Reports of two agents in one transaction, one of them unfit."""
    _, first = await desk.running("a")
    job_id, second = await desk.publishing("b")
    chunk = pb.LogChunk(attempt_id=first, stream=UNINDEXABLE, sequence=1, data=b"x")
    await asyncio.gather(desk.log("a", chunk), desk.end("b", second), return_exceptions=True)
    assert (await desk.job(job_id)).state == "COMPLETED"


async def test_depths_are_whole_numbers(desk: Desk) -> None:
    """PostgreSQL adds whole numbers up to decimals, which no message takes."""
    await desk.submit(3)
    [depth] = await desk.store.read(queue_depths)
    assert (depth.tasks, type(depth.tasks)) == (3, int)


@pytest.mark.parametrize(
    "document",
    [
        "[" * 100_000,
        '{"alternatives":[{"needs":[],"resources":{"cores":1e400},"open_after_s":0}]}',
        '{"alternatives":[{"needs":[],"resources":{"cores":1.5},"open_after_s":0}]}',
        '{"alternatives":[{"needs":[],"resources":{"cores":true},"open_after_s":0}]}',
        '{"alternatives":[{"needs":[],"resources":{"cores":-1},"open_after_s":0}]}',
        '{"alternatives":[{"needs":[],"resources":{},"open_after_s":NaN}]}',
        '{"alternatives":[{"needs":[[1, "a", null]],"resources":{},"open_after_s":0}]}',
        '{"alternatives":[{"needs":[["\\u0000"]],"resources":{},"open_after_s":0}]}',
        json.dumps({"alternatives": [{"needs": [[UNINDEXABLE]], "resources": {}, "open_after_s": 0}]}),
        "[]",
    ],
    ids=["deep", "endless", "half", "bool", "negative", "nan", "mixed", "nul", "long", "list"],
)
async def test_requirements_that_are_none_fail_the_attempt(desk: Desk, document: str) -> None:
    """Whatever an agent writes: the attempt ends, rather than its report coming back for ever."""
    job_id, attempt = await desk.running()
    report = pb.EndReport(attempt_id=attempt, outcome=pb.OUTCOME_REFILED, requirements_json=document)
    await desk.say("a", _end(report))
    assert (await desk.attempt(attempt)).state == "failed"
    assert "can't be read" in (await desk.job(job_id)).failure


def _end(report: pb.EndReport) -> End:
    return End(report, jitter=1.0)


async def test_callers_are_told_what_is_wrong(tmp_path: Path) -> None:
    """No text, number or token of a caller is an internal error."""
    async with controller(tmp_path) as this:
        jobs: job_service_pb2_grpc.JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(this.channel)
        where = job_pb2.JobFilter
        many = _spec()
        many.after.extend(f"{number:x}" for number in range(2000))
        calls: dict[str, Any] = {
            "request_id": jobs.SubmitJobs(job_service_pb2.SubmitJobsRequest(jobs=[_spec()], request_id="a\0b")),
            "long id": jobs.SubmitJobs(job_service_pb2.SubmitJobsRequest(jobs=[_spec()], request_id=UNINDEXABLE)),
            "after": jobs.SubmitJobs(job_service_pb2.SubmitJobsRequest(jobs=[many])),
            "message": jobs.HoldJobs(job_service_pb2.HoldJobsRequest(message="x" * 5000)),
            "label": jobs.ListJobs(job_service_pb2.ListJobsRequest(filter=where(labels={"a\0": "b"}))),
            "queue": jobs.ListJobs(job_service_pb2.ListJobsRequest(filter=where(queue="\0"))),
            "ids": jobs.ListJobs(job_service_pb2.ListJobsRequest(filter=where(ids=["\0"]))),
            "short ids": jobs.HoldJobs(job_service_pb2.HoldJobsRequest(filter=where(ids=["ab"] * 501))),
        }
        for name, call in calls.items():
            with pytest.raises(aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is StatusCode.INVALID_ARGUMENT, name
        for given in ("\0", "%", "x" * 1_000_000):
            with pytest.raises(aio.AioRpcError) as refused:
                await jobs.GetJob(job_service_pb2.GetJobRequest(job_id=given))
            assert refused.value.code() is StatusCode.NOT_FOUND


async def test_thousands_of_whole_ids_are_one_question(tmp_path: Path) -> None:
    """Whoever waits for a large batch names all its jobs."""
    async with controller(tmp_path) as this:
        jobs = await this.client.submit_all([_spec(number) for number in range(1500)])
        ids = [job.id for job in jobs]
        page = [job.id async for job in this.client.list({"ids": ids})]
        assert sorted(page) == sorted(ids)


async def test_figures_that_no_database_holds_do_not_come_back_for_ever(tmp_path: Path) -> None:
    """An end with an absurd run time is taken; the job goes on, and can be shown."""
    async with controller(tmp_path) as this, AgentPeer(this.channel) as agent:
        job = await this.client.submit(_spec())
        lease = await agent.lease()
        report = pb.EndReport(attempt_id=lease.attempt_id, outcome=pb.OUTCOME_FAILED)
        report.failure.reason, report.failure.message = Reason.INPUT_NOT_FOUND, "m" * 100_000
        report.usage.run_time.CopyFrom(Duration(seconds=2**62))
        report.usage.cpu_seconds, report.usage.peak_memory_bytes = float("nan"), -1
        report.usage.bytes_read, report.usage.bytes_written = -5, 7
        await agent.say(ended=report)
        await agent.acknowledged(lease.attempt_id)
        shown = await eventually(lambda: this.client.get(job.id), lambda now: now.state == job_pb2.JOB_STATE_DEAD)
        assert len(shown.failure.message) == MOST_MESSAGE
        [attempt] = shown.attempts
        assert (attempt.cpu_seconds, attempt.peak_memory_bytes) == (0.0, 0)
        assert (attempt.bytes_read, attempt.bytes_written) == (0, 7)


@pytest.mark.parametrize(
    "frame",
    [
        pb.SessionRequest(log=pb.LogChunk(attempt_id="a", stream="\0", sequence=1)),
        pb.SessionRequest(log=pb.LogChunk(attempt_id="a", stream=UNINDEXABLE, sequence=1)),
        pb.SessionRequest(log=pb.LogChunk(attempt_id="a", stream="x", sequence=0)),
        pb.SessionRequest(ended=pb.EndReport(attempt_id="\0")),
        pb.SessionRequest(decline=pb.Decline(attempt_id="\0")),
        pb.SessionRequest(staged=pb.StageReport(attempt_id="x" * 1000)),
        pb.SessionRequest(status=pb.AgentStatus(holdings=[pb.Holding(attempt_id="\0")])),
    ],
    ids=["stream", "long stream", "sequence", "end", "decline", "stage", "status"],
)
def test_frames_that_name_nothing_are_refused(frame: pb.SessionRequest) -> None:
    """They end the stream with what is wrong."""
    with pytest.raises(InvalidRequest):
        check(frame)


def test_an_agent_without_a_name_to_keep_is_refused() -> None:
    """Its id is the key of a row."""
    with pytest.raises(InvalidRequest, match=r"hello\.agent_id"):
        check_hello(pb.Hello(agent_id=UNINDEXABLE))


def test_very_many_problems_fit_into_one_status() -> None:
    """The first are told, and how many more there are; gRPC would drop the whole otherwise."""
    found = [Problem(Reason.INVALID_ARGUMENT, f"jobs[{number}].queue", "é" * 200) for number in range(10_000)]
    status = status_of(InvalidRequest(*found))
    assert status.ByteSize() < 6000
    told = from_status(status)
    assert isinstance(told, MediactlError)
    assert told.fields[0][0] == "jobs[0].queue"
    assert "more" in told.message
    assert status_of(InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "after", "x" * 10**6))).ByteSize() < 6000


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 10_000], ids=["deep", "long"])
def test_documents_that_no_reader_reads_are_refused(text: str) -> None:
    """As what is no TOML is."""
    with pytest.raises(InvalidDocument):
        load(text)
