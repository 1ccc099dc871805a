"""What attempts learn by looking, REFILE and EXPAND, and what they decline, on both engines."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, select

from controller.core.states import JobState, TaskState
from controller.store import queries
from controller.store.tables import AttemptId, JobId, lanes
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.desks import again, attempts_of, cancel, hold, passed, state, turn
from tests.fakes.running import Desk, desk_on_engine, needs, offer


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _class(desk: Desk, job_id: JobId, name: str = "main") -> str:
    """The class of a task's lane."""
    lane = (await desk.tasks(job_id))[name].lane

    def query(connection: Connection) -> str:
        return str(connection.execute(select(lanes.c.class_key).where(lanes.c.key == lane)).scalar_one())

    return await desk.store.read(query)


def _part(name: str, *after: str, kind: "pb.TaskKind.ValueType" = pb.TASK_KIND_PART, able: str = "") -> pb.NewTask:
    asked = json.dumps(needs(able).to_json()) if able else ""
    return pb.NewTask(name=name, kind=kind, after=after, requirements_json=asked)


async def _expand(desk: Desk, *parts: pb.NewTask, **facts: Any) -> tuple[JobId, AttemptId]:
    job_id, attempt = await desk.running(**facts)
    await desk.end("a", attempt, pb.OUTCOME_EXPANDED, tasks=parts)
    return job_id, attempt


async def _states(desk: Desk, job_id: JobId) -> dict[str, str]:
    return {name: task.state for name, task in (await desk.tasks(job_id)).items()}


async def _wave(desk: Desk, agent: str = "a") -> list[str]:
    """Lease all that can be leased, and complete it; the names of those tasks."""
    names = []
    for lease in await desk.grant(agent, cores=8):
        tasks = await desk.tasks(lease.job_id)
        [task] = [task for task in tasks.values() if task.id == lease.task_id]
        names.append(task.name)
        if task.kind == "transform":
            assert await desk.stage(agent, lease.attempt_id)
        await desk.end(agent, lease.attempt_id)
    return names


# Refile


@pytest.mark.parametrize("begun", [False, True], ids=["leased", "running"])
async def test_a_refiled_task_goes_to_who_has_what_it_needs(desk: Desk, begun: bool) -> None:
    """Its requirements and its lane change, it costs no attempt and waits for no back-off."""
    job_id, attempt = await desk.leased()
    if begun:
        await desk.start("a", attempt)
    before = await _class(desk, job_id)
    await desk.end("a", attempt, pb.OUTCOME_REFILED, requirements=needs("encoder:x", cores=2))
    task = await desk.task(job_id)
    assert await state(desk, job_id) == (TaskState.PENDING, JobState.PENDING)
    assert (task.attempts_used, task.attempts_made) == (0, 1)
    assert await _class(desk, job_id) == needs("encoder:x", cores=2).class_key() != before
    assert (await desk.history(job_id))[-2:] == ["started", "refiled"]
    await desk.register("b")
    assert await desk.grant("a") == []
    [lease] = await desk.offering(offer("a"), offer("b", able=("encoder:x",)))
    assert (lease.agent_id, lease.cores) == ("b", 2)
    assert await attempts_of(desk, job_id) == [(1, "refiled"), (2, "leased")]


async def test_a_refiled_task_keeps_its_place_in_line(desk: Desk) -> None:
    """It was there before those that came while it was looked at."""
    job_id, attempt = await desk.running()
    [later] = await desk.submit(cores=2)
    await desk.end("a", attempt, pb.OUTCOME_REFILED, requirements=needs(cores=2))
    assert [lease.job_id for lease in await desk.grant("a")] == [job_id, later]


async def test_a_stale_refile_changes_nothing(desk: Desk) -> None:
    """Neither the report of an attempt that was replaced, nor a repeat."""
    job_id, attempt = await desk.running()
    for cores in (2, 3):
        await desk.end("a", attempt, pb.OUTCOME_REFILED, requirements=needs(cores=cores))
    assert await _class(desk, job_id) == needs(cores=2).class_key()
    [lease] = await desk.grant("a")
    await desk.end("a", attempt, pb.OUTCOME_REFILED, requirements=needs(cores=3))
    assert (await desk.task(job_id)).attempt_id == lease.attempt_id
    assert await _class(desk, job_id) == needs(cores=2).class_key()


async def test_a_refile_without_sense_is_a_defect_of_the_agent(desk: Desk) -> None:
    """Requirements that can't be read: the attempt failed, and is paid for."""
    job_id, attempt = await desk.running()
    await desk.end("a", attempt, pb.OUTCOME_REFILED)
    assert ((await desk.job(job_id)).state, (await desk.job(job_id)).reason) == (JobState.FAILED, Reason.INTERNAL)
    assert (await desk.task(job_id)).attempts_used == 1


@pytest.mark.parametrize("outcome", [pb.OUTCOME_REFILED, pb.OUTCOME_EXPANDED], ids=["refiled", "expanded"])
async def test_what_was_told_to_stop_learns_nothing(desk: Desk, outcome: "pb.Outcome.ValueType") -> None:
    """The cancelled job ends, and no tasks are added to it."""
    job_id, attempt = await desk.running()
    await cancel(desk, job_id)
    await desk.end("a", attempt, outcome, requirements=needs(cores=2), tasks=[_part("one")])
    assert (await desk.job(job_id)).state == JobState.CANCELLED
    assert list(await desk.tasks(job_id)) == ["main"]


async def test_a_held_job_may_be_refiled(desk: Desk) -> None:
    """It waits for its release under its new requirements."""
    job_id, attempt = await desk.running()
    await hold(desk, job_id)
    await desk.end("a", attempt, pb.OUTCOME_REFILED, requirements=needs(cores=2))
    assert await state(desk, job_id) == (TaskState.HELD, JobState.HELD)


# Expand


async def test_a_job_of_parts_runs_in_order_and_completes_when_all_did(desk: Desk) -> None:
    """Parts side by side, then what waits for them; the artifacts are those of the task that publishes."""
    job_id, _ = await _expand(
        desk,
        _part("join", "left", "right", kind=pb.TASK_KIND_TRANSFORM),
        _part("left"),
        _part("right", "probe"),
        _part("probe", "main"),
    )
    assert await _states(desk, job_id) == {
        "main": "COMPLETED",
        "join": "BLOCKED",
        "left": "PENDING",
        "right": "BLOCKED",
        "probe": "PENDING",
    }
    assert (await desk.job(job_id)).state == JobState.PROCESSING
    assert [sorted(await _wave(desk)) for _ in range(2)] == [["left", "probe"], ["right"]]
    assert (await desk.job(job_id)).state == JobState.PROCESSING
    assert await desk.artifacts(job_id) == []
    assert await _wave(desk) == ["join"]
    assert (await desk.job(job_id)).state == JobState.COMPLETED
    assert len(await desk.artifacts(job_id)) == 1
    history = await desk.history(job_id)
    assert (history.count("expanded"), history.count("ready"), history.count("completed")) == (1, 4, 4)


async def test_an_expansion_is_applied_once(desk: Desk) -> None:
    """Its repeats add nothing, and the attempt is not counted against the job."""
    job_id, attempt = await _expand(desk, _part("one"))
    await desk.end("a", attempt, pb.OUTCOME_EXPANDED, tasks=[_part("two")])
    assert await _states(desk, job_id) == {"main": "COMPLETED", "one": "PENDING"}
    assert (await desk.tasks(job_id))["main"].attempts_used == 0
    assert await desk.history(job_id) == ["submitted", "leased", "started", "expanded", "ready"]


async def test_parts_need_what_is_said_of_them(desk: Desk) -> None:
    """Or else what the task needed that left them behind."""
    job_id, _ = await _expand(desk, _part("plain"), _part("special", able="encoder:x"), cores=2)
    assert await _class(desk, job_id, "plain") == needs(cores=2).class_key()
    assert await _class(desk, job_id, "special") == needs("encoder:x").class_key()
    assert await _wave(desk) == ["plain"]


async def test_a_part_may_expand_again(desk: Desk) -> None:
    """What it adds may wait for older tasks that are done or not."""
    job_id, _ = await _expand(desk, _part("one"), _part("two"))
    [one, two] = await desk.grant("a")
    await desk.end("a", one.attempt_id, pb.OUTCOME_EXPANDED, tasks=[_part("more", "two", "main")])
    assert (await _states(desk, job_id))["more"] == "BLOCKED"
    await desk.end("a", two.attempt_id)
    assert await _wave(desk) == ["more"]
    assert (await desk.job(job_id)).state == JobState.COMPLETED


async def test_a_failed_part_ends_its_siblings_and_the_job(desk: Desk) -> None:
    """What waits is cancelled at once, what runs is told to stop; the job is DEAD when that has stopped."""
    job_id, _ = await _expand(desk, _part("bad"), _part("runs"), _part("waits"), _part("last", "bad", "runs"))
    leases = {lease.task_id: lease.attempt_id for lease in await desk.grant("a", cores=2)}
    tasks = await desk.tasks(job_id)
    await desk.end("a", leases[tasks["bad"].id], reason=Reason.INPUT_CORRUPT)
    assert await _states(desk, job_id) == {
        "main": "COMPLETED",
        "bad": "DEAD",
        "runs": "LEASED",
        "waits": "CANCELLED",
        "last": "CANCELLED",
    }
    assert (await desk.job(job_id)).state == JobState.PROCESSING
    [stop] = await desk.store.read(queries.stops_for, "a")
    assert (stop.id, stop.stop_reason) == (leases[tasks["runs"].id], Reason.DEPENDENCY_FAILED)
    await desk.end("a", stop.id, pb.OUTCOME_STOPPED)
    assert ((await desk.job(job_id)).state, (await desk.job(job_id)).reason) == (JobState.DEAD, Reason.INPUT_CORRUPT)


async def test_a_part_that_may_be_tried_again_stops_nobody(desk: Desk) -> None:
    """Its attempts are its own; the job goes on with the others."""
    job_id, _ = await _expand(desk, _part("one"), _part("two"), max_attempts=2)
    [one, two] = await desk.grant("a")
    await desk.end("a", one.attempt_id, reason=Reason.FFMPEG_FAILED)
    assert await _states(desk, job_id) == {"main": "COMPLETED", "one": "FAILED", "two": "LEASED"}
    await desk.end("a", two.attempt_id)
    assert (await desk.job(job_id)).state == JobState.FAILED
    await desk.end("a", await again(desk))
    assert ((await desk.job(job_id)).state, (await desk.job(job_id)).failure) == (JobState.COMPLETED, None)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([], "into nothing"),
        ([_part("one", "two"), _part("two", "one"), _part("free")], "in a circle: one, two"),
        ([_part("one", "one")], "in a circle: one"),
        ([_part("one", "nobody")], "task one waits for nobody"),
        ([_part("one"), _part("one")], "new and different"),
        ([_part("main")], "new and different"),
        ([_part("")], "new and different"),
        ([_part("one", kind=pb.TASK_KIND_UNSPECIFIED)], "of no kind"),
        ([pb.NewTask(name="one", kind=pb.TASK_KIND_PART, requirements_json="{}")], "can't be read"),
    ],
)
async def test_an_expansion_without_sense_is_a_defect_of_the_agent(
    desk: Desk, parts: Sequence[pb.NewTask], told: str
) -> None:
    """Nothing of it is applied: the attempt failed, and the task is tried again."""
    job_id, _ = await _expand(desk, *parts)
    assert list(await desk.tasks(job_id)) == ["main"]
    assert ((await desk.job(job_id)).state, (await desk.job(job_id)).reason) == (JobState.FAILED, Reason.INTERNAL)
    assert told in (await desk.events(job_id))[-1].message


@pytest.mark.parametrize("ending", ["cancelled", "timed out", "one part died"])
async def test_jobs_of_many_tasks_end_as_well(desk: Desk, ending: str) -> None:
    """However many wait when it is over for them all."""
    job_id, _ = await _expand(desk, *(_part(f"p{n}") for n in range(700)), deadline_us=desk.now_us + 3_600_000_000)
    match ending:
        case "cancelled":
            await cancel(desk, job_id)
        case "timed out":
            desk.wait(3600)
            await turn(desk)
        case _:
            [lease] = await desk.grant("a", cores=1)
            await desk.end("a", lease.attempt_id, reason=Reason.INPUT_CORRUPT)
    job = await desk.job(job_id)
    assert job.state == (JobState.CANCELLED if ending == "cancelled" else JobState.DEAD)
    states = list((await _states(desk, job_id)).values())
    assert states.count("CANCELLED") == (700 if ending == "cancelled" else 699)


# Decline


async def test_a_declined_lease_leaves_no_attempt(desk: Desk) -> None:
    """The event tells of it; the task is where it was, and its queue pays nothing."""
    job_id, attempt = await desk.leased()
    assert await passed(desk) > 0
    desk.wait(5)
    await desk.decline("a", attempt)
    job, task = await desk.job(job_id), await desk.task(job_id)
    assert (job.state, job.attempt_count, task.attempts_made, task.attempts_used) == (JobState.PENDING, 0, 0, 0)
    assert await attempts_of(desk, job_id) == []
    last = (await desk.events(job_id))[-1]
    assert (last.type, last.attempt_id, last.agent_id, last.message) == ("declined", attempt, "a", "not any more")
    assert await passed(desk) == 0
    [lease] = await desk.grant("a")
    assert (lease.job_id, lease.attempt_id != attempt) == (job_id, True)
    assert (await desk.attempt(lease.attempt_id)).number == 1


async def test_what_has_begun_is_not_declined(desk: Desk) -> None:
    """Nor by an agent that does not hold it."""
    job_id, attempt = await desk.running()
    await desk.decline("a", attempt)
    assert (await desk.task(job_id)).state == TaskState.RUNNING
    other, attempt = await desk.leased()
    await desk.register("b")
    await desk.decline("b", attempt)
    assert (await desk.task(other)).state == TaskState.LEASED


async def test_declining_what_was_cancelled_ends_it(desk: Desk) -> None:
    """It does not go back in line."""
    job_id, attempt = await desk.leased()
    await cancel(desk, job_id)
    await desk.decline("a", attempt)
    assert (await desk.job(job_id)).state == JobState.CANCELLED
