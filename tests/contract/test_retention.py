"""What is forgotten and what stays, and what is mended of things that should not be; the same on every database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Table, func, select

from controller.store.orphans import Mended, repair, suspects
from controller.store.retention import DropEnded, Dropped, DropRequests
from controller.store.tables import (
    DEFAULT_TENANT,
    artifacts,
    attempts,
    events,
    job_edges,
    jobs,
    log_chunks,
    requests,
    tasks,
)
from controller.store.writer import Store
from tests.fakes.stored import (
    KINDS,
    RowOf,
    add,
    agent,
    attempt,
    chunk,
    edge,
    found,
    job,
    migrated,
    opened,
    request_of,
)

NOW_US = 1_700_000_000_000_000


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    with migrated(request.param, request, tmp_path) as url:
        async with opened(url, clock_us=lambda: NOW_US) as store:
            yield store


async def _count(store: Store, table: Table) -> int:
    [(count,)] = await found(store, select(func.count()).select_from(table))
    return int(count)


async def _ids(store: Store) -> list[str]:
    return [row.id for row in await found(store, select(jobs.c.id).order_by(jobs.c.seq))]


async def _state(store: Store, number: int) -> tuple[str, str]:
    """(job's state, its only task's)."""
    [row] = await found(
        store,
        select(jobs.c.state, tasks.c.state.label("task"))
        .join(tasks, tasks.c.job_id == jobs.c.id)
        .where(jobs.c.id == f"j{number}"),
    )
    return row.state, row.task


async def _history(store: Store, number: int) -> list[tuple[int, str, str]]:
    query = select(events.c.sequence, events.c.type, events.c.job_state).where(events.c.job_id == f"j{number}")
    return [tuple(row) for row in await found(store, query.order_by(events.c.sequence))]


def _whole(number: int, state: str, ended_us: int | None) -> list[RowOf]:
    """A job with a row in every table that jobs have rows in."""
    return [
        *job(number, state, ended_us=ended_us),
        attempt(number, f"t{number}", ended_us=ended_us, log_key=f"logs/default/j{number}/t{number}.log.gz"),
        attempt(number, f"u{number}", ended_us=ended_us, log_key="-", remains_key=f"remains/default/j{number}/u"),
        chunk(number, f"t{number}", number, "stderr", 1, b"said"),
        (artifacts, {"job_id": f"j{number}", "attempt_id": f"t{number}"}),
    ]


# Retention


async def test_ended_jobs_go_with_everything_of_theirs(store: Store) -> None:
    """Others stay whole; the caller learns which archived logs and remains are nobody's now."""
    for number, state, ended_us in (
        (1, "COMPLETED", 10),
        (2, "DEAD", 20),
        (3, "CANCELLED", 30),
        (4, "COMPLETED", 100),
        (5, "PENDING", None),
    ):
        await add(store, *_whole(number, state, ended_us))
    await add(store, edge(1, 2), edge(3, 4))
    dropped = await store.execute(DropEnded(before_us=100, limit=10))
    assert dropped.jobs == 3
    assert sorted(dropped.blob_keys) == [
        *(f"logs/default/j{n}/t{n}.log.gz" for n in (1, 2, 3)),
        *(f"remains/default/j{n}/u" for n in (1, 2, 3)),
    ]
    assert await _ids(store) == ["j4", "j5"]
    for table, rows_each in ((tasks, 1), (attempts, 2), (events, 1), (artifacts, 1), (log_chunks, 1)):
        assert await _count(store, table) == 2 * rows_each
    assert await _count(store, job_edges) == 0
    assert await store.execute(DropEnded(before_us=100, limit=10)) == Dropped(0, ())


async def test_jobs_go_in_bounded_numbers_longest_ended_first(store: Store) -> None:
    """However many there are, one transaction stays short."""
    await add(store, *(row for number in range(1, 8) for row in job(number, "COMPLETED", ended_us=100 - number)))
    assert (await store.execute(DropEnded(before_us=1000, limit=3))).jobs == 3
    assert await _ids(store) == ["j1", "j2", "j3", "j4"]
    assert (await store.execute(DropEnded(before_us=1000, limit=100))).jobs == 4


async def test_what_another_job_still_waits_for_stays(store: Store) -> None:
    """Until that one has ended."""
    await add(store, *job(1, "COMPLETED", ended_us=1), *job(2, "BLOCKED"), edge(1, 2))
    await add(store, *job(3, "COMPLETED", ended_us=1), *job(4, "COMPLETED", ended_us=500), edge(3, 4))
    assert (await store.execute(DropEnded(before_us=100, limit=10))).jobs == 1
    assert await _ids(store) == ["j1", "j2", "j4"]


async def test_requests_are_remembered_longer_than_their_jobs(store: Store) -> None:
    """By age, and as long as any of their jobs is there, however old they are."""
    await add(store, *job(1, "PENDING"))
    await add(store, request_of("old", 10), request_of("new", 100))
    await add(store, (requests, {**dict(request_of("lives", 10)[1]), "job_ids": '["gone", "j1"]'}))
    await add(store, (requests, {**dict(request_of("gone", 10)[1]), "job_ids": '["gone"]'}))
    assert await store.execute(DropRequests(before_us=100, limit=1)) == 1
    assert await store.execute(DropRequests(before_us=100)) == 1
    assert await store.execute(DropRequests(before_us=100)) == 0
    left = await found(store, select(requests.c.request_id).order_by(requests.c.request_id))
    assert [row.request_id for row in left] == ["lives", "new"]


# Orphans


async def test_what_is_in_order_is_left_alone(store: Store) -> None:
    """Jobs in every ordinary state, and nothing is written."""
    await add(store, agent("a"))
    plain = ("PENDING", "BLOCKED", "HELD", "FAILED", "COMPLETED", "DEAD", "CANCELLED")
    for number, state in enumerate(plain, start=1):
        ended_us = 5 if state in ("COMPLETED", "DEAD", "CANCELLED") else None
        await add(store, *job(number, state, held=state == "HELD", ended_us=ended_us))
    for number, state in enumerate(("LEASED", "RUNNING", "PUBLISHING"), start=20):
        await add(store, *job(number, "PROCESSING", task={"state": state, "attempt_id": f"t{number}"}))
        await add(store, attempt(number, f"t{number}", holder="a" if state != "PUBLISHING" else ""))
    await add(store, *job(30, "PENDING", task={"state": "SCHEDULED"}))
    before = await _count(store, events)
    assert await repair(store) == []
    assert await _count(store, events) == before
    looked_at = (await store.read(suspects, -1, 1000))[1]
    assert looked_at == [(DEFAULT_TENANT, "j30")]


async def test_attempts_of_agents_that_nobody_knows_end(store: Store) -> None:
    """Their tasks wait again; a publication is left for any agent to finish."""
    for number, state in ((1, "LEASED"), (2, "RUNNING"), (3, "PUBLISHING")):
        await add(store, *job(number, "PROCESSING", task={"state": state, "attempt_id": f"t{number}"}))
        await add(store, attempt(number, f"t{number}", holder="nobody", state="running"))
    mended = await repair(store)
    assert [(one.tenant, one.job_id) for one in mended] == [(DEFAULT_TENANT, f"j{n}") for n in (1, 2, 3)]
    assert all("nobody" in one.told for one in mended)
    assert await _state(store, 1) == await _state(store, 2) == ("PENDING", "PENDING")
    assert await _state(store, 3) == ("PROCESSING", "PUBLISHING")
    assert await _history(store, 1) == [(1, "submitted", "PROCESSING"), (2, "given_back", "PENDING")]
    rows = await found(store, select(attempts.c.id, attempts.c.holder, attempts.c.ended_us).order_by(attempts.c.id))
    assert [tuple(row) for row in rows] == [("t1", "", NOW_US), ("t2", "", NOW_US), ("t3", "", None)]
    assert await repair(store) == []


async def test_tasks_at_attempts_that_ended_or_never_were_wait_again(store: Store) -> None:
    """One that was publishing counts as failed and is tried again."""
    await add(store, *job(1, "PROCESSING", task={"state": "RUNNING", "attempt_id": "t1"}), attempt(1, "t1", ended_us=5))
    await add(store, *job(2, "PROCESSING", task={"state": "LEASED", "attempt_id": "never"}))
    await add(store, *job(3, "PROCESSING", task={"state": "PUBLISHING", "attempt_id": "", "redo": b""}))
    assert len(await repair(store)) == 3
    assert await _state(store, 1) == await _state(store, 2) == ("PENDING", "PENDING")
    assert await _state(store, 3) == ("FAILED", "FAILED")
    assert await repair(store) == []


async def test_an_attempt_held_after_its_task_went_on_is_ended(store: Store) -> None:
    """What it occupies is free again; the task is not touched."""
    await add(store, agent("a"), *job(1), attempt(1, "t1", holder="a", limit_keys='["global"]'))
    assert len(await repair(store)) == 1
    assert await _state(store, 1) == ("PENDING", "PENDING")
    [row] = await found(store, select(attempts.c.holder, attempts.c.state))
    assert tuple(row) == ("", "lost")


async def test_nothing_of_an_ended_job_waits(store: Store) -> None:
    """What still does is cancelled."""
    await add(store, *job(1, "DEAD", ended_us=5, task={"state": "DEAD"}))
    await add(
        store, (tasks, {"seq": 100, "id": "j1-2", "job_id": "j1", "name": "more", "state": "PENDING", "after": "[]"})
    )
    [mended] = await repair(store)
    assert "more" in mended.told
    states = await found(store, select(tasks.c.state).order_by(tasks.c.seq))
    assert [row.state for row in states] == ["DEAD", "CANCELLED"]
    assert await _history(store, 1) == [(1, "submitted", "DEAD"), (2, "cancelled", "DEAD")]


async def test_a_job_is_what_its_tasks_say(store: Store) -> None:
    """An event tells of the correction; dependants hear of an end."""
    await add(store, *job(1, "PENDING", task={"state": "COMPLETED"}))
    await add(store, *job(2, "BLOCKED", waits_for=1), edge(1, 2))
    await add(store, *job(3, "COMPLETED", ended_us=5, task={"state": "PENDING"}))
    mended = await repair(store)
    assert Mended(DEFAULT_TENANT, "j1", "job was PENDING though its tasks say COMPLETED") in mended
    assert await _state(store, 1) == ("COMPLETED", "COMPLETED")
    assert await _history(store, 1) == [(1, "submitted", "PENDING"), (2, "repaired", "COMPLETED")]
    assert await _state(store, 2) == ("PENDING", "PENDING")
    assert await _state(store, 3) == ("CANCELLED", "CANCELLED")
    assert await repair(store) == []
