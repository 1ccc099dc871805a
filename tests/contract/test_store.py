"""What the store promises, on a real database: every command, at every state it can meet.

The fixture decides which database; after each test the invariants are checked on what is left in it.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from controller.core.retries import WORK
from controller.core.states import JobState, TaskState
from controller.store import queries
from controller.store.attempts import EpochSuperseded
from controller.store.cancelling import STOP_GRACE_US, CancelJob, EnforceStops, JobEnded
from controller.store.catalog_documents import AddDocument, DocumentConflict
from controller.store.fleet import AgentIdConflict, ExpireAgents, Seen, Sign
from controller.store.interventions import FallDue
from controller.store.submission import RequestIdReused
from controller.store.tables import DEFAULT_TENANT, AgentId, JobId, jobs
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.running import Desk, desk_on_engine


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


def _cancel(job_id: JobId) -> CancelJob:
    return CancelJob(DEFAULT_TENANT, job_id, "enough")


def _expire(silent_s: float = 60.0) -> ExpireAgents:
    return ExpireAgents(int(silent_s * 1e6), jitter=1.0)


# Submission


async def test_jobs_are_stored_in_order_with_their_first_event(desk: Desk) -> None:
    """Each has one waiting task and the event of its submission."""
    ids = await desk.submit(3)
    assert len(set(ids)) == 3
    for job_id in ids:
        assert (await desk.job(job_id)).state == JobState.PENDING
        assert (await desk.task(job_id)).state == TaskState.PENDING
        assert await desk.history(job_id) == ["submitted"]
    assert [(await desk.job(job_id)).seq for job_id in ids] == sorted([(await desk.job(i)).seq for i in ids])


async def test_a_request_id_stores_once(desk: Desk) -> None:
    """The same request again gives the same jobs; concurrently, too."""
    first = await desk.submit(2, request_id="r")
    again, once_more = await asyncio.gather(desk.submit(2, request_id="r"), desk.submit(2, request_id="r"))
    assert first == again == once_more
    assert await desk.submit(request_id="other") != first
    assert await desk.submit() != await desk.submit()


async def test_a_request_id_for_other_jobs_is_refused(desk: Desk) -> None:
    """Nothing of the second request is stored."""
    await desk.submit(request_id="r", digest="one")
    with pytest.raises(RequestIdReused):
        await desk.submit(2, request_id="r", digest="two")
    assert len(await desk.store.read(lambda c: c.execute(select(jobs.c.id)).all())) == 1


async def test_documents_are_added_once(desk: Desk) -> None:
    """The same document again does nothing; a changed one under its name is refused."""
    document = AddDocument(DEFAULT_TENANT, "preset", "p_v1", "digest", "text")
    await desk.do(document)
    await desk.do(document)
    with pytest.raises(DocumentConflict):
        await desk.do(AddDocument(DEFAULT_TENANT, "preset", "p_v1", "other", "text"))
    await desk.do(AddDocument(DEFAULT_TENANT, "profile", "p_v1", "other", "text"))
    stored = await desk.store.read(queries.stored_documents, DEFAULT_TENANT)
    assert sorted((row.kind, row.digest) for row in stored) == [("preset", "digest"), ("profile", "other")]


# Granting


async def test_grants_follow_priority_then_age(desk: Desk) -> None:
    """The highest priority first, within it in order of submission; no more than there is room for."""
    await desk.register("a")
    [low] = await desk.submit(priority=1)
    [first, second] = await desk.submit(2, priority=5)
    [high] = await desk.submit(priority=9)
    leases = await desk.grant("a", cores=3)
    assert [lease.job_id for lease in leases] == [high, first, second]
    assert (await desk.task(low)).state == TaskState.PENDING
    assert await desk.grant("a", cores=3) == []


async def test_a_lease_says_what_was_granted(desk: Desk) -> None:
    """The attempt, its number and its resources are durable with it; queue wait is measured."""
    await desk.register("a")
    [job_id] = await desk.submit(cores=2)
    desk.wait(7)
    [lease] = await desk.grant("a")
    attempt = await desk.attempt(lease.attempt_id)
    assert (lease.agent_id, lease.job_id, lease.cores, lease.redo) == ("a", job_id, 2, None)
    assert lease.attempt_id.startswith(f"{job_id}-1.1-")
    assert (attempt.holder, attempt.agent_id, attempt.number, attempt.state) == ("a", "a", 1, "leased")
    assert attempt.queue_wait_us == 7_000_000
    assert (await desk.job(job_id)).attempt_count == 1


async def test_concurrent_grants_never_overcommit(desk: Desk) -> None:
    """Two grants that saw the same free cores spend them once, in one batch or in several."""
    for agent in ("a", "b"):
        await desk.register(agent)
    await desk.submit(20)
    rounds = await asyncio.gather(*(desk.grant("a", "b", cores=3) for _ in range(4)))
    leases = [lease for leases in rounds for lease in leases]
    held = await desk.store.read(queries.holdings)
    assert len({lease.task_id for lease in leases}) == len(leases) == 6
    assert {agent: len(held[agent]) for agent in held} == {"a": 3, "b": 3}


async def test_what_fits_nowhere_blocks_nobody_however_much_of_it_there_is(desk: Desk) -> None:
    """Behind more hopeless tasks than are looked at in one go, the one that fits is found."""
    await desk.register("a")
    await desk.submit(600, cores=64)
    [fits] = await desk.submit()
    assert [lease.job_id for lease in await desk.grant("a")] == [fits]


# The life of an attempt


async def test_the_whole_way(desk: Desk) -> None:
    """Leased, started, staged, published: each step is an event, the artifacts come with the last one."""
    job_id, attempt = await desk.publishing()
    assert (await desk.job(job_id)).state == JobState.PROCESSING
    assert await desk.artifacts(job_id) == []
    desk.wait(3)
    await desk.end("a", attempt)
    assert await desk.history(job_id) == ["submitted", "leased", "started", "staged", "completed"]
    [artifact] = await desk.artifacts(job_id)
    assert (artifact.uri, artifact.size_bytes, artifact.attempt_id) == ("file:///media/o.m4a", 1000, attempt)
    assert (await desk.job(job_id)).ended_us == desk.now_us
    assert (await desk.attempt(attempt)).state == "completed"


async def test_several_artifacts_keep_their_order(desk: Desk) -> None:
    """They come as they were staged."""
    job_id, attempt = await desk.running()
    uris = ["file:///media/b", "file:///media/a", "file:///media/c"]
    assert await desk.stage("a", attempt, *uris)
    await desk.end("a", attempt)
    assert [row.uri for row in await desk.artifacts(job_id)] == uris


async def test_repeats_do_nothing(desk: Desk) -> None:
    """Start, stage and end may come as often as they like, with the same answers."""
    job_id, attempt = await desk.leased()
    for _ in range(2):
        await desk.start("a", attempt)
    assert [await desk.stage("a", attempt) for _ in range(2)] == [True, True]
    for _ in range(2):
        await desk.end("a", attempt)
    await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
    await desk.start("a", attempt)
    assert not await desk.stage("a", attempt)
    assert await desk.history(job_id) == ["submitted", "leased", "started", "staged", "completed"]
    assert len(await desk.artifacts(job_id)) == 1


async def test_success_without_staging_is_a_defect_of_the_agent(desk: Desk) -> None:
    """A job is never COMPLETED without redo records: it is tried again."""
    job_id, attempt = await desk.running()
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.FAILED
    assert (await desk.events(job_id))[-1].reason == Reason.INTERNAL


async def test_a_plan_completes_without_staging(desk: Desk) -> None:
    """It publishes nothing; what was compiled is kept, and staging is refused."""
    job_id, attempt = await desk.running(kind="plan")
    assert not await desk.stage("a", attempt)
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED
    assert await desk.artifacts(job_id) == []


@pytest.mark.parametrize("stranger", ["another agent", "unknown attempt", "superseded session"])
async def test_only_the_current_attempts_holder_moves_a_task(desk: Desk, stranger: str) -> None:
    """Reports of others do nothing; those of an older session are refused."""
    job_id, attempt = await desk.running()
    await desk.register("b")
    agent = "b" if stranger == "another agent" else "a"
    named = "nothing-1.1-00" if stranger == "unknown attempt" else attempt
    if stranger == "superseded session":
        old = desk.epochs["a"]
        await desk.register("a", attempt)
        desk.epochs["a"] = old
        for report in (desk.start(agent, named), desk.stage(agent, named), desk.end(agent, named)):
            with pytest.raises(EpochSuperseded):
                await report
    else:
        await desk.start(agent, named)
        assert not await desk.stage(agent, named)
        await desk.end(agent, named, reason=Reason.INPUT_CORRUPT)
    assert (await desk.task(job_id)).state == TaskState.RUNNING
    assert await desk.history(job_id) == ["submitted", "leased", "started"]


async def test_reports_of_an_attempt_that_was_replaced_do_nothing(desk: Desk) -> None:
    """After a retry only the new attempt counts, though the old one is the same agent's."""
    job_id, old = await desk.running()
    await desk.end("a", old, reason=Reason.FFMPEG_FAILED)
    desk.wait(WORK.first_s)
    await desk.do(FallDue())
    [lease] = await desk.grant("a")
    await desk.start("a", lease.attempt_id)
    await desk.start("a", old)
    assert not await desk.stage("a", old)
    await desk.end("a", old)
    assert (await desk.task(job_id)).attempt_id == lease.attempt_id
    assert await desk.stage("a", lease.attempt_id)
    await desk.end("a", lease.attempt_id)
    assert (await desk.job(job_id)).failure is None


@pytest.mark.parametrize("start", [False, True], ids=["leased", "running"])
@pytest.mark.parametrize(
    ("reason", "state", "attempt_state", "kind"),
    [
        (Reason.FFMPEG_FAILED, JobState.FAILED, "failed", "failed"),
        (Reason.INPUT_CORRUPT, JobState.DEAD, "failed", "dead"),
        (Reason.AGENT_STOPPING, JobState.PENDING, "handed_back", "given_back"),
        (Reason.SCRATCH_FULL, JobState.FAILED, "failed", "failed"),
    ],
)
async def test_failures(
    desk: Desk, start: bool, reason: Reason, state: JobState, attempt_state: str, kind: str
) -> None:
    """Permanent ones are the end, handed back ones wait again at once, others after their back-off."""
    job_id, attempt = await desk.leased()
    if start:
        await desk.start("a", attempt)
    await desk.end("a", attempt, reason=reason)
    last = (await desk.events(job_id))[-1]
    assert (await desk.job(job_id)).state == state
    assert (await desk.attempt(attempt)).state == attempt_state
    assert (last.type, last.reason, last.agent_id, last.attempt_id) == (kind, reason, "a", attempt)
    assert (await desk.task(job_id)).attempts_used == (reason in (Reason.FFMPEG_FAILED, Reason.INPUT_CORRUPT))


async def test_an_unknown_reason_is_an_internal_one(desk: Desk) -> None:
    """A newer agent may have words this controller lacks; the task is tried again."""
    job_id, attempt = await desk.running()
    await desk.end("a", attempt, pb.OUTCOME_FAILED)
    assert (await desk.events(job_id))[-1].reason == Reason.INTERNAL


async def test_an_agent_that_stops_by_itself_hands_back(desk: Desk) -> None:
    """STOPPED without having been told to is the agent's own affair, not the caller's."""
    job_id, attempt = await desk.running()
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    assert (await desk.task(job_id)).state == TaskState.PENDING
    assert (await desk.task(job_id)).attempts_used == 0


async def test_retries_end_when_attempts_are_used_up(desk: Desk) -> None:
    """Back-off doubles, a task is in line only when it is over, and the last failure is the end."""
    await desk.register("a")
    [job_id] = await desk.submit(max_attempts=3)
    for backoff_s in (WORK.first_s, 2 * WORK.first_s):
        [lease] = await desk.grant("a")
        await desk.end("a", lease.attempt_id, reason=Reason.FFMPEG_FAILED)
        desk.wait(backoff_s - 0.001)
        await desk.do(FallDue())
        assert (await desk.task(job_id)).state == TaskState.FAILED
        desk.wait(0.001)
        await desk.do(FallDue())
        assert (await desk.task(job_id)).state == TaskState.PENDING
    [lease] = await desk.grant("a")
    await desk.end("a", lease.attempt_id, reason=Reason.FFMPEG_FAILED)
    assert (await desk.job(job_id)).state == JobState.DEAD
    assert "all 3 attempts are used up" in (await desk.events(job_id))[-1].message


async def test_failing_to_publish_starts_over(desk: Desk) -> None:
    """The redo records are gone with the attempt; the next one stages its own."""
    job_id, attempt = await desk.publishing()
    await desk.end("a", attempt, reason=Reason.PUBLISH_FAILED)
    task = await desk.task(job_id)
    assert (task.state, task.redo, task.attempt_id) == (TaskState.FAILED, None, "")


# Cancelling


@pytest.mark.parametrize("state", ["pending", "failed"])
async def test_what_waits_is_cancelled_at_once(desk: Desk, state: str) -> None:
    """There is nothing to stop; cancelling again is harmless."""
    if state == "pending":
        [job_id] = await desk.submit()
    else:
        job_id, attempt = await desk.running()
        await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
    for _ in range(2):
        await desk.do(_cancel(job_id))
    assert (await desk.job(job_id)).state == JobState.CANCELLED
    assert (await desk.history(job_id))[-2:] == ["cancel_requested", "cancelled"]
    assert await desk.grant("a") == []


@pytest.mark.parametrize("start", [False, True], ids=["leased", "running"])
@pytest.mark.parametrize("ending", ["stopped", "failed", "handed back", "never"])
async def test_what_runs_is_cancelled_when_it_has_stopped(desk: Desk, start: bool, ending: str) -> None:
    """However the attempt ends, or if its agent never confirms, the job is CANCELLED and stages nothing."""
    job_id, attempt = await desk.leased()
    if start:
        await desk.start("a", attempt)
    await desk.do(_cancel(job_id))
    assert [(row.id, row.stop_reason) for row in await desk.store.read(queries.stops_for, "a")] == [
        (attempt, Reason.CANCELLED)
    ]
    assert not await desk.stage("a", attempt)
    assert (await desk.job(job_id)).state == JobState.PROCESSING
    match ending:
        case "stopped":
            await desk.end("a", attempt, pb.OUTCOME_STOPPED)
        case "failed":
            await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)
        case "handed back":
            await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
        case _:
            desk.wait(STOP_GRACE_US / 1e6 - 0.001)
            await desk.do(EnforceStops())
            assert (await desk.job(job_id)).state == JobState.PROCESSING
            desk.wait(0.001)
            await desk.do(EnforceStops())
    assert (await desk.job(job_id)).state == JobState.CANCELLED
    assert (await desk.attempt(attempt)).state == "cancelled"
    assert await desk.store.read(queries.stops_for, "a") == []


async def test_what_publishes_completes(desk: Desk) -> None:
    """The commit point is passed: the request is kept in the history, the agent isn't told to stop."""
    job_id, attempt = await desk.publishing()
    await desk.do(_cancel(job_id))
    assert await desk.store.read(queries.stops_for, "a") == []
    assert await desk.stage("a", attempt)
    desk.wait(STOP_GRACE_US / 1e6 + 1)
    await desk.do(EnforceStops())
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED
    assert "cancel_requested" in await desk.history(job_id)


@pytest.mark.parametrize("reason", [None, Reason.INPUT_CORRUPT], ids=["COMPLETED", "DEAD"])
async def test_an_ended_job_is_not_cancelled(desk: Desk, reason: Reason | None) -> None:
    """The caller is told which end it reached."""
    job_id, attempt = await desk.publishing()
    await desk.end("a", attempt, reason=reason)
    with pytest.raises(JobEnded) as caught:
        await desk.do(_cancel(job_id))
    assert caught.value.state == ("DEAD" if reason else "COMPLETED")


# Lost agents


async def test_a_lost_agents_attempts_are_given_back_once(desk: Desk) -> None:
    """Without using an attempt the first time; the second lost agent is paid for."""
    job_id, attempt = await desk.running("a")
    for expected, state in ((0, TaskState.PENDING), (1, TaskState.FAILED)):
        desk.wait(61)
        await desk.do(_expire())
        assert (await desk.attempt(attempt)).state == "lost"
        task = await desk.task(job_id)
        assert (task.state, task.attempts_used) == (state, expected)
        if state is TaskState.PENDING:
            await desk.register("b")
            [lease] = await desk.grant("b")
            attempt = lease.attempt_id
    assert (await desk.events(job_id))[-1].reason == Reason.AGENT_LOST


async def test_an_agent_that_was_heard_of_is_not_lost(desk: Desk) -> None:
    """A sign of life counts from when it was given; one of a superseded session does not."""
    job_id, _ = await desk.running("a")
    desk.wait(50)
    await desk.do(Seen((Sign(AgentId("a"), desk.epochs["a"], 3_000_000),), resolution_us=2_000_000))
    desk.wait(57)
    await desk.do(_expire())
    assert (await desk.task(job_id)).state == TaskState.RUNNING
    await desk.do(Seen((Sign(AgentId("a"), desk.epochs["a"] - 1, 0),), resolution_us=2_000_000))
    desk.wait(1)
    await desk.do(_expire())
    assert (await desk.task(job_id)).state == TaskState.PENDING


async def test_a_lost_agents_session_speaks_no_more(desk: Desk) -> None:
    """What it still says of the attempt it lost is refused; it must register anew."""
    _, attempt = await desk.running("a")
    desk.wait(61)
    await desk.do(_expire())
    with pytest.raises(EpochSuperseded):
        await desk.stage("a", attempt)
    again = await desk.register("a", attempt)
    assert [(stop.attempt_id, stop.leave_staged) for stop in again.stops] == [(attempt, False)]


async def test_a_lost_publication_is_finished_by_another_agent(desk: Desk) -> None:
    """The attempt stays the same, the new holder gets the redo records, and its end completes the job."""
    job_id, attempt = await desk.publishing("a")
    desk.wait(61)
    await desk.do(_expire())
    assert (await desk.attempt(attempt)).holder == ""
    assert (await desk.task(job_id)).state == TaskState.PUBLISHING
    await desk.register("b")
    assert await desk.grant("b", roots=("/elsewhere",)) == []
    [lease] = await desk.grant("b")
    assert (lease.attempt_id, lease.agent_id) == (attempt, "b")
    assert lease.redo is not None
    redo = pb.StageReport.FromString(lease.redo)
    assert [record.artifact.uri for record in redo.records] == ["file:///media/o.m4a"]
    assert await desk.grant("b") == []
    await desk.end("b", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED
    assert (await desk.history(job_id))[-2:] == ["publication_adopted", "completed"]


async def test_a_lost_publication_is_taken_up_by_its_returning_agent(desk: Desk) -> None:
    """Where nobody else took it, the agent that still holds it goes on; it is not told to stop."""
    job_id, attempt = await desk.publishing("a")
    desk.wait(61)
    await desk.do(_expire())
    again = await desk.register("a", attempt)
    assert (again.stops, again.leases) == ((), ())
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED


async def test_a_publication_taken_by_another_is_left_alone(desk: Desk) -> None:
    """The first agent is told to stop and to leave what it staged; its reports do nothing."""
    job_id, attempt = await desk.publishing("a")
    desk.wait(61)
    await desk.do(_expire())
    await desk.register("b")
    await desk.grant("b")
    [stop] = (await desk.register("a", attempt)).stops
    assert (stop.attempt_id, stop.reason, stop.leave_staged) == (attempt, Reason.PUBLISH_REFUSED, True)
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    assert (await desk.task(job_id)).state == TaskState.PUBLISHING


# Register: every line of its docstring


async def test_register_granted_and_held_goes_on(desk: Desk) -> None:
    """A new session changes nothing about what both sides know; only the epoch rises."""
    ways = [await way() for way in (desk.leased, desk.running, desk.publishing)]
    before = desk.epochs["a"]
    again = await desk.register("a", *(attempt for _, attempt in ways))
    assert (again.epoch, again.leases, again.stops) == (before + 1, (), ())
    states = [(await desk.task(job_id)).state for job_id, _ in ways]
    assert states == [TaskState.LEASED, TaskState.RUNNING, TaskState.PUBLISHING]


async def test_register_granted_never_begun_not_held_is_leased_again(desk: Desk) -> None:
    """The lease was lost on its way: it is the same attempt, and no event is written."""
    job_id, attempt = await desk.leased()
    again = await desk.register("a")
    assert [(lease.attempt_id, lease.redo) for lease in again.leases] == [(attempt, None)]
    assert await desk.history(job_id) == ["submitted", "leased"]


async def test_register_begun_and_not_held_is_lost(desk: Desk) -> None:
    """It died with the agent's former life, and waits again without having cost an attempt."""
    job_id, attempt = await desk.running()
    again = await desk.register("a")
    assert (again.leases, again.stops) == ((), ())
    assert (await desk.attempt(attempt)).state == "lost"
    task = await desk.task(job_id)
    assert (task.state, task.attempts_used, task.agents_lost) == (TaskState.PENDING, 0, 1)


async def test_register_publishing_and_not_held_is_to_be_finished(desk: Desk) -> None:
    """It comes back with its redo records: what was permitted must become visible."""
    job_id, attempt = await desk.publishing()
    [lease] = (await desk.register("a")).leases
    assert (lease.attempt_id, lease.redo is not None) == (attempt, True)
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED


async def test_register_held_and_not_granted_is_stopped(desk: Desk) -> None:
    """What the database calls ended, or does not know, may lose what it staged."""
    job_id, ended = await desk.running()
    await desk.do(_cancel(job_id))
    desk.wait(STOP_GRACE_US / 1e6)
    await desk.do(EnforceStops())
    stops = (await desk.register("a", ended, "unknown-1.1-00")).stops
    assert {(stop.attempt_id, stop.leave_staged) for stop in stops} == {(ended, False), ("unknown-1.1-00", False)}


@pytest.mark.parametrize("held", [True, False], ids=["held", "not held"])
async def test_register_repeats_stops(desk: Desk, held: bool) -> None:
    """A stop that the agent may not have heard is said again, whether or not it still has the attempt."""
    job_id, attempt = await desk.running()
    await desk.do(_cancel(job_id))
    [stop] = (await desk.register("a", *([attempt] if held else []))).stops
    assert (stop.attempt_id, stop.reason) == (attempt, Reason.CANCELLED)
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    assert (await desk.job(job_id)).state == JobState.CANCELLED


async def test_another_machine_with_the_same_id_is_refused_until_the_first_is_lost(desk: Desk) -> None:
    """A cloned image must not take the first one's attempts; it may have the id when nobody uses it."""
    job_id, _ = await desk.running()
    with pytest.raises(AgentIdConflict) as caught:
        await desk.register("a", instance="clone")
    assert caught.value.name == "box-a"
    assert (await desk.task(job_id)).state == TaskState.RUNNING
    desk.wait(61)
    await desk.do(_expire())
    await desk.register("a", instance="clone")
    with pytest.raises(AgentIdConflict):
        await desk.register("a")


# Logs


async def test_log_chunks_are_stored_once_each(desk: Desk) -> None:
    """Repeats and chunks of unknown attempts are dropped; each stream counts for itself."""
    job_id, attempt = await desk.running()
    chunks = [
        pb.LogChunk(attempt_id=attempt, stream="ffmpeg", sequence=1, data=b"one"),
        pb.LogChunk(attempt_id=attempt, stream="agent", sequence=1, data=b"two"),
        pb.LogChunk(attempt_id="unknown", stream="agent", sequence=1, data=b"lost"),
        pb.LogChunk(attempt_id=attempt, stream="ffmpeg", sequence=1, data=b"again"),
        pb.LogChunk(attempt_id=attempt, stream="ffmpeg", sequence=2, data=b"three"),
    ]
    for repeat in (chunks, chunks[3:]):
        await desk.log("a", *repeat)
        rows = await desk.store.read(
            queries.log_after, desk.store.database, DEFAULT_TENANT, job_id, "", position=0, limit=99
        )
        assert [row.data for row in rows] == [b"one", b"two", b"three"]


async def test_a_cancelled_publication_that_fails_is_not_tried_again(desk: Desk) -> None:
    """Whoever cancelled wants no further attempt, and the failure stays to be seen."""
    job_id, attempt_id = await desk.publishing()
    await desk.do(CancelJob(DEFAULT_TENANT, job_id, ""))
    await desk.end("a", attempt_id, reason=Reason.PUBLISH_FAILED)
    assert (await desk.task(job_id)).state == TaskState.DEAD


@pytest.mark.parametrize(("waiting", "room"), [(600, 400), (300, 400)])
async def test_grants_pass_nobody_over(desk: Desk, waiting: int, room: int) -> None:
    """However many wait, those in front are leased first, and all of them where there is room."""
    await desk.register("a")
    ids = await desk.submit(waiting)
    leases = await desk.grant("a", cores=room)
    assert [lease.job_id for lease in leases] == ids[: min(waiting, room)]
