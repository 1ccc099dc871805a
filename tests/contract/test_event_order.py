"""The order in which events are read, on both engines: no reader that goes on from its last cursor misses one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from controller.store import queries
from controller.store.queries import Filter
from controller.store.submission import Submit
from controller.store.tables import DEFAULT_TENANT
from tests.fakes.desks import two_desks, unfinished
from tests.fakes.postgres import Postgres
from tests.fakes.running import Desk, desk_on_engine, new_job


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _events(desk: Desk, cursor: int = -1, limit: int = 1000) -> list[tuple[int, str, int]]:
    chosen = Filter(DEFAULT_TENANT)
    rows = await desk.store.read(queries.events_after, desk.store.database, chosen, cursor=cursor, limit=limit)
    return [(row.cursor, row.job_id, row.sequence) for row in rows]


async def test_events_are_read_in_the_order_of_their_tickets(desk: Desk) -> None:
    """A page at a time or all at once; whatever was committed is there."""
    job_id = await desk.completed()
    whole = await _events(desk)
    assert [event[1:] for event in whole] == [(job_id, n) for n in range(1, 6)]
    paged: list[tuple[int, str, int]] = []
    while page := await _events(desk, paged[-1][0] if paged else -1, limit=2):
        paged += page
    assert paged == whole


async def test_a_reader_waits_for_who_began_before(postgres: Postgres) -> None:
    """Events of a transaction that is still open would come behind those that are delivered: they come first."""
    async with two_desks(postgres) as (one, other):
        # Nobody waits for the other's lane.
        [first] = await one.submit()
        with unfinished(other) as tx:
            [early] = Submit(DEFAULT_TENANT, (new_job(),), "", "d").apply(tx)
            [late] = await one.submit()
            for desk in (one, other):
                assert [job_id for _, job_id, _ in await _events(desk)] == [first]
        found = await _events(one)
        assert [job_id for _, job_id, _ in found] == [first, early, late]
        assert await _events(other) == found


async def test_who_undoes_everything_holds_nobody_up(postgres: Postgres) -> None:
    """Its tickets are simply never seen."""
    async with two_desks(postgres) as (one, other):
        [first] = await one.submit()
        with unfinished(other) as tx:
            undone = tx.connection.begin_nested()
            Submit(DEFAULT_TENANT, (new_job(),), "", "d").apply(tx)
            [job_id] = await one.submit()
            undone.rollback()
        assert [found for _, found, _ in await _events(one)] == [first, job_id]


async def test_a_reader_of_two_controllers_skips_nothing(postgres: Postgres) -> None:
    """It reads while both write, from its last cursor on: in the end it has every event once."""
    async with two_desks(postgres) as desks:
        writing = asyncio.gather(*(desk.submit() for _ in range(40) for desk in desks))
        seen: list[tuple[int, str, int]] = []
        while not writing.done():
            seen += await _events(desks[0], seen[-1][0] if seen else -1, limit=7)
        seen += await _events(desks[0], seen[-1][0] if seen else -1)
        assert seen == await _events(desks[1])
        assert {job_id for _, job_id, _ in seen} == {job_id for ids in await writing for job_id in ids}
