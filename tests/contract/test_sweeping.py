"""Which ended attempts may have left something staged, and when that is swept, on both engines."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import pytest
from sqlalchemy import delete

from controller.core.states import TaskState
from controller.store.attempts import End
from controller.store.cancelling import STOP_GRACE_US
from controller.store.draining import DrainAgent, HandBackOverdue
from controller.store.engine import AnyRow
from controller.store.fleet import ExpireAgents
from controller.store.orphans import repair
from controller.store.sweeping import LONGEST_US, MarkSwept, SweepLater, unswept
from controller.store.tables import DEFAULT_TENANT, AgentId, AttemptId, agents
from controller.store.writer import Tx
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.desks import cancel, turn
from tests.fakes.running import Desk, desk_on_engine, needs
from tests.fakes.stored import Do

GRACE_S = 60
OVERDUE_S = STOP_GRACE_US / 1e6 + 1


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _due(desk: Desk, after: tuple[int, str] = (-1, ""), limit: int = 100) -> list[AnyRow]:
    before_us = desk.now_us - GRACE_S * 1_000_000
    return list(await desk.store.read(unswept, before_us, after, limit))


async def _due_ids(desk: Desk) -> list[str]:
    return [row.id for row in await _due(desk)]


async def _lose(desk: Desk) -> None:
    desk.wait(61)
    await desk.do(ExpireAgents(60_000_000, jitter=1.0))


async def _told(desk: Desk, attempt: str, outcome: "pb.Outcome.ValueType", *, left: bool, reason: str = "") -> None:
    report = pb.EndReport(attempt_id=attempt, outcome=outcome, staging_left=left)
    if reason:
        report.failure.reason = reason
    await desk.say("a", End(report, jitter=1.0))


async def _lost_before_it_began(desk: Desk) -> str:
    """As the controller heard: it may have staged all the same while its controller was away."""
    _, attempt = await desk.leased()
    await _lose(desk)
    return attempt


async def _lost_at_work(desk: Desk) -> str:
    _, attempt = await desk.running()
    await _lose(desk)
    return attempt


async def _forgotten_by_its_agent(desk: Desk) -> str:
    _, attempt = await desk.running()
    await desk.register("a")
    return attempt


async def _stop_not_confirmed(desk: Desk) -> str:
    job_id, attempt = await desk.running()
    await cancel(desk, job_id)
    desk.wait(OVERDUE_S)
    await turn(desk)
    return attempt


async def _time_up_and_not_confirmed(desk: Desk) -> str:
    _, attempt = await desk.running(timeout_us=1_000_000)
    desk.wait(2)
    await turn(desk)
    desk.wait(OVERDUE_S)
    await turn(desk)
    return attempt


async def _drained_and_not_confirmed(desk: Desk) -> str:
    _, attempt = await desk.running()
    await desk.do(DrainAgent(AgentId("a"), 0))
    await desk.do(HandBackOverdue())
    desk.wait(OVERDUE_S)
    await turn(desk)
    return attempt


async def _held_by_nobody_known(desk: Desk) -> str:
    _, attempt = await desk.running()

    def forget(tx: Tx) -> None:
        tx.connection.execute(delete(agents).where(agents.c.id == "a"))

    await desk.do(Do(forget))
    assert await repair(desk.store)
    return attempt


async def _ended_untidily(desk: Desk) -> str:
    _, attempt = await desk.running()
    await _told(desk, attempt, pb.OUTCOME_FAILED, left=True, reason=Reason.PUBLISH_FAILED)
    return attempt


async def _completed_after_a_restart(desk: Desk) -> str:
    _, attempt = await desk.publishing()
    await _told(desk, attempt, pb.OUTCOME_COMPLETED, left=True)
    return attempt


async def _stopped_untidily(desk: Desk) -> str:
    job_id, attempt = await desk.running()
    await cancel(desk, job_id)
    await _told(desk, attempt, pb.OUTCOME_STOPPED, left=True)
    return attempt


@pytest.mark.parametrize(
    "end",
    [
        _lost_before_it_began,
        _lost_at_work,
        _forgotten_by_its_agent,
        _stop_not_confirmed,
        _time_up_and_not_confirmed,
        _drained_and_not_confirmed,
        _held_by_nobody_known,
        _ended_untidily,
        _completed_after_a_restart,
        _stopped_untidily,
    ],
)
async def test_what_may_be_left(desk: Desk, end: Callable[[Desk], Awaitable[str]]) -> None:
    """Whoever ends without its agent having told that all is gone is due, a while after its end, until it is swept."""
    attempt = await end(desk)
    assert await _due_ids(desk) == []
    desk.wait(GRACE_S)
    assert await _due_ids(desk) == []
    desk.wait(0.000001)
    [row] = await _due(desk)
    assert (row.id, row.agent_id, row.tenant) == (attempt, "a", DEFAULT_TENANT)
    assert json.loads(row.intent)["inputs"]
    await desk.do(MarkSwept(DEFAULT_TENANT, AttemptId(attempt)))
    assert await _due_ids(desk) == []


async def _completed(desk: Desk) -> None:
    await desk.completed()


async def _failed(desk: Desk) -> None:
    _, attempt = await desk.running()
    await desk.end("a", attempt, reason=Reason.FFMPEG_FAILED)


async def _stopped(desk: Desk) -> None:
    job_id, attempt = await desk.running()
    await cancel(desk, job_id)
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)


async def _handed_back(desk: Desk) -> None:
    _, attempt = await desk.running()
    await desk.end("a", attempt, pb.OUTCOME_STOPPED)


async def _declined(desk: Desk) -> None:
    _, attempt = await desk.leased()
    await desk.decline("a", attempt)


async def _refiled(desk: Desk) -> None:
    _, attempt = await desk.running()
    await desk.end("a", attempt, pb.OUTCOME_REFILED, requirements=needs("encoder:x"))


async def _plan_lost(desk: Desk) -> None:
    """A plan stages nothing."""
    await desk.running(kind="plan")
    await _lose(desk)


async def _at_work(desk: Desk) -> None:
    await desk.running()


async def _told_to_stop(desk: Desk) -> None:
    job_id, _ = await desk.running()
    await cancel(desk, job_id)


async def _publishing(desk: Desk) -> None:
    await desk.publishing()


async def _publishing_without_an_agent(desk: Desk) -> None:
    """Anybody may finish it."""
    job_id, attempt = await desk.publishing()
    await _lose(desk)
    assert (await desk.attempt(attempt)).holder == ""
    assert (await desk.task(job_id)).state == TaskState.PUBLISHING


@pytest.mark.parametrize(
    "come_there",
    [
        _completed,
        _failed,
        _stopped,
        _handed_back,
        _declined,
        _refiled,
        _plan_lost,
        _at_work,
        _told_to_stop,
        _publishing,
        _publishing_without_an_agent,
    ],
)
async def test_what_is_not_swept(desk: Desk, come_there: Callable[[Desk], Awaitable[None]]) -> None:
    """What the agent ended in order, and what has not ended, however long ago that was."""
    await come_there(desk)
    desk.wait(86_400)
    assert await _due_ids(desk) == []


async def test_marks_alone_sweep_nothing(desk: Desk) -> None:
    """Were one wrong, nothing that somebody holds or publishes is touched."""
    _, held = await desk.running()
    _, publishing = await desk.publishing()

    def spoil(tx: Tx) -> None:
        tx.connection.exec_driver_sql("UPDATE attempts SET sweep_us = 1")
        tx.connection.exec_driver_sql(f"UPDATE attempts SET holder = '' WHERE id = '{publishing}'")  # noqa: S608

    await desk.do(Do(spoil))
    assert held != publishing
    assert await _due_ids(desk) == []


async def test_what_fails_is_tried_less_and_less(desk: Desk) -> None:
    """The pause doubles up to an hour; what was swept meanwhile is not due again; a forgotten job has nothing due."""
    attempt = await _lost_at_work(desk)
    ended_us = desk.now_us
    tries = []
    while desk.now_us - ended_us < 6 * 3_600_000_000:
        desk.wait(1)
        if await _due_ids(desk):
            tries.append((desk.now_us - ended_us) / 1e6)
            await desk.do(SweepLater(DEFAULT_TENANT, AttemptId(attempt)))
        else:
            desk.wait(60)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    slack_s = 62  # how coarse the steps are
    for waited, pause in zip(tries, pauses, strict=False):
        expected = GRACE_S + min(waited, LONGEST_US / 1e6)
        assert expected <= pause <= expected + slack_s
    assert pauses[-1] >= LONGEST_US / 1e6
    await desk.do(MarkSwept(DEFAULT_TENANT, AttemptId(attempt)))
    await desk.do(SweepLater(DEFAULT_TENANT, AttemptId(attempt)))
    desk.wait(86_400)
    assert await _due_ids(desk) == []


async def test_pages(desk: Desk) -> None:
    """Behind the last one of a page comes the next, those that have waited longest first."""
    lost = {(await desk.running(agent))[1] for agent in "abcde"}
    await _lose(desk)
    desk.wait(86_400)
    everything = await _due(desk)
    assert {row.id for row in everything} == lost
    paged: list[str] = []
    after = (-1, "")
    while page := await _due(desk, after, 2):
        paged += [row.id for row in page]
        after = (page[-1].sweep_us, page[-1].id)
    assert paged == [row.id for row in everything]
