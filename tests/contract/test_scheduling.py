"""Who is leased what, and when, on both engines: limits, shares, age, lanes, and several controllers at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text

from controller.core.states import TaskState
from controller.store import lanes as storing_lanes
from controller.store import queries
from controller.store.lanes import Relane
from controller.store.leasing import DEFAULT_COST
from controller.store.limits import ReconcileLimits, SetLimit
from controller.store.submission import Submit
from controller.store.tables import DEFAULT_TENANT, attempts, jobs, limit_counts, tasks
from controller.store.topics import RELANE
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.agent_peer import PATIENCE_S
from tests.fakes.desks import cancel, complete, passed, two_desks, unfinished, until_blocked
from tests.fakes.postgres import Postgres
from tests.fakes.running import Desk, desk_on_engine, new_job, offer


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _held(desk: Desk) -> dict[str, int]:
    """How many tasks each agent holds."""
    return {agent: len(held) for agent, held in (await desk.store.read(queries.holdings)).items()}


async def _counts(desk: Desk) -> dict[str, int]:
    def query(connection: Connection) -> dict[str, int]:
        return {row.key: row.running for row in connection.execute(select(limit_counts)) if row.running}

    return await desk.store.read(query)


async def _relane(desk: Desk) -> None:
    after: int | None = -1
    while after is not None:
        after = await desk.do(Relane(after))


# Limits

LIMITS: dict[str, dict[str, Any]] = {
    "global": {},
    "tenant:default": {},
    "queue:night": {"queue": "night"},
    "preset:duck_v2": {"preset": "duck_v2"},
    "label:show": {"labels": {"show": "news"}},
}


@pytest.mark.parametrize("key", LIMITS)
async def test_a_limit_holds_exactly_under_concurrent_grants(desk: Desk, key: str) -> None:
    """As many run as it allows, no fewer and no more, from the first grant to the last task."""
    for agent in ("a", "b"):
        await desk.register(agent)
    await desk.do(SetLimit(key, 3))
    await desk.submit(10, kind="plan", **LIMITS[key])
    done = 0
    while done < 10:
        rounds = await asyncio.gather(*(desk.grant("a", "b") for _ in range(4)))
        leases = [lease for leases in rounds for lease in leases]
        counted = "label:show=news" if key == "label:show" else key
        assert await _counts(desk) == {counted: min(3, 10 - done)} == {counted: len(leases)}
        await complete(desk, *leases)
        done += len(leases)
    assert await _counts(desk) == {}
    assert await desk.do(ReconcileLimits()) == ()


@pytest.mark.parametrize("ending", ["failed", "handed back", "declined", "refiled", "cancelled", "lost"])
async def test_every_end_gives_its_place_under_a_limit_back(desk: Desk, ending: str) -> None:
    """Once, whatever is repeated."""
    await desk.do(SetLimit("global", 1))
    job_id, attempt = await desk.leased()
    await desk.submit()
    assert await desk.grant("a") == []
    for _ in range(2):
        match ending:
            case "failed":
                await desk.end("a", attempt, reason=Reason.INPUT_CORRUPT)
            case "handed back":
                await desk.end("a", attempt, reason=Reason.AGENT_STOPPING)
            case "declined":
                await desk.decline("a", attempt)
            case "refiled":
                await desk.end("a", attempt, pb.OUTCOME_REFILED)
            case "cancelled":
                await cancel(desk, job_id)
                await desk.end("a", attempt, pb.OUTCOME_STOPPED)
            case _:
                await desk.start("a", attempt)
                await desk.register("a")
    assert await _counts(desk) == {}
    assert len(await desk.grant("a")) == 1


async def test_a_lane_at_its_limit_hides_nobody(desk: Desk) -> None:
    """However high its priority and however much of it waits: others are leased behind it."""
    await desk.register("a")
    await desk.do(SetLimit("label:show", 1))
    await desk.submit(300, priority=9, labels={"show": "news"})
    [film] = await desk.submit(priority=1, labels={"show": "film"})
    [plain] = await desk.submit(priority=0)
    assert {lease.job_id for lease in (await desk.grant("a"))[1:]} == {film, plain}


async def test_several_limits_hold_together(desk: Desk) -> None:
    """The tightest one counts."""
    await desk.register("a")
    await desk.do(SetLimit("global", 4))
    await desk.do(SetLimit("queue:night", 2))
    await desk.submit(5, queue="night", priority=9)
    await desk.submit(5)
    queues = Counter(lease.queue for lease in await desk.grant("a", cores=20))
    assert queues == {"night": 2, "default": 2}


async def test_a_limit_that_is_set_later_counts_what_runs_and_what_waits(desk: Desk) -> None:
    """Nothing is stopped for it; raised, it lets the next ones in."""
    await desk.register("a")
    await desk.submit(8, kind="plan", labels={"show": "news"})
    running = await desk.grant("a", cores=3)
    await desk.do(SetLimit("label:show", 2))
    assert await desk.grant("a", cores=20) == []
    await complete(desk, *running[:2])
    assert len(await desk.grant("a", cores=20)) == 1
    await desk.do(SetLimit("label:show", 4))
    assert len(await desk.grant("a", cores=20)) == 2
    await desk.do(SetLimit("label:show", None))
    assert len(await desk.grant("a", cores=20)) == 2


# Several controllers


async def test_two_controllers_never_exceed_a_limit_nor_an_agent(postgres: Postgres) -> None:
    """Granting at once, again and again: no task is leased twice, no core spent twice, no limit passed."""
    async with two_desks(postgres) as desks:
        one, _ = desks
        for agent in ("a", "b"):
            await one.register(agent)
        await one.do(SetLimit("queue:night", 2))
        await one.submit(12, kind="plan", queue="night")
        await one.submit(30, kind="plan")
        seen: list[str] = []
        while len(seen) < 42:
            rounds = await asyncio.gather(*(desk.grant("a", "b", cores=3) for desk in desks * 3))
            leases = [lease for leases in rounds for lease in leases]
            assert leases
            night = sum(lease.queue == "night" for lease in leases)
            assert night <= 2
            assert all(count <= 3 for count in (await _held(one)).values())
            assert (await _counts(one)).get("queue:night", 0) == night
            seen += [lease.task_id for lease in leases]
            halves = (leases[::2], leases[1::2])
            await asyncio.gather(*(complete(desk, *half) for desk, half in zip(desks, halves, strict=True)))
        assert len(set(seen)) == len(seen)
        assert await one.do(ReconcileLimits()) == ()


async def test_what_is_submitted_while_a_limit_is_set_stands_under_it(postgres: Postgres) -> None:
    """The limit waits for those who store jobs at that moment, and then counts theirs too."""
    async with two_desks(postgres) as (one, other):
        await one.register("a")
        with unfinished(other) as tx:
            Submit(DEFAULT_TENANT, tuple(new_job() for _ in range(4)), "", "d").apply(tx)
            setting = asyncio.create_task(one.do(SetLimit("global", 1)))
            await until_blocked(one)
        await setting
        assert len(await one.grant("a")) == 1


async def test_limits_set_and_grants_made_at_two_controllers_get_along(postgres: Postgres) -> None:
    """However they fall, nobody is refused and no limit is passed in the end."""
    async with two_desks(postgres) as desks:
        one, other = desks
        await one.register("a")
        await one.submit(20)
        setting = [desk.do(SetLimit("global", maximum)) for desk, maximum in zip(desks * 2, (2, 3, 4, 5), strict=True)]
        granting = [desk.grant("a", cores=8) for desk in desks * 4]
        await asyncio.gather(*granting[:4], *setting, *granting[4:])
        await one.do(SetLimit("global", 5))
        await asyncio.gather(one.grant("a", cores=8), other.grant("a", cores=8))
        assert (await _counts(one))["global"] == sum((await _held(one)).values())


async def test_a_task_that_another_controller_has_in_hand_is_passed_over(postgres: Postgres) -> None:
    """Its queue pays nothing for it, and the others are leased without waiting."""
    async with two_desks(postgres) as (one, other):
        await one.register("a")
        [busy] = await one.submit(queue="night")
        [free] = await one.submit()
        with unfinished(other) as tx:
            tx.connection.execute(select(jobs.c.seq).where(jobs.c.id == busy).with_for_update())
            assert [lease.job_id for lease in await one.grant("a")] == [free]
        assert await passed(one, "night") == 0
        assert await passed(one, "") == await passed(one) == DEFAULT_COST
        assert [lease.job_id for lease in await one.grant("a")] == [busy]


async def test_what_is_charged_at_one_controller_and_corrected_at_another_adds_up(postgres: Postgres) -> None:
    """Neither overwrites what the other wrote, though the one read before the other committed."""
    async with two_desks(postgres) as (one, other):
        await one.do(SetLimit("queue:night", 5))
        await one.register("a")
        await one.submit(2, kind="plan", queue="night")
        [first] = await one.grant("a", cores=1)
        await one.submit(kind="plan", queue="day")
        [second] = await one.offering(offer("a", cores=2))
        await one.start("a", second.attempt_id)
        assert {first.queue, second.queue} == {"night", "day"}
        day = first if first.queue == "day" else second
        await one.start("a", day.attempt_id)
        one.wait(7)
        with unfinished(other) as tx:
            tx.connection.execute(select(limit_counts).with_for_update()).all()
            granting = asyncio.create_task(one.grant("a", cores=3))
            await until_blocked(one)
            await complete(other, day)
        [third] = await granting
        assert third.queue == "night"
        assert await passed(one, "day") == pytest.approx(7)
        assert await passed(one, "") == pytest.approx(7 + 2 * DEFAULT_COST)


# Lanes


async def _lanes(desk: Desk) -> int:
    """How many lanes have waiting tasks."""
    query = select(func.count(tasks.c.lane.distinct())).where(text("state = 'PENDING'"))
    return await desk.store.read(lambda connection: int(connection.execute(query).scalar_one()))


@pytest.mark.parametrize("page", [1, 2, 1000])
async def test_new_roots_tell_waiting_tasks_apart(desk: Desk, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitted before any agent came, they are alike; then each goes to the agents that reach it."""
    monkeypatch.setattr(storing_lanes, "PAGE", page)
    far = await desk.submit(3, path="/nas/x.wav")
    near = await desk.submit(2, path="/media/y.wav")
    assert await _lanes(desk) == 1
    with desk.store.topics.subscribe(RELANE) as news:
        await desk.register("a", roots=("/media",))
        await desk.register("b", roots=("/nas",))
        async with asyncio.timeout(PATIENCE_S):
            await news.wait(2 * PATIENCE_S)
    await _relane(desk)
    assert await _lanes(desk) == 2
    leases = await desk.offering(offer("a", roots=("/media",)), offer("b", roots=("/nas",)))
    assert sorted((lease.agent_id, lease.job_id) for lease in leases) == sorted(
        [("a", job_id) for job_id in near] + [("b", job_id) for job_id in far]
    )


@pytest.mark.parametrize("waiting", ["SCHEDULED", "HELD", "BLOCKED"])
async def test_what_is_not_in_line_yet_is_put_into_its_lane_too(desk: Desk, waiting: str) -> None:
    """It will stand in line some day."""
    [parent] = await desk.submit(hold=True)
    ways: dict[str, dict[str, Any]] = {
        "SCHEDULED": {"not_before_us": desk.now_us + 10**9},
        "HELD": {"hold": True},
        "BLOCKED": {"after": (parent,)},
    }
    [job_id] = await desk.submit(**ways[waiting])
    before = (await desk.task(job_id)).lane
    await desk.register("a")
    await _relane(desk)
    task = await desk.task(job_id)
    assert (task.state, task.lane != before) == (TaskState(waiting), True)


async def test_what_stands_right_is_left_alone(desk: Desk) -> None:
    """Looking again changes nothing."""
    await desk.register("a")
    [job_id] = await desk.submit()
    before = await desk.task(job_id)
    await _relane(desk)
    assert await desk.task(job_id) == before


def _cores(connection: Connection) -> Iterable[int]:
    return connection.scalars(select(attempts.c.cores).where(attempts.c.holder != "")).all()


async def test_resources_of_tasks_add_up(desk: Desk) -> None:
    """Large and small ones together take no more than there is."""
    await desk.register("a")
    await desk.submit(3, cores=2)
    await desk.submit(3)
    await asyncio.gather(*(desk.grant("a", cores=5) for _ in range(3)))
    assert sum(await desk.store.read(_cores)) == 5
