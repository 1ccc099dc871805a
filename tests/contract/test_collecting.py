"""Who wants what agents kept of failed attempts, and what came of it; the same on every database."""

from collections.abc import AsyncIterator

import pytest

from controller.store import topics
from controller.store.attempts import End
from controller.store.collecting import (
    WANTED_US,
    GiveUp,
    MarkCollected,
    Want,
    kept_attempts,
    known_remains,
    wanted_from,
)
from controller.store.tables import DEFAULT_TENANT, AttemptId, JobId
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.reasons import Reason
from tests.fakes.running import Desk, desk_on_engine


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _failed(desk: Desk, agent: str = "a", *, kept_bytes: int = 700) -> tuple[JobId, AttemptId]:
    """A job whose one attempt failed and left something."""
    job_id, attempt = await desk.running(agent)
    report = pb.EndReport(
        attempt_id=attempt,
        outcome=pb.OUTCOME_FAILED,
        failure=job_pb2.Failure(reason=Reason.INPUT_CORRUPT, message="no media"),
        kept_bytes=kept_bytes,
    )
    await desk.say(agent, End(report, jitter=1.0))
    return job_id, attempt


async def _kept(desk: Desk, job_id: JobId, attempt_id: str = "") -> list[tuple[str, int, bool, str | None]]:
    """(attempt, bytes kept, whether it is wanted, key)."""
    rows = await desk.store.read(kept_attempts, desk.store.database, DEFAULT_TENANT, job_id, attempt_id)
    return [(row.id, row.kept_bytes, row.collect_us is not None, row.remains_key) for row in rows]


async def _wanted(desk: Desk, agent: str) -> list[str]:
    return [row.id for row in await desk.store.read(wanted_from, desk.store.database, agent)]


async def test_what_an_agent_kept_is_known_from_its_report(desk: Desk) -> None:
    """And who it is, and when it was last heard of."""
    job_id, attempt = await _failed(desk)
    assert await _kept(desk, job_id) == [(attempt, 700, False, None)]
    desk.wait(30)
    [row] = await desk.store.read(kept_attempts, desk.store.database, DEFAULT_TENANT, job_id)
    assert (row.agent_id, row.agent_name, bool(row.lost), row.silent_us) == ("a", "box-a", False, 30_000_000)


async def test_failed_attempts_newest_first_and_others_by_name(desk: Desk) -> None:
    """One that runs is none of those that failed."""
    job_id, attempt = await desk.running("a")
    assert await _kept(desk, job_id) == []
    assert await _kept(desk, job_id, attempt) == [(attempt, 0, False, None)]
    assert await _kept(desk, job_id, "unknown") == []


async def test_a_wish_reaches_the_agent_for_a_while(desk: Desk) -> None:
    """That agent alone, until it is old; a repeat renews it."""
    job_id, attempt = await _failed(desk)
    await _failed(desk, "b")
    with desk.store.topics.subscribe(topics.agent("a")) as changes:
        assert await desk.do(Want(DEFAULT_TENANT, attempt, "a"))
        await changes.wait(10)
    assert await _wanted(desk, "a") == [attempt]
    assert await _wanted(desk, "b") == []
    desk.wait(WANTED_US / 1e6)
    assert await _wanted(desk, "a") == []
    assert await desk.do(Want(DEFAULT_TENANT, attempt, "a"))
    assert await _wanted(desk, "a") == [attempt]
    assert (await _kept(desk, job_id))[0][2]


async def test_the_first_archive_that_is_whole_is_the_one(desk: Desk) -> None:
    """Of two received at once; nobody wants it any more."""
    job_id, attempt = await _failed(desk)
    await desk.do(Want(DEFAULT_TENANT, attempt, "a"))
    assert await desk.do(MarkCollected(DEFAULT_TENANT, attempt, job_id, "remains/default/j/1"))
    assert not await desk.do(MarkCollected(DEFAULT_TENANT, attempt, job_id, "remains/default/j/2"))
    assert await _kept(desk, job_id) == [(attempt, 700, False, "remains/default/j/1")]
    assert await _wanted(desk, "a") == []
    assert not await desk.do(Want(DEFAULT_TENANT, attempt, "a"))
    assert await desk.store.read(known_remains, DEFAULT_TENANT, [job_id, "other"]) == {"remains/default/j/1"}
    assert not await desk.do(MarkCollected(DEFAULT_TENANT, AttemptId("gone"), job_id, "remains/default/j/3"))


@pytest.mark.parametrize(("gone", "left"), [(True, 0), (False, 700)])
async def test_giving_up_is_told_to_who_waits(desk: Desk, gone: bool, left: int) -> None:
    """Whether it may be asked for again is seen by what is still kept; what is in the store already stays."""
    job_id, attempt = await _failed(desk)
    await desk.do(Want(DEFAULT_TENANT, attempt, "a"))
    with desk.store.topics.subscribe(topics.job(job_id)) as changes:
        await desk.do(GiveUp(DEFAULT_TENANT, attempt, job_id, gone))
        await changes.wait(10)
    assert await _kept(desk, job_id) == [(attempt, left, False, None)]
    await desk.do(MarkCollected(DEFAULT_TENANT, attempt, job_id, "key"))
    await desk.do(GiveUp(DEFAULT_TENANT, attempt, job_id, True))
    assert (await _kept(desk, job_id))[0][3] == "key"
