"""Whose turn it is, on both engines: shares of core-seconds by weight, and what waiting is worth."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from controller.core.matching import Rules
from controller.store.attempts import Decline, Start
from controller.store.leases import Leased
from controller.store.leasing import DEFAULT_COST
from controller.store.limits import SetWeight
from controller.store.tables import DEFAULT_TENANT
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.desks import cancel, complete, passed
from tests.fakes.running import Desk, desk_on_engine


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


# Shares


async def _share_of_work(desk: Desk, runs_s: dict[str, float], until_s: float) -> dict[str, float]:
    """Core-seconds that queues got while 8 cores were never idle; their tasks run that long."""
    for queue, length_s in runs_s.items():
        await desk.submit(int(until_s * 8 / length_s), kind="plan", queue=queue)
    begun: list[tuple[Leased, int]] = []
    used: dict[str, float] = dict.fromkeys(runs_s, 0.0)
    end_us = desk.now_us + int(until_s * 1e6)
    await desk.register("a")
    while desk.now_us < end_us:
        over = [(lease, at) for lease, at in begun if desk.now_us - at >= runs_s[lease.queue] * 1e6]
        for lease, at in over:
            used[lease.queue] += (desk.now_us - at) / 1e6
        if over:
            await complete(desk, *(lease for lease, _ in over))
        begun = [one for one in begun if one not in over]
        if leases := await desk.grant("a", cores=8):
            await desk.say("a", *(Start(lease.attempt_id) for lease in leases))
        begun += [(lease, desk.now_us) for lease in leases]
        assert len(begun) == 8
        desk.wait(10)
    whole = sum(used.values())
    return {queue: seconds / whole for queue, seconds in used.items()}


async def test_weights_share_core_seconds(desk: Desk) -> None:
    """Weights of 1 and 3 get 25 and 75 %, though the light queue's tasks run four times as long as the other's.

    All are of one class, so each is charged too much or too little at its grant, and what was wrong is put right at
    its end.
    """
    await desk.do(SetWeight(DEFAULT_TENANT, "light", 1.0))
    await desk.do(SetWeight(DEFAULT_TENANT, "heavy", 3.0))
    shares = await _share_of_work(desk, {"light": 120.0, "heavy": 30.0}, 3000.0)
    assert shares == {"light": pytest.approx(0.25, abs=0.03), "heavy": pytest.approx(0.75, abs=0.03)}


@pytest.mark.parametrize("weight", [1.0, 4.0])
async def test_a_queue_pays_for_what_it_used(desk: Desk, weight: float) -> None:
    """Estimated at the grant, corrected at the end: core-seconds from the start on, divided by its weight."""
    await desk.do(SetWeight(DEFAULT_TENANT, "default", weight))
    _, attempt = await desk.leased(cores=2)
    assert (await passed(desk), await passed(desk, "")) == (DEFAULT_COST / weight, DEFAULT_COST)
    desk.wait(100)
    await desk.start("a", attempt)
    desk.wait(11)
    await desk.end("a", attempt, reason=Reason.INPUT_CORRUPT)
    assert (await passed(desk), await passed(desk, "")) == (22 / weight, 22)


@pytest.mark.parametrize("how", ["handed back", "declined", "cancelled", "lost"])
async def test_what_was_never_begun_is_not_paid_for(desk: Desk, how: str) -> None:
    """The whole charge is refunded."""
    job_id, attempt = await desk.leased()
    desk.wait(50)
    match how:
        case "handed back":
            await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
        case "declined":
            await desk.say("a", Decline(attempt, "no"))
        case "cancelled":
            await cancel(desk, job_id)
            await desk.end("a", attempt, pb.OUTCOME_STOPPED)
        case _:
            await desk.register("a")
            await desk.end("a", attempt, reason=Reason.AGENT_LOST)
    assert (await passed(desk), await passed(desk, "")) == (0.0, 0.0)


async def test_what_is_cancelled_while_it_waits_is_never_charged(desk: Desk) -> None:
    """A thousand such jobs change nothing about whose turn it is."""
    await desk.register("a")
    for job_id in await desk.submit(20, queue="night"):
        await cancel(desk, job_id)
    await desk.submit(4, queue="night")
    await desk.submit(4, queue="day")
    assert Counter(lease.queue for lease in await desk.grant("a")) == {"night": 2, "day": 2}


async def test_who_was_idle_is_owed_nothing(desk: Desk) -> None:
    """A queue that comes back shares from then on; it does not catch up."""
    desk.rules = Rules(ageing_s=1e9)
    await desk.register("a")
    await desk.submit(30, kind="plan", queue="busy")
    await desk.submit(kind="plan", queue="idle")
    while (await passed(desk, "busy")) < 200:
        leases = await desk.grant("a")
        await desk.say("a", *(Start(lease.attempt_id) for lease in leases))
        desk.wait(30)
        await complete(desk, *leases)
    await desk.submit(8, kind="plan", queue="idle")
    assert Counter(lease.queue for lease in await desk.grant("a")) == {"busy": 2, "idle": 2}


# Age


async def test_a_low_priority_starts_under_a_stream_of_high_ones(desk: Desk) -> None:
    """After it has waited for as many steps of ageing as there are between the two, and not before."""
    desk.rules = Rules(ageing_s=60.0)
    await desk.register("a")
    [low] = await desk.submit(kind="plan", priority=2)
    begun_us = desk.now_us
    leases: list[Leased] = []
    while low not in {lease.job_id for lease in leases}:
        await complete(desk, *leases)
        await desk.submit(2, kind="plan", priority=9)
        leases = await desk.grant("a", cores=1)
        assert desk.now_us - begun_us <= 450_000_000
        desk.wait(20)
    assert desk.now_us - begun_us > 420_000_000


async def test_a_task_that_needs_a_whole_agent_gets_one(desk: Desk) -> None:
    """Small ones that fit beside each other hold it up until it has starved, and no longer."""
    desk.rules = Rules(starvation_s=300.0)
    await desk.register("a")
    [large] = await desk.submit(kind="plan", cores=4)
    await desk.submit(200, kind="plan")
    begun: list[tuple[Leased, int]] = []
    begun_us = desk.now_us
    # One after the other: there is never a moment at which all end together.
    for cores in (1, 2, 3):
        begun += [(lease, desk.now_us) for lease in await desk.grant("a", cores=cores)]
        desk.wait(20)
    while large not in {lease.job_id for lease, _ in begun}:
        over = [(lease, at) for lease, at in begun if desk.now_us - at >= 60_000_000]
        await complete(desk, *(lease for lease, _ in over))
        begun = [one for one in begun if one not in over]
        begun += [(lease, desk.now_us) for lease in await desk.grant("a", cores=4)]
        assert desk.now_us - begun_us <= 400_000_000
        desk.wait(20)
    assert desk.now_us - begun_us > 300_000_000
