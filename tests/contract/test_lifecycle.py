"""Times, back-offs, blame and the order of events: what moves jobs without anybody asking, on both engines."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.core.retries import BLOCK_S, INFRASTRUCTURE, INFRASTRUCTURE_PATIENCE_S, STORAGE, WORK, Backoff
from controller.core.states import JobState, TaskState
from controller.store import queries
from controller.store.cancelling import STOP_GRACE_US
from controller.store.tables import JobId
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.desks import again, dead, hold, retry, state, turn
from tests.fakes.running import Desk, desk_on_engine, offer

HOUR_US = 3_600_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _end_of(desk: Desk, job_id: JobId) -> tuple[str, str]:
    job = await desk.job(job_id)
    return job.state, job.reason


TIMED_OUT = (JobState.DEAD, Reason.TIMED_OUT)


# The appointed time


async def test_a_job_is_not_leased_before_its_time(desk: Desk) -> None:
    """From then on it is, and has waited only since then."""
    await desk.register("a")
    [job_id] = await desk.submit(not_before_us=desk.now_us + 60_000_000)
    assert await state(desk, job_id) == (TaskState.SCHEDULED, JobState.PENDING)
    desk.wait(59.999999)
    await turn(desk)
    assert await desk.grant("a") == []
    desk.wait(0.000001)
    await turn(desk)
    desk.wait(2)
    [lease] = await desk.grant("a")
    assert (lease.job_id, lease.queue_wait_s) == (job_id, 2.0)
    assert await desk.history(job_id) == ["submitted", "due", "leased"]


async def test_a_time_that_has_passed_is_none(desk: Desk) -> None:
    """The job stands in line at once."""
    [job_id] = await desk.submit(not_before_us=desk.now_us)
    assert (await desk.task(job_id)).state == TaskState.PENDING


# Deadline and timeout


@pytest.mark.parametrize("waiting", ["PENDING", "SCHEDULED", "FAILED", "BLOCKED", "HELD"])
async def test_what_waits_dies_at_its_deadline(desk: Desk, waiting: str) -> None:
    """Whatever it waits for, and not a moment before; it is leased no more."""
    due: dict[str, Any] = {"deadline_us": desk.now_us + HOUR_US}
    match waiting:
        case "FAILED":
            job_id = await dead(desk, reason=Reason.FFMPEG_FAILED, **due)
        case "BLOCKED":
            [parent] = await desk.submit(hold=True)
            [job_id] = await desk.submit(after=(parent,), **due)
        case _:
            ahead = desk.now_us + 2 * HOUR_US if waiting == "SCHEDULED" else None
            [job_id] = await desk.submit(not_before_us=ahead, hold=waiting == "HELD", **due)
    assert (await desk.task(job_id)).state == waiting
    desk.wait(3599.999999)
    await turn(desk)
    assert (await desk.job(job_id)).state != JobState.DEAD
    desk.wait(0.000001)
    for _ in range(2):
        await turn(desk)
    assert await _end_of(desk, job_id) == TIMED_OUT
    assert (await desk.history(job_id))[-1] == "dead"
    await desk.register("a")
    assert await desk.grant("a") == []


async def test_the_time_allowed_counts_from_the_first_start(desk: Desk) -> None:
    """Not while it waits for that, but while it waits for its next attempt."""
    await desk.submit(timeout_us=60_000_000)
    desk.wait(3600)
    await turn(desk)
    await desk.register("a")
    [lease] = await desk.grant("a")
    desk.wait(100)
    await turn(desk)
    await desk.start("a", lease.attempt_id)
    await desk.end("a", lease.attempt_id, reason=Reason.FFMPEG_FAILED)
    desk.wait(59)
    await turn(desk)
    [lease] = await desk.grant("a")
    await desk.start("a", lease.attempt_id)
    await turn(desk)
    assert await desk.store.read(queries.stops_for, "a") == []
    desk.wait(1)
    await turn(desk)
    [stop] = await desk.store.read(queries.stops_for, "a")
    assert (stop.id, stop.stop_reason) == (lease.attempt_id, Reason.TIMED_OUT)


@pytest.mark.parametrize("deadline_s", [30, 90])
async def test_deadline_and_timeout_hold_together(desk: Desk, deadline_s: int) -> None:
    """The one that comes first counts."""
    due_us = desk.now_us + deadline_s * 1_000_000
    await desk.running(timeout_us=60_000_000, deadline_us=due_us)
    desk.wait(min(deadline_s, 60) - 1)
    await turn(desk)
    assert await desk.store.read(queries.stops_for, "a") == []
    desk.wait(1)
    await turn(desk)
    assert len(await desk.store.read(queries.stops_for, "a")) == 1


@pytest.mark.parametrize("begun", [False, True], ids=["leased", "running"])
@pytest.mark.parametrize("ending", ["stopped", "failed", "lost", "handed back", "declined", "never"])
async def test_what_runs_is_stopped_at_its_deadline(desk: Desk, begun: bool, ending: str) -> None:
    """It may publish nothing any more, and is DEAD however the attempt ends, or if that is never told."""
    job_id, attempt = await desk.leased(deadline_us=desk.now_us + HOUR_US)
    if begun:
        await desk.start("a", attempt)
    desk.wait(3600)
    for _ in range(2):
        await turn(desk)
    assert (await desk.job(job_id)).state == JobState.PROCESSING
    if begun:
        assert not await desk.stage("a", attempt)
    match ending:
        case "stopped":
            await desk.end("a", attempt, pb.OUTCOME_STOPPED)
        case "failed":
            await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
        case "handed back":
            await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
        case "declined" if not begun:
            await desk.decline("a", attempt)
        case "lost":
            await desk.register("a")
            desk.wait(STOP_GRACE_US / 1e6)
            await turn(desk)
        case _:
            desk.wait(STOP_GRACE_US / 1e6)
            await turn(desk)
    assert await _end_of(desk, job_id) == TIMED_OUT
    assert await desk.store.read(queries.stops_for, "a") == []


async def test_what_publishes_at_its_deadline_completes(desk: Desk) -> None:
    """The commit point is passed; it is not stopped."""
    job_id, attempt = await desk.publishing(deadline_us=desk.now_us + HOUR_US)
    desk.wait(3700)
    await turn(desk)
    assert await desk.store.read(queries.stops_for, "a") == []
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED


async def test_a_publication_that_fails_after_the_deadline_is_not_tried_again(desk: Desk) -> None:
    """What was spared for the commit point's sake has no more time than others."""
    job_id, attempt = await desk.publishing(deadline_us=desk.now_us + HOUR_US)
    desk.wait(3700)
    await turn(desk)
    await desk.end("a", attempt, reason=Reason.PUBLISH_FAILED)
    await turn(desk)
    assert await _end_of(desk, job_id) == TIMED_OUT


async def test_a_retried_job_has_its_time_anew(desk: Desk) -> None:
    """The time allowed from its next start on; a deadline that has passed is waived."""
    job_id, attempt = await desk.running(timeout_us=60_000_000, deadline_us=desk.now_us + HOUR_US)
    desk.wait(3600)
    await turn(desk)
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    await retry(desk, job_id)
    attempt = await again(desk)
    await turn(desk)
    assert await desk.store.read(queries.stops_for, "a") == []
    desk.wait(60)
    await turn(desk)
    assert len(await desk.store.read(queries.stops_for, "a")) == 1
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    assert await _end_of(desk, job_id) == TIMED_OUT


async def test_a_held_job_that_runs_is_stopped_at_its_deadline(desk: Desk) -> None:
    """A pause stops no clock."""
    job_id, attempt = await desk.running(deadline_us=desk.now_us + HOUR_US)
    await hold(desk, job_id)
    desk.wait(3600)
    await turn(desk)
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    assert await _end_of(desk, job_id) == TIMED_OUT


# Back-off


@pytest.mark.parametrize(
    ("reason", "backoff"),
    [
        (Reason.FFMPEG_FAILED, WORK),
        (Reason.STALLED, WORK),
        (Reason.INPUT_UNAVAILABLE, STORAGE),
        (Reason.PUBLISH_FAILED, STORAGE),
        (Reason.SCRATCH_FULL, INFRASTRUCTURE),
        (Reason.ENCODER_SESSION_LIMIT, INFRASTRUCTURE),
        (Reason.GPU_UNAVAILABLE, INFRASTRUCTURE),
    ],
)
async def test_each_failure_waits_twice_as_long_as_the_one_before(desk: Desk, reason: Reason, backoff: Backoff) -> None:
    """From the first pause of its class on; nothing is leased before it is over."""
    job_id, attempt = await desk.running(max_attempts=9)
    for pause_s in (backoff.first_s, backoff.first_s * 2, backoff.first_s * 4):
        await desk.end("a", attempt, reason=reason)
        assert await state(desk, job_id) == (TaskState.FAILED, JobState.FAILED)
        desk.wait(pause_s - 0.001)
        await turn(desk)
        assert await desk.grant("a") == []
        desk.wait(0.001)
        await turn(desk)
        [lease] = await desk.grant("a")
        attempt = lease.attempt_id
        await desk.start("a", attempt)


async def test_the_fleet_has_an_hour_to_run_a_task(desk: Desk) -> None:
    """Its own failures cost no attempt, but not for ever."""
    job_id, attempt = await desk.running(max_attempts=1)
    await desk.end("a", attempt, reason=Reason.SCRATCH_FULL)
    attempt = await again(desk)
    await desk.end("a", attempt, reason=Reason.ENCODER_SESSION_LIMIT)
    assert (await desk.task(job_id)).attempts_used == 0
    desk.wait(INFRASTRUCTURE_PATIENCE_S - 1200)
    attempt = await again(desk)
    await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
    assert await _end_of(desk, job_id) == (JobState.DEAD, Reason.AGENT_STOPPING)


async def test_work_that_is_interrupted_again_and_again_is_no_waiting(desk: Desk) -> None:
    """Hours of work on machines that are taken away do not use up the hour that the fleet has."""
    job_id, attempt = await desk.running(max_attempts=1)
    for _ in range(4):
        desk.wait(0.9 * INFRASTRUCTURE_PATIENCE_S)
        await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
        [lease] = await desk.grant("a")
        attempt = lease.attempt_id
        await desk.start("a", attempt)
    assert (await desk.task(job_id)).attempts_used == 0


# Whom failures are blamed on


async def _fails(desk: Desk, agent: str, **facts: Any) -> JobId:
    job_id = await dead(desk, agent, reason=Reason.FFMPEG_FAILED, **facts)
    await hold(desk, job_id)
    return job_id


async def test_two_different_tasks_that_failed_block_a_class_at_an_agent(desk: Desk) -> None:
    """Others are leased such tasks, and it is leased tasks of other classes."""
    await desk.register("b")
    for _ in range(2):
        await _fails(desk, "a")
    [job_id] = await desk.submit()
    [other] = await desk.submit(cores=2)
    assert [lease.job_id for lease in await desk.grant("a")] == [other]
    [lease] = await desk.grant("b")
    assert (lease.job_id, lease.agent_id) == (job_id, "b")


async def test_one_task_that_fails_again_and_again_blocks_nobody(desk: Desk) -> None:
    """It may be the task's own fault."""
    job_id, attempt = await desk.running(max_attempts=9)
    for _ in range(4):
        await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
        attempt = await again(desk)
    assert (await desk.task(job_id)).attempts_used == 4
    await desk.submit()
    assert len(await desk.grant("a")) == 1


async def test_failures_of_inputs_blame_no_agent(desk: Desk) -> None:
    """However many tasks fail that way."""
    for _ in range(3):
        await dead(desk)
    await desk.submit()
    assert len(await desk.grant("a")) == 1


@pytest.mark.parametrize("how", ["time", "new capabilities", "success", "the same again"])
async def test_a_block_ends(desk: Desk, how: str) -> None:
    """After a while, when the agent has become another, or when a task of the class completed there after all."""
    _, running = await desk.publishing()
    for _ in range(2):
        await _fails(desk, "a")
    await desk.submit()
    assert await desk.grant("a") == []
    match how:
        case "time":
            desk.wait(BLOCK_S - 0.001)
            assert await desk.grant("a") == []
            desk.wait(0.001)
        case "new capabilities":
            await desk.register("a", running, revision="new")
        case "success":
            await desk.end("a", running)
        case _:
            await desk.register("a", running)
    assert len(await desk.grant("a")) == (how != "the same again")


async def test_a_failed_task_goes_elsewhere_if_it_can(desk: Desk) -> None:
    """To an agent where it has not failed yet, were it the busier one; to the same where there is no other."""
    job_id, attempt = await desk.running("a", max_attempts=9)
    await desk.end("a", attempt, reason=Reason.STALLED)
    desk.wait(600)
    await turn(desk)
    await desk.register("b")
    [lease] = await desk.offering(offer("a", cores=8), offer("b", cores=1))
    assert lease.agent_id == "b"
    await desk.start("b", lease.attempt_id)
    await desk.end("b", lease.attempt_id, reason=Reason.STALLED)
    desk.wait(600)
    await turn(desk)
    [lease] = await desk.grant("a", "b")
    assert lease.job_id == job_id


# Another life of the database


async def test_attempts_of_another_incarnation_are_quarantined(desk: Desk) -> None:
    """Neither stopped nor accepted: they may publish nothing; those of this one that nobody knows are stopped."""
    answer = await desk.register("a", "elsewhere-1.1-00", incarnation="another")
    assert (answer.quarantined, answer.stops, answer.leases) == (("elsewhere-1.1-00",), (), ())
    assert not await desk.stage("a", "elsewhere-1.1-00")
    own = await desk.register("a", "elsewhere-1.1-00", incarnation=answer.incarnation)
    assert (own.quarantined, [stop.attempt_id for stop in own.stops]) == ((), ["elsewhere-1.1-00"])


async def test_an_attempt_that_the_backup_knows_goes_on(desk: Desk) -> None:
    """It was granted before the backup was made, in whatever life that was."""
    job_id, attempt = await desk.running()
    answer = await desk.register("a", attempt, incarnation="another")
    assert (answer.quarantined, answer.stops) == ((), ())
    assert await desk.stage("a", attempt)
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED
