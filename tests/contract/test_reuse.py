"""What was made before: jobs find the artifacts of an earlier one by what those depend on, on both engines."""

from collections.abc import AsyncIterator

import pytest

from controller.core.states import JobState
from controller.store.attempts import End, Recall
from controller.store.tables import AttemptId, JobId
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from tests.fakes.desks import cancel
from tests.fakes.running import Desk, desk_on_engine

RECIPE = "5c" * 32


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        await desk.register("a")
        yield desk


async def _asked(desk: Desk, attempt: str, recipe: str = RECIPE) -> list[job_pb2.Artifact]:
    [answer] = await desk.say("a", Recall(AttemptId(attempt), recipe))
    assert isinstance(answer, tuple)
    return [job_pb2.Artifact.FromString(document) for document in answer]


async def _made(desk: Desk) -> JobId:
    job_id, attempt = await desk.running()
    assert await _asked(desk, attempt) == []
    assert await desk.stage("a", attempt, "file:///media/o.m4a", "file:///media/o.flac")
    await desk.end("a", attempt)
    return job_id


async def _taken(desk: Desk, attempt: str, artifacts: list[job_pb2.Artifact]) -> None:
    report = pb.EndReport(attempt_id=attempt, outcome=pb.OUTCOME_COMPLETED, reused=artifacts)
    await desk.say("a", End(report, 0.5))


async def test_the_same_is_found_and_taken(desk: Desk) -> None:
    """By whoever asks for the same, in the order of the outputs, and named as that job's; a third hears the maker."""
    first = await _made(desk)
    for _ in range(2):
        job_id, attempt = await desk.running()
        found = await _asked(desk, attempt)
        assert [(one.uri, one.made_by_job) for one in found] == [
            ("file:///media/o.m4a", first),
            ("file:///media/o.flac", first),
        ]
        await _taken(desk, attempt, found)
        assert (await desk.job(job_id)).state == JobState.COMPLETED
        assert [row.uri for row in await desk.artifacts(job_id)] == ["file:///media/o.m4a", "file:///media/o.flac"]
        assert (await desk.events(job_id))[-1].message == f"by what job {first} made of the same"


async def test_only_what_was_completed_is_found(desk: Desk) -> None:
    """Neither what is only asked for or being made, nor another recipe's."""
    _, attempt = await desk.running()
    assert await _asked(desk, attempt) == []
    _, other = await desk.running()
    assert await _asked(desk, other) == []
    assert await desk.stage("a", attempt)
    assert await _asked(desk, other) == []
    await desk.end("a", attempt)
    assert await _asked(desk, other, "6d" * 32) == []
    assert len(await _asked(desk, other)) == 1


async def test_who_was_cancelled_takes_nothing(desk: Desk) -> None:
    """A cancel that came first ends the job as cancelled, whatever the agent found."""
    await _made(desk)
    job_id, attempt = await desk.running()
    found = await _asked(desk, attempt)
    await cancel(desk, job_id)
    await _taken(desk, attempt, found)
    assert (await desk.job(job_id)).state == JobState.CANCELLED
    assert await desk.artifacts(job_id) == []


async def test_success_without_staging_or_finding_is_none(desk: Desk) -> None:
    """An agent that reports neither staged outputs nor found ones has made nothing."""
    job_id, attempt = await desk.running()
    await _taken(desk, attempt, [])
    assert (await desk.job(job_id)).state != JobState.COMPLETED
