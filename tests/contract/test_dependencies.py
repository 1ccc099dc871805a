"""Jobs that wait for jobs, on both engines: readied exactly once, or dead with whom they wait for."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from controller.core.states import JobState, TaskState
from controller.store.attempts import End, Report
from controller.store.submission import Submit
from controller.store.tables import DEFAULT_TENANT, AttemptId, JobId
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.desks import again, cancel, dead, retry, state, turn, two_desks, unfinished, until_blocked
from tests.fakes.postgres import Postgres
from tests.fakes.running import Desk, desk_on_engine, new_job

BLOCKED = (TaskState.BLOCKED, JobState.BLOCKED)
PENDING = (TaskState.PENDING, JobState.PENDING)


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _reason(desk: Desk, job_id: JobId) -> tuple[str, str]:
    job = await desk.job(job_id)
    return job.state, job.reason


async def _readied(desk: Desk, job_id: JobId) -> int:
    return (await desk.history(job_id)).count("ready")


async def _end(desk: Desk, job_id: JobId, attempt: AttemptId, how: JobState) -> None:
    """Bring a publishing job to this end."""
    if how is JobState.COMPLETED:
        await desk.end("a", attempt)
        return
    if how is JobState.CANCELLED:
        await desk.end("a", attempt, reason=Reason.PUBLISH_FAILED)
        await cancel(desk, job_id)
    else:
        await desk.end("a", attempt, reason=Reason.OUTPUT_EXISTS)
    assert (await desk.job(job_id)).state == how


# One parent, several parents


async def test_a_completed_parent_readies_its_children_once(desk: Desk) -> None:
    """All of them; until then none is leased, and repeats of the report ready nobody again."""
    parent, attempt = await desk.publishing()
    children = await desk.submit(3, after=(parent,))
    assert [await state(desk, child) for child in children] == [BLOCKED] * 3
    assert await desk.grant("a") == []
    for _ in range(2):
        await desk.end("a", attempt)
    assert [await state(desk, child) for child in children] == [PENDING] * 3
    assert [await _readied(desk, child) for child in children] == [1] * 3
    assert [lease.job_id for lease in await desk.grant("a")] == children


async def test_waiting_begins_when_the_last_parent_ended(desk: Desk) -> None:
    """What a job waited for others earns no age."""
    (one, first), (two, second) = await desk.publishing(), await desk.publishing()
    [child] = await desk.submit(after=(one, two))
    desk.wait(100)
    await desk.end("a", first)
    assert await state(desk, child) == BLOCKED
    assert (await desk.job(child)).waits_for == 1
    desk.wait(100)
    await desk.end("a", second)
    desk.wait(3)
    [lease] = await desk.grant("a")
    assert (lease.job_id, lease.queue_wait_s) == (child, 3.0)


async def test_two_last_siblings_in_one_breath_ready_the_child_once(desk: Desk) -> None:
    """Whether the reports share a transaction or not."""
    pairs = [(await desk.publishing(), await desk.publishing()) for _ in range(2)]
    children = [(await desk.submit(after=(one[0], two[0])))[0] for one, two in pairs]
    await asyncio.gather(*(desk.end("a", attempt) for pair in pairs for _, attempt in pair))
    assert [await _readied(desk, child) for child in children] == [1, 1]
    assert [lease.job_id for lease in await desk.grant("a")] == children


@pytest.mark.parametrize("shape", ["diamond", "chain"])
async def test_whole_graphs_run_in_their_order(desk: Desk, shape: str) -> None:
    """Each job is leased when all before it have completed, and not before."""
    await desk.register("a")
    [top] = await desk.submit()
    if shape == "diamond":
        left, right = await desk.submit(2, after=(top,))
        [bottom] = await desk.submit(after=(left, right))
        waves = [[top], [left, right], [bottom]]
    else:
        [middle] = await desk.submit(after=(top,))
        [bottom] = await desk.submit(after=(middle,))
        waves = [[top], [middle], [bottom]]
    for wave in waves:
        leases = await desk.grant("a")
        assert [lease.job_id for lease in leases] == wave
        for lease in leases:
            assert await desk.stage("a", lease.attempt_id)
            await desk.end("a", lease.attempt_id)
    assert await _readied(desk, bottom) == 1


async def test_a_child_keeps_its_own_hour(desk: Desk) -> None:
    """Ready, it still waits for the time that it was appointed to."""
    parent, attempt = await desk.publishing()
    [child] = await desk.submit(after=(parent,), not_before_us=desk.now_us + 60_000_000)
    await desk.end("a", attempt)
    assert (await desk.task(child)).state == TaskState.SCHEDULED
    desk.wait(60)
    await turn(desk)
    assert [lease.job_id for lease in await desk.grant("a")] == [child]


# Parents that fail


@pytest.mark.parametrize("how", [JobState.DEAD, JobState.CANCELLED])
async def test_a_failed_parent_takes_all_behind_it_along(desk: Desk, how: JobState) -> None:
    """Children, their children, and those that have another parent too, each told which job it was."""
    parent, attempt = await desk.publishing()
    [other] = await desk.submit(cores=64)
    [child] = await desk.submit(after=(parent,))
    [grandchild] = await desk.submit(after=(child,))
    [mixed] = await desk.submit(after=(other, grandchild))
    await _end(desk, parent, attempt, how)
    for job_id in (child, grandchild, mixed):
        assert await _reason(desk, job_id) == (JobState.DEAD, Reason.DEPENDENCY_FAILED)
    assert (await desk.events(child))[-1].message == f"job {parent}, which it waits for, is {how}"
    assert (await desk.events(mixed))[-1].message == f"job {grandchild}, which it waits for, is DEAD"
    assert (await desk.job(other)).state == JobState.PENDING


@pytest.mark.parametrize("how", [JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED])
@pytest.mark.parametrize("before", [False, True], ids=["ends later", "had ended"])
async def test_any_end_will_do_where_it_was_said(desk: Desk, how: JobState, before: bool) -> None:
    """The job is in line as soon as its parent has ended, however, even before its submission."""
    parent, attempt = await desk.publishing()
    if before:
        await _end(desk, parent, attempt, how)
    [child] = await desk.submit(after=(parent,), after_any_end=True)
    if not before:
        assert await state(desk, child) == BLOCKED
        await _end(desk, parent, attempt, how)
    assert await state(desk, child) == PENDING
    assert await _readied(desk, child) == 1


async def test_of_several_parents_all_must_have_ended_somehow(desk: Desk) -> None:
    """One dead, one running: it waits for the second."""
    died = await dead(desk)
    parent, attempt = await desk.publishing()
    [child] = await desk.submit(after=(died, parent), after_any_end=True)
    assert (await desk.job(child)).waits_for == 1
    await desk.end("a", attempt)
    assert await state(desk, child) == PENDING


@pytest.mark.parametrize("how", [JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED])
async def test_a_parent_that_had_ended_before(desk: Desk, how: JobState) -> None:
    """The child is in line at once, or dead at once, with its own children."""
    parent, attempt = await desk.publishing()
    await _end(desk, parent, attempt, how)
    [child] = await desk.submit(after=(parent,))
    [grandchild] = await desk.submit(after=(child,))
    if how is JobState.COMPLETED:
        assert (await state(desk, child), await state(desk, grandchild)) == (PENDING, BLOCKED)
    else:
        for job_id in (child, grandchild):
            assert await _reason(desk, job_id) == (JobState.DEAD, Reason.DEPENDENCY_FAILED)


async def test_a_cancelled_child_leaves_its_parent_alone(desk: Desk) -> None:
    """And is not readied when that completes."""
    parent, attempt = await desk.publishing()
    [child] = await desk.submit(after=(parent,))
    await cancel(desk, child)
    await desk.end("a", attempt)
    assert (await desk.job(parent)).state == JobState.COMPLETED
    assert (await desk.job(child)).state == JobState.CANCELLED


async def test_a_parent_out_of_time_takes_its_children_along(desk: Desk) -> None:
    """Whatever ends a job is told to those that wait for it."""
    [parent] = await desk.submit(deadline_us=desk.now_us + 1_000_000)
    [child] = await desk.submit(after=(parent,))
    desk.wait(1)
    await turn(desk)
    assert await _reason(desk, child) == (JobState.DEAD, Reason.DEPENDENCY_FAILED)


# Retry


@pytest.mark.parametrize("parent_first", [True, False])
async def test_parent_and_child_are_brought_back_together(desk: Desk, parent_first: bool) -> None:
    """In whatever order they are named; the child waits again for the new end of its parent."""
    parent, attempt = await desk.publishing()
    [child] = await desk.submit(after=(parent,))
    [grandchild] = await desk.submit(after=(child,))
    await desk.end("a", attempt, reason=Reason.OUTPUT_EXISTS)
    ids = (parent, child, grandchild) if parent_first else (grandchild, child, parent)
    assert (await retry(desk, *ids)).done == list(ids)
    assert [await state(desk, job_id) for job_id in (parent, child, grandchild)] == [PENDING, BLOCKED, BLOCKED]
    attempt = await again(desk)
    assert await desk.stage("a", attempt)
    await desk.end("a", attempt)
    assert [await state(desk, job_id) for job_id in (child, grandchild)] == [PENDING, BLOCKED]
    assert await _readied(desk, child) == 1


async def test_a_parent_of_several_tasks_and_its_child_are_brought_back_together(desk: Desk) -> None:
    """Bringing back the parent's tasks one by one must not look to the child like another end."""
    parent, attempt = await desk.running()
    [child] = await desk.submit(after=(parent,))
    parts = [pb.NewTask(name=name, kind=pb.TASK_KIND_PART) for name in ("one", "two", "three")]
    await desk.end("a", attempt, pb.OUTCOME_EXPANDED, tasks=parts)
    [lease] = await desk.grant("a", cores=1)
    await desk.end("a", lease.attempt_id, reason=Reason.INPUT_CORRUPT)
    await retry(desk, parent, child)
    assert await state(desk, child) == BLOCKED
    for lease in await desk.grant("a"):
        await desk.end("a", lease.attempt_id)
    assert ((await desk.job(parent)).state, await state(desk, child)) == (JobState.COMPLETED, PENDING)


async def test_a_child_that_is_brought_back_after_its_parent_completed_goes_on(desk: Desk) -> None:
    """There is nothing left to wait for."""
    parent, attempt = await desk.publishing()
    [child] = await desk.submit(after=(parent,))
    await desk.end("a", attempt, reason=Reason.OUTPUT_EXISTS)
    await retry(desk, parent)
    assert await _reason(desk, child) == (JobState.DEAD, Reason.DEPENDENCY_FAILED)
    attempt = await again(desk)
    assert await desk.stage("a", attempt)
    await desk.end("a", attempt)
    await retry(desk, child)
    assert await state(desk, child) == PENDING


@pytest.mark.parametrize("how", [JobState.DEAD, JobState.CANCELLED])
async def test_a_child_is_not_brought_back_to_wait_for_ever(desk: Desk, how: JobState) -> None:
    """Without its parent it is refused, unless it minds no end."""
    parent, attempt = await desk.publishing()
    [child] = await desk.submit(after=(parent,))
    [careless] = await desk.submit(after=(parent,), after_any_end=True)
    await _end(desk, parent, attempt, how)
    attempt = await again(desk)
    await desk.end("a", attempt, reason=Reason.INPUT_CORRUPT)
    outcome = await retry(desk, child, careless)
    assert (outcome.done, await state(desk, careless)) == ([careless], PENDING)
    assert [refusal[:2] for refusal in outcome.refused] == [(child, Reason.DEPENDENCY_FAILED)]
    assert (await desk.job(child)).state == JobState.DEAD


async def test_a_parent_that_is_brought_back_is_waited_for_again(desk: Desk) -> None:
    """By those that still wait; who minds no end and went on already does not turn back."""
    died = await dead(desk)
    parent, attempt = await desk.publishing()
    [waits] = await desk.submit(after=(died, parent), after_any_end=True)
    [gone] = await desk.submit(after=(died,), after_any_end=True)
    await retry(desk, died)
    assert ((await desk.job(waits)).waits_for, await state(desk, gone)) == (2, PENDING)
    await desk.end("a", attempt)
    assert await state(desk, waits) == BLOCKED
    await cancel(desk, died)
    assert (await state(desk, waits), await state(desk, gone)) == (PENDING, PENDING)


# Several controllers


def _completed(desk: Desk, attempt: AttemptId) -> Report:
    report = pb.EndReport(attempt_id=attempt, outcome=pb.OUTCOME_COMPLETED)
    return Report(desk.speaker("a"), (End(report, jitter=1.0),))


async def test_two_last_siblings_at_two_controllers_ready_the_child_once(postgres: Postgres) -> None:
    """The second waits for the first one's commit, sees it, and readies; neither readies alone."""
    async with two_desks(postgres) as (one, other):
        (first, its), (second, others) = await one.publishing(), await one.publishing()
        [child] = await one.submit(after=(first, second))
        with unfinished(other) as tx:
            _completed(other, others).apply(tx)
            ending = asyncio.create_task(one.end("a", its))
            await until_blocked(one)
        await ending
        assert (await state(one, child), await _readied(one, child)) == (PENDING, 1)


async def test_a_parent_that_ends_while_its_child_is_submitted_readies_it(postgres: Postgres) -> None:
    """Whichever of the two commits first, the other one sees it."""
    async with two_desks(postgres) as (one, other):
        (first, its), (second, others) = await one.publishing(), await one.publishing()
        with unfinished(other) as tx:
            [child] = Submit(DEFAULT_TENANT, (new_job(after=(first,)),), "", "d").apply(tx)
            ending = asyncio.create_task(one.end("a", its))
            await until_blocked(one)
        await ending
        with unfinished(other) as tx:
            _completed(other, others).apply(tx)
            submitting = asyncio.create_task(one.submit(after=(second,)))
            await until_blocked(one)
        [later] = await submitting
        for job_id in (child, later):
            assert (await state(one, job_id), await _readied(one, job_id)) == (PENDING, 1)


async def test_many_siblings_at_two_controllers(postgres: Postgres) -> None:
    """Without anybody ordering them: every child is ready once, however its three parents fell."""
    async with two_desks(postgres) as desks:
        one, _ = desks
        await one.register("a")
        families = []
        for _ in range(8):
            parents = await one.submit(3)
            leases = await one.grant("a", cores=100)
            for lease in leases:
                assert await one.stage("a", lease.attempt_id)
            [child] = await one.submit(after=tuple(parents))
            families.append((child, [lease.attempt_id for lease in leases]))
        await asyncio.gather(
            *(desks[n % 2].end("a", attempt) for _, held in families for n, attempt in enumerate(held))
        )
        assert [await _readied(one, child) for child, _ in families] == [1] * 8
