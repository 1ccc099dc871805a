"""What people do to jobs: hold, release, retry, at every state a job can be in, on both engines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from controller.core.retries import WORK
from controller.core.states import JobState, TaskState
from controller.store.submission import RequestIdReused
from controller.store.tables import JobId
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.desks import again, attempts_of, cancel, dead, hold, release, retry, state, turn, two_desks
from tests.fakes.postgres import Postgres
from tests.fakes.running import Desk, desk_on_engine


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _pending(desk: Desk) -> JobId:
    [job_id] = await desk.submit()
    return job_id


async def _scheduled(desk: Desk) -> JobId:
    [job_id] = await desk.submit(not_before_us=desk.now_us + 3_600_000_000)
    return job_id


async def _failed(desk: Desk) -> JobId:
    return await dead(desk, reason=Reason.FFMPEG_FAILED)


async def _blocked(desk: Desk) -> JobId:
    [parent] = await desk.submit(not_before_us=desk.now_us + 10**15)
    [job_id] = await desk.submit(after=(parent,))
    return job_id


Way = Callable[[Desk], Awaitable[JobId]]
WAITING: dict[str, Way] = {
    TaskState.PENDING: _pending,
    TaskState.SCHEDULED: _scheduled,
    TaskState.FAILED: _failed,
    TaskState.BLOCKED: _blocked,
}


# Hold


@pytest.mark.parametrize("waiting", WAITING)
async def test_what_is_held_is_not_leased(desk: Desk, waiting: str) -> None:
    """Whatever it waited for, the job is HELD, and stays so when that has come."""
    await desk.register("a")
    job_id = await WAITING[waiting](desk)
    assert (await desk.task(job_id)).state == waiting
    assert (await hold(desk, job_id)).done == [job_id]
    assert (await desk.job(job_id)).state == JobState.HELD
    desk.wait(3601)
    await turn(desk)
    assert await desk.grant("a") == []
    assert (await desk.job(job_id)).state == JobState.HELD


@pytest.mark.parametrize(
    ("waiting", "after"),
    [
        (TaskState.PENDING, (TaskState.PENDING, JobState.PENDING)),
        (TaskState.SCHEDULED, (TaskState.SCHEDULED, JobState.PENDING)),
        (TaskState.FAILED, (TaskState.SCHEDULED, JobState.PENDING)),
        (TaskState.BLOCKED, (TaskState.BLOCKED, JobState.BLOCKED)),
    ],
)
async def test_what_is_released_waits_as_before(
    desk: Desk, waiting: TaskState, after: tuple[TaskState, JobState]
) -> None:
    """A pause shortens neither the wait for an hour, nor a back-off, nor that for another job."""
    await desk.register("a")
    job_id = await WAITING[waiting](desk)
    await hold(desk, job_id)
    assert (await release(desk, job_id)).done == [job_id]
    assert await state(desk, job_id) == after
    assert len(await desk.grant("a")) == (waiting is TaskState.PENDING)


@pytest.mark.parametrize("waiting", WAITING)
async def test_repeats_do_nothing(desk: Desk, waiting: str) -> None:
    """Held twice, released twice: done each time, told once."""
    job_id = await WAITING[waiting](desk)
    for act in (hold, release):
        assert (await act(desk, job_id)).done == [job_id]
        before = await desk.history(job_id)
        assert (await act(desk, job_id)).done == [job_id]
        assert await desk.history(job_id) == before


async def test_a_job_that_was_not_held_is_not_moved_by_a_release(desk: Desk) -> None:
    """It is told that it is done, for that is how it stands."""
    job_id = await _pending(desk)
    assert (await release(desk, job_id)).done == [job_id]
    assert await desk.history(job_id) == ["submitted"]


@pytest.mark.parametrize("begun", [False, True], ids=["leased", "running"])
async def test_what_runs_goes_on_and_its_retry_is_held(desk: Desk, begun: bool) -> None:
    """The attempt is not stopped; only what would follow it waits for the person."""
    job_id, attempt = await desk.leased()
    if begun:
        await desk.start("a", attempt)
    await hold(desk, job_id)
    assert (await desk.job(job_id)).state == JobState.PROCESSING
    assert (await desk.history(job_id))[-1] == "hold_requested"
    await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
    assert await state(desk, job_id) == (TaskState.FAILED, JobState.HELD)
    desk.wait(WORK.first_s)
    await turn(desk)
    assert await state(desk, job_id) == (TaskState.HELD, JobState.HELD)
    assert await desk.grant("a") == []
    await release(desk, job_id)
    assert [lease.job_id for lease in await desk.grant("a")] == [job_id]


async def test_what_is_handed_back_while_held_is_held(desk: Desk) -> None:
    """There is no moment at which it could be leased again."""
    job_id, attempt = await desk.running()
    await hold(desk, job_id)
    await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
    assert await state(desk, job_id) == (TaskState.HELD, JobState.HELD)


async def test_what_was_held_while_it_ran_may_complete(desk: Desk) -> None:
    """It is done, and no pause is left behind."""
    job_id, attempt = await desk.publishing()
    await hold(desk, job_id)
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED


async def test_a_hold_taken_back_while_it_runs_leaves_nothing(desk: Desk) -> None:
    """The retry is leased as usual."""
    job_id, attempt = await desk.running()
    await hold(desk, job_id)
    await release(desk, job_id)
    await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
    assert await state(desk, job_id) == (TaskState.FAILED, JobState.FAILED)


async def test_a_dependency_that_completes_meanwhile_ends_no_pause(desk: Desk) -> None:
    """The job is HELD until it is released, and then it is in line."""
    parent, attempt = await desk.publishing()
    [child] = await desk.submit(after=(parent,))
    await hold(desk, child)
    await desk.end("a", attempt)
    assert await state(desk, child) == (TaskState.HELD, JobState.HELD)
    await release(desk, child)
    assert [lease.job_id for lease in await desk.grant("a")] == [child]


async def test_the_ended_and_the_unknown_are_refused_each_by_itself(desk: Desk) -> None:
    """The others of the same call are held, and released."""
    completed, died, waits = await desk.completed(), await dead(desk), await _pending(desk)
    cancelled = await _pending(desk)
    await cancel(desk, cancelled)
    ended = [(job_id, Reason.JOB_ENDED) for job_id in (completed, died, cancelled)]
    unknown = (JobId("nobody"), Reason.JOB_NOT_FOUND)
    for act in (hold, release):
        outcome = await act(desk, completed, died, waits, cancelled, JobId("nobody"))
        assert outcome.done == [waits]
        assert [refusal[:2] for refusal in outcome.refused] == [*ended, unknown]
        assert "DEAD" in outcome.refused[1][2]


async def test_a_held_job_is_cancelled_at_once(desk: Desk) -> None:
    """Nothing of it runs."""
    job_id = await _pending(desk)
    await hold(desk, job_id)
    await cancel(desk, job_id)
    assert await state(desk, job_id) == (TaskState.CANCELLED, JobState.CANCELLED)


@pytest.mark.parametrize("ahead_s", [0, 60])
async def test_jobs_may_be_submitted_held(desk: Desk, ahead_s: int) -> None:
    """Released, they stand in line, or wait for their hour first."""
    await desk.register("a")
    [job_id] = await desk.submit(hold=True, not_before_us=desk.now_us + ahead_s * 1_000_000)
    assert await state(desk, job_id) == (TaskState.HELD, JobState.HELD)
    assert await desk.grant("a") == []
    await release(desk, job_id)
    assert (await desk.task(job_id)).state == (TaskState.SCHEDULED if ahead_s else TaskState.PENDING)
    desk.wait(ahead_s)
    await turn(desk)
    assert [lease.job_id for lease in await desk.grant("a")] == [job_id]


async def test_the_place_in_line_is_kept(desk: Desk) -> None:
    """Who was first is first again after the pause."""
    await desk.register("a")
    first, second, third = await desk.submit(3)
    await hold(desk, first, second)
    desk.wait(100)
    await release(desk, second, first)
    assert [lease.job_id for lease in await desk.grant("a")] == [first, second, third]


@pytest.mark.parametrize("paused", [False, True])
async def test_a_pause_earns_no_age(desk: Desk, paused: bool) -> None:
    """Waiting lifts a low priority above a higher one; waiting while HELD does not."""
    await desk.register("a")
    [low] = await desk.submit(priority=1)
    if paused:
        await hold(desk, low)
    desk.wait(desk.rules.ageing_s * 5)
    if paused:
        await release(desk, low)
    [high] = await desk.submit(priority=5)
    [lease] = await desk.grant("a", cores=1)
    assert lease.job_id == (high if paused else low)


# Retry


async def test_a_dead_job_is_brought_back(desk: Desk) -> None:
    """It waits again as if new, keeps its history and the numbers of its attempts, and can complete."""
    job_id = await dead(desk)
    assert (await desk.job(job_id)).ended_us is not None
    assert (await retry(desk, job_id)).done == [job_id]
    job = await desk.job(job_id)
    assert (job.state, job.failure, job.reason, job.ended_us, job.started_us) == (
        JobState.PENDING,
        None,
        "",
        None,
        None,
    )
    attempt = await again(desk)
    assert await desk.stage("a", attempt)
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED
    assert await attempts_of(desk, job_id) == [(1, "failed"), (2, "completed")]
    assert (await desk.history(job_id))[2:6] == ["started", "dead", "retried", "ready"]


async def test_attempts_are_counted_anew(desk: Desk) -> None:
    """A retried job has as many attempts as it had at first."""
    job_id, attempt = await desk.running(max_attempts=2)
    for life in (1, 2):
        await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
        assert (await desk.job(job_id)).state == JobState.FAILED
        await desk.end("a", await again(desk), reason=Reason.FFMPEG_FAILED)
        assert (await desk.job(job_id)).state == JobState.DEAD
        if life == 1:
            await retry(desk, job_id)
            attempt = await again(desk)
    assert (await desk.job(job_id)).attempt_count == 4


async def test_a_lost_agent_of_the_former_life_is_forgotten(desk: Desk) -> None:
    """The first lost agent of the new life is free of charge again."""
    job_id, _ = await desk.running()
    await desk.register("a")
    await again(desk)
    await desk.register("a")
    assert ((await desk.task(job_id)).attempts_used, (await desk.task(job_id)).agents_lost) == (1, 2)
    await desk.end("a", await again(desk), reason=Reason.INPUT_CORRUPT)
    await retry(desk, job_id)
    await again(desk)
    await desk.register("a")
    task = await desk.task(job_id)
    assert (task.state, task.agents_lost, task.attempts_used) == (TaskState.PENDING, 1, 0)


async def test_only_the_dead_are_retried(desk: Desk) -> None:
    """Of many, each by itself; the others are told what they are."""
    died, twice, completed, waits = await dead(desk), await dead(desk), await desk.completed(), await _pending(desk)
    cancelled = await _pending(desk)
    await cancel(desk, cancelled)
    outcome = await retry(desk, died, completed, twice, waits, cancelled, JobId("nobody"))
    assert outcome.done == [died, twice]
    assert [(job_id, reason) for job_id, reason, _ in outcome.refused] == [
        (completed, Reason.JOB_NOT_DEAD),
        (waits, Reason.JOB_NOT_DEAD),
        (cancelled, Reason.JOB_NOT_DEAD),
        (JobId("nobody"), Reason.JOB_NOT_FOUND),
    ]
    assert outcome.refused[0][2] == "the job is COMPLETED; only a DEAD job can be retried"


async def test_a_repeated_request_retries_once(desk: Desk) -> None:
    """It gets the same answer even when the job has died again since; another request under its id is refused."""
    job_id = await dead(desk)
    first = await retry(desk, job_id, request_id="r")
    await desk.end("a", await again(desk), reason=Reason.INPUT_CORRUPT)
    repeated = await retry(desk, job_id, request_id="r")
    assert (first.done, repeated.done, repeated.refused) == ([job_id], [job_id], [])
    assert (await desk.job(job_id)).state == JobState.DEAD
    with pytest.raises(RequestIdReused):
        await retry(desk, job_id, request_id="r", digest="other")
    assert (await retry(desk, job_id, request_id="r2")).done == [job_id]


async def test_one_request_at_two_controllers_is_done_once(postgres: Postgres) -> None:
    """Whoever is second gets the first one's answer, for a retry and for a submission."""
    async with two_desks(postgres) as (one, other):
        job_id = await dead(one)
        for round_ in range(5):
            both = await asyncio.gather(*(desk.submit(3, request_id=f"s{round_}") for desk in (one, other)))
            assert both[0] == both[1]
        answers = await asyncio.gather(*(retry(desk, job_id, request_id="r") for desk in (one, other)))
        assert [answer.done for answer in answers] == [[job_id], [job_id]]
        assert (await one.history(job_id)).count("retried") == 1


async def test_what_was_tried_again_can_be_cancelled_again(desk: Desk) -> None:
    """A cancel that came too late for the former life means nothing in the new one."""
    job_id, attempt = await desk.publishing()
    await cancel(desk, job_id)
    await desk.end("a", attempt, reason=Reason.PUBLISH_FAILED)
    assert (await desk.job(job_id)).state == JobState.DEAD
    await retry(desk, job_id)
    await desk.end("a", await again(desk), reason=Reason.FFMPEG_FAILED)
    assert (await desk.job(job_id)).state == JobState.FAILED
    await cancel(desk, job_id)
    assert (await desk.job(job_id)).state == JobState.CANCELLED


async def test_of_several_tasks_only_those_that_did_not_complete_are_brought_back(desk: Desk) -> None:
    """What is done stays done; at no point of the way back does the job seem to have ended otherwise."""
    job_id, attempt = await desk.running()
    part = [pb.NewTask(name=name, kind=pb.TASK_KIND_PART) for name in ("one", "two", "three")]
    await desk.end("a", attempt, pb.OUTCOME_EXPANDED, tasks=part)
    [one, two] = await desk.grant("a", cores=2)
    await desk.end("a", one.attempt_id)
    await desk.end("a", two.attempt_id, reason=Reason.INPUT_CORRUPT)
    assert (await desk.job(job_id)).state == JobState.DEAD
    told = len(await desk.events(job_id))
    await retry(desk, job_id)
    assert [task.state for task in (await desk.tasks(job_id)).values()] == [
        "COMPLETED",
        "COMPLETED",
        "PENDING",
        "PENDING",
    ]
    assert {row.job_state for row in (await desk.events(job_id))[told:-1]} <= {"DEAD", "PROCESSING"}
    for lease in await desk.grant("a"):
        await desk.end("a", lease.attempt_id)
    assert (await desk.job(job_id)).state == JobState.COMPLETED
