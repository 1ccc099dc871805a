"""Draining on a real database: no grants, work handed back at the deadline, agents forgotten."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import NoResultFound

from controller.core.liveness import Timers
from controller.core.states import JobState, TaskState
from controller.store import overview, queries
from controller.store.attempts import EpochSuperseded
from controller.store.cancelling import STOP_GRACE_US
from controller.store.draining import AgentUnknown, DrainAgent, HandBackOverdue, ResumeAgent, drain_reason
from controller.store.engine import AnyRow
from controller.store.explaining import Explanation, explain
from controller.store.fleet import AgentNotLost, ExpireAgents, RemoveAgent, Seen, Sign
from controller.store.tables import DEFAULT_TENANT, AgentId, JobId, agents
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.desks import cancel, hold, turn, two_desks, unfinished, until_blocked
from tests.fakes.postgres import Postgres
from tests.fakes.running import Desk, desk_on_engine, offer


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _drain(desk: Desk, agent: str = "a", within_s: float | None = None) -> None:
    await desk.do(DrainAgent(AgentId(agent), None if within_s is None else int(within_s * 1e6)))


async def _resume(desk: Desk, agent: str = "a") -> None:
    await desk.do(ResumeAgent(AgentId(agent)))


async def _agent(desk: Desk, agent: str = "a") -> AnyRow:
    return await desk.store.read(lambda c: c.execute(select(agents).where(agents.c.id == agent)).one())


async def _stops(desk: Desk, agent: str = "a") -> list[tuple[str, str]]:
    return [(row.id, row.stop_reason) for row in await desk.store.read(queries.stops_for, agent)]


async def _explain(desk: Desk, job_id: JobId, *connected: str, own: str = "") -> Explanation:
    def query(connection: Connection) -> Explanation:
        return explain(
            connection,
            desk.store.database,
            DEFAULT_TENANT,
            job_id,
            offers=[offer(agent) for agent in connected],
            absent=lambda row: offer(row.id),
            objection=lambda row: own,
        )

    return await desk.store.read(query)


async def _overdue(desk: Desk) -> tuple[JobId, str]:
    """A job that was running when the deadline of its agent passed."""
    job_id, attempt = await desk.running()
    await _drain(desk, within_s=10)
    desk.wait(10)
    assert await desk.do(HandBackOverdue()) == 1
    return job_id, attempt


async def test_a_drained_agent_is_granted_nothing_until_it_is_resumed(desk: Desk) -> None:
    """What it has goes on; a new session, which is what a restart brings, changes nothing about it."""
    job_id, attempt = await desk.running()
    await _drain(desk)
    [waiting] = await desk.submit()
    assert await desk.grant("a") == []
    await desk.register("a", attempt)
    assert await desk.grant("a") == []
    assert await desk.stage("a", attempt)
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED
    await _resume(desk)
    await _resume(desk)
    assert [lease.job_id for lease in await desk.grant("a")] == [waiting]


async def test_others_are_granted_what_a_drained_agent_is_not(desk: Desk) -> None:
    """Only the one that was named is left out."""
    await desk.register("a")
    await desk.register("b")
    await _drain(desk)
    await desk.submit(2)
    assert [lease.agent_id for lease in await desk.grant("a", "b")] == ["b", "b"]


async def test_a_drained_agent_takes_up_no_publication(desk: Desk) -> None:
    """One that lost its agent waits for another one, which takes it up as soon as there is any."""
    _, attempt = await desk.publishing("a")
    desk.wait(61)
    await desk.do(ExpireAgents(60_000_000, jitter=1.0))
    await desk.register("b")
    await _drain(desk, "b")
    assert await desk.grant("b") == []
    await desk.register("c")
    [lease] = await desk.grant("b", "c")
    assert (lease.agent_id, lease.attempt_id) == ("c", attempt)


async def test_it_is_explained(desk: Desk) -> None:
    """By whose wish an agent is draining, though it is connected and would have room."""
    await desk.register("a")
    [job_id] = await desk.submit()
    await _drain(desk)
    told = await _explain(desk, job_id, "a")
    assert told.verdicts[0].reasons == ("is draining: a person asked for it",)
    assert "box-a is draining" in told.summary
    await _resume(desk)
    told = await _explain(desk, job_id, own="scratch is low")
    assert told.verdicts[0].reasons == ("is draining: scratch is low",)
    assert (await _explain(desk, job_id, "a")).verdicts[0].reasons == ()


def test_both_reasons_are_told() -> None:
    """A person's wish first; none of them, nothing."""
    assert drain_reason(True, "scratch is low") == "a person asked for it; scratch is low"
    assert (drain_reason(False, ""), drain_reason(False, "x")) == ("", "x")


async def test_at_the_deadline_what_runs_is_begun_anew_elsewhere(desk: Desk) -> None:
    """It uses no attempt, however often that happens, and the history tells why."""
    await desk.register("b")
    job_id, attempt = await desk.running()
    for number, agent in enumerate("abab", 1):
        await _drain(desk, agent, within_s=10)
        desk.wait(9)
        assert await desk.do(HandBackOverdue()) == 0
        desk.wait(1)
        assert await desk.do(HandBackOverdue()) == 1
        assert await desk.do(HandBackOverdue()) == 0
        assert await _stops(desk, agent) == [(attempt, Reason.AGENT_STOPPING)]
        assert (await desk.task(job_id)).state == TaskState.RUNNING
        await desk.end(agent, attempt, reason=Reason.AGENT_STOPPING)
        assert (await desk.attempt(attempt)).state == "handed_back"
        task = await desk.task(job_id)
        assert (task.state, task.attempts_used, task.attempts_made) == (TaskState.PENDING, 0, number)
        assert (await desk.job(job_id)).state == JobState.PENDING
        other = "b" if agent == "a" else "a"
        await _resume(desk, other)
        # Longer than the fleet's own failures would be borne with.
        desk.wait(7200)
        [lease] = await desk.grant(agent, other)
        assert lease.agent_id == other
        attempt = lease.attempt_id
        await desk.start(other, attempt)
    given_back = [row for row in await desk.events(job_id) if row.type == "given_back"]
    assert [(row.reason, row.agent_id) for row in given_back] == [(Reason.AGENT_STOPPING, agent) for agent in "abab"]


async def test_a_lease_that_was_not_begun_goes_back_too(desk: Desk) -> None:
    """Whether the agent says that it stopped it or that it does not want it."""
    for say in ("stop", "decline"):
        job_id, attempt = await desk.leased()
        await _drain(desk, within_s=0)
        assert await desk.do(HandBackOverdue()) == 1
        if say == "stop":
            await desk.end("a", attempt, pb.OUTCOME_STOPPED)
        else:
            await desk.decline("a", attempt)
        assert (await desk.task(job_id)).state == TaskState.PENDING
        assert (await desk.task(job_id)).attempts_used == 0
        await _resume(desk)
        await cancel(desk, job_id)


async def test_what_is_being_published_is_left_to_finish(desk: Desk) -> None:
    """It is past the point of return."""
    job_id, attempt = await desk.publishing()
    await _drain(desk, within_s=0)
    assert await desk.do(HandBackOverdue()) == 0
    await desk.end("a", attempt)
    assert (await desk.job(job_id)).state == JobState.COMPLETED


async def test_once_told_to_stop_it_may_not_publish(desk: Desk) -> None:
    """Outputs that were staged at the same moment are refused: the work is another attempt's from then on."""
    job_id, attempt = await _overdue(desk)
    assert not await desk.stage("a", attempt)
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    assert (await desk.task(job_id)).state == TaskState.PENDING


async def test_an_agent_that_does_not_answer_loses_it_after_the_grace(desk: Desk) -> None:
    """As with any stop; it was told once only."""
    job_id, attempt = await _overdue(desk)
    desk.wait(STOP_GRACE_US / 1e6 - 1)
    await turn(desk)
    assert (await desk.task(job_id)).state == TaskState.RUNNING
    desk.wait(1)
    await turn(desk)
    assert (await desk.task(job_id)).state == TaskState.PENDING
    assert (await desk.attempt(attempt)).state == "handed_back"


async def test_an_agent_lost_meanwhile_costs_nothing_either(desk: Desk) -> None:
    """Its task was to be begun anew in any case."""
    job_id, _ = await _overdue(desk)
    desk.wait(61)
    await desk.do(ExpireAgents(60_000_000, jitter=1.0))
    task = await desk.task(job_id)
    assert (task.state, task.attempts_used, task.agents_lost) == (TaskState.PENDING, 0, 0)


async def test_a_later_deadline_and_none_spare_what_runs(desk: Desk) -> None:
    """The last word counts; a resumed agent has no deadline."""
    await desk.running()
    await _drain(desk, within_s=10)
    await _drain(desk, within_s=100)
    desk.wait(50)
    assert await desk.do(HandBackOverdue()) == 0
    await _drain(desk)
    desk.wait(100)
    assert await desk.do(HandBackOverdue()) == 0
    await _drain(desk, within_s=1)
    await _resume(desk)
    desk.wait(2)
    assert await desk.do(HandBackOverdue()) == 0
    row = await _agent(desk)
    assert (row.draining, row.drain_deadline_us) == (False, None)


async def test_who_cancels_what_is_being_handed_back_has_the_last_word(desk: Desk) -> None:
    """It ends instead of beginning anew, and the agent is told again; its grace began with the first request."""
    job_id, attempt = await _overdue(desk)
    desk.wait(STOP_GRACE_US / 1e6 - 1)
    await cancel(desk, job_id)
    assert await _stops(desk) == [(attempt, Reason.CANCELLED)]
    await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
    assert (await desk.job(job_id)).state == JobState.CANCELLED


async def test_what_was_cancelled_is_not_handed_back(desk: Desk) -> None:
    """A drain does not bring it back to life."""
    job_id, attempt = await desk.running()
    await cancel(desk, job_id)
    await _drain(desk, within_s=0)
    assert await desk.do(HandBackOverdue()) == 0
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)
    assert (await desk.job(job_id)).state == JobState.CANCELLED


async def test_a_held_job_stays_held(desk: Desk) -> None:
    """Handed back, it waits for the person who paused it."""
    job_id, attempt = await desk.running()
    await hold(desk, job_id)
    await _drain(desk, within_s=0)
    assert await desk.do(HandBackOverdue()) == 1
    await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
    assert (await desk.job(job_id)).state == JobState.HELD


async def test_what_an_agent_says_of_itself_is_known_to_all(desk: Desk) -> None:
    """Stored with its sign of life, at once though a sign alone would not be; and counted."""

    async def seen(reason: str, epoch: int | None = None) -> None:
        sign = Sign(AgentId("a"), desk.epochs["a"] if epoch is None else epoch, 0, reason)
        await desk.do(Seen((sign,), resolution_us=2_000_000))

    async def counted() -> dict[str, int]:
        states = await desk.store.read(overview.agent_states, desk.now_us, Timers())
        return {state: count for state, count in states.items() if count}

    await desk.register("a")
    await seen("scratch is low")
    row = await _agent(desk)
    assert row.drain_reason == "scratch is low"
    assert await counted() == {"draining": 1}
    await seen("", epoch=desk.epochs["a"] - 1)
    assert await counted() == {"draining": 1}
    await seen("")
    assert await counted() == {"ready": 1}
    await _drain(desk)
    assert await counted() == {"draining": 1}


async def test_only_lost_agents_can_be_removed(desk: Desk) -> None:
    """Others may hold work. What a removed one did stays; when it comes back, it is a new one."""
    job_id, attempt = await desk.running()
    await _drain(desk)
    with pytest.raises(AgentNotLost):
        await desk.do(RemoveAgent(AgentId("a")))
    desk.wait(61)
    await desk.do(ExpireAgents(60_000_000, jitter=1.0))
    former = desk.epochs["a"]
    await desk.do(RemoveAgent(AgentId("a")))
    with pytest.raises(NoResultFound):
        await _agent(desk)
    assert (await desk.attempt(attempt)).agent_id == "a"
    for command in (RemoveAgent(AgentId("a")), DrainAgent(AgentId("a"), None), ResumeAgent(AgentId("a"))):
        with pytest.raises(AgentUnknown):
            await desk.do(command)
    assert await desk.do(Seen((Sign(AgentId("a"), former, 0),), resolution_us=1)) == [("a", former)]
    found = await desk.register("a", attempt, instance="another machine")
    assert [stop.attempt_id for stop in found.stops] == [attempt]
    assert found.epoch > former + 1
    row = await _agent(desk)
    assert row.draining is False
    [lease] = await desk.grant("a")
    assert lease.job_id == job_id
    desk.epochs["a"] = former
    with pytest.raises(EpochSuperseded):
        await desk.start("a", lease.attempt_id)


async def test_many_that_are_overdue_are_stopped_by_several_controllers_once(postgres: Postgres) -> None:
    """Each attempt by one of them."""
    async with two_desks(postgres) as (first, second):
        await first.register("a")
        await first.submit(30)
        leases = await first.grant("a", cores=30)
        for lease in leases:
            await first.start("a", lease.attempt_id)
        await _drain(second, within_s=5)
        first.wait(5)
        told = await asyncio.gather(*(desk.do(HandBackOverdue()) for desk in (first, second) * 3))
        assert sum(told) == len(leases) == 30


async def test_no_grant_follows_a_drain_that_was_answered(postgres: Postgres) -> None:
    """A controller that is granting at that moment is waited for, and whoever grants later knows."""
    async with two_desks(postgres) as (first, second):
        await first.register("a")
        await first.submit()
        with unfinished(first) as tx:
            first.store.database.lock_scheduling(tx.connection)
            draining = asyncio.create_task(_drain(second))
            await until_blocked(first)
            assert not draining.done()
            count = tx.connection.execute(text("SELECT count(*) FROM agents WHERE draining")).scalar_one()
            assert count == 0
        await draining
        assert await first.grant("a") == await second.grant("a") == []
