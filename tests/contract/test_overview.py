"""What the queue looks like as a whole, on both engines: counts, ages, what runs, what is limited and blocked."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from controller.core.liveness import Timers
from controller.core.retries import BLOCK_S
from controller.store import overview
from controller.store.databases import open_database
from controller.store.overview import Blocked, Depth, LimitInForce
from controller.store.sqlite import SqliteDatabase
from controller.store.tables import failures, limit_counts, limits, shares
from tests.fakes.postgres import Postgres
from tests.fakes.rows import Rows

NOW_US = 1_700_000_000_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def rows(request: pytest.FixtureRequest) -> Iterator[Rows]:
    if request.param == "sqlite":
        rows = Rows(SqliteDatabase(None))
        yield rows
        rows.engine.dispose()
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        rows = Rows(open_database(url))
        yield rows
        rows.engine.dispose()


def _depths(rows: Rows) -> set[Depth]:
    found = rows.read(overview.queue_depths)
    assert len({(d.tenant, d.queue, d.state) for d in found}) == len(found)
    return set(found)


def test_an_empty_queue_is_empty(rows: Rows) -> None:
    """Nothing is counted where nothing is."""
    assert _depths(rows) == set()
    assert rows.read(overview.take, NOW_US, Timers()).agents == {"ready": 0, "draining": 0, "unreachable": 0, "lost": 0}


def test_waiting_tasks_are_counted_over_all_lanes_of_their_queue(rows: Rows) -> None:
    """Their age is that of the longest waiting one of the first in each lane, retried heads notwithstanding."""
    first, second = rows.lane("night", key="1"), rows.lane("night", key="2")
    rows.task(queue="night", lane=first, ready_us=900)
    rows.task(queue="night", lane=first, ready_us=300)
    rows.task(queue="night", lane=second, ready_us=500)
    rows.task(tenant="other", lane=rows.lane(tenant="other"), ready_us=100)
    assert _depths(rows) == {
        Depth("default", "night", "PENDING", 3, 300),
        Depth("other", "default", "PENDING", 1, 100),
    }


def test_every_state_is_counted_once_and_ends_are_not(rows: Rows) -> None:
    """Ages: with an agent since the lease, otherwise since submission."""
    lane = rows.lane()
    rows.task("PENDING", lane=lane, ready_us=5)
    for state in ("BLOCKED", "HELD", "FAILED"):
        rows.task(state, created_us=10)
        rows.task(state, created_us=7)
    rows.task("SCHEDULED", job_state="PENDING", created_us=8)
    for state in ("LEASED", "RUNNING", "PUBLISHING"):
        rows.held(state=state, leased_us=20, created_us=1)
    rows.held(state="PUBLISHING", holder="", leased_us=15)
    for state in ("COMPLETED", "DEAD", "CANCELLED"):
        rows.task(state)
    assert _depths(rows) == {
        Depth("default", "default", state, count, since_us)
        for state, count, since_us in (
            *(("PENDING", 1, 5), ("BLOCKED", 2, 7), ("HELD", 2, 7), ("FAILED", 2, 7), ("SCHEDULED", 1, 8)),
            *(("LEASED", 1, 20), ("RUNNING", 1, 20), ("PUBLISHING", 2, 15)),
        )
    }


def test_a_stopped_attempt_does_not_count_for_the_task_that_moved_on(rows: Rows) -> None:
    """Its agent holds it until it says that nothing is left of it."""
    stale = rows.held(state="RUNNING")
    with rows.engine.begin() as connection:
        connection.execute(
            text("UPDATE tasks SET attempt_id = 'another', state = 'FAILED' WHERE id = :id"), {"id": stale}
        )
    assert {(depth.state, depth.tasks) for depth in _depths(rows)} == {("FAILED", 1)}
    assert rows.read(overview.cores_by_queue) == {("default", "default"): 1}


def test_cores_are_those_that_are_held(rows: Rows) -> None:
    """By queue, over all agents."""
    rows.held(queue="night", cores=4)
    rows.held(queue="night", cores=2, holder="b")
    rows.held(queue="night", cores=8, holder="")
    assert rows.read(overview.cores_by_queue) == {("default", "night"): 6}


def test_what_runs_is_shown_oldest_first(rows: Rows) -> None:
    """With the agent's name, and at most as many as asked for."""
    rows.agent("a")
    late, early = rows.held(leased_us=2, queue="night"), rows.held(leased_us=1, holder="gone")
    found = rows.read(overview.running)
    assert [(row.id, row.holder, row.agent_name) for row in found] == [(early, "gone", None), (late, "a", "A")]
    assert (found[1].queue, found[1].preset, found[1].state, found[1].cores) == ("night", "loudness_v1", "running", 1)
    assert len(rows.read(overview.running, 1)) == 1


def test_only_weights_of_their_own_are_told(rows: Rows) -> None:
    """Every queue that was ever served has a row; the tenant's own row is no queue."""
    for queue, weight in (("", 5.0), ("plain", 1.0), ("night", 3.0)):
        rows.put(shares, tenant="default", queue=queue, weight=weight)
    assert rows.read(overview.weights) == {("default", "night"): 3.0}


def test_two_recent_failures_block_a_pair(rows: Rows) -> None:
    """Until the second newest is old; one failure, or one that is long ago, blocks nobody."""
    block_us = int(BLOCK_S * 1e6)
    rows.agent("a")
    for agent, task, age_us in (
        *(("a", "1", 30), ("a", "2", 20), ("a", "3", 10)),
        *(("b", "1", 10), ("b", "2", block_us)),
        ("c", "1", 10),
    ):
        rows.put(failures, agent_id=agent, class_key="k", task_id=task, at_us=NOW_US - age_us)
    assert rows.read(overview.blocks, NOW_US) == [Blocked("a", "A", "k", ("3", "2", "1"), NOW_US - 20 + block_us)]
    assert rows.read(overview.blocks, NOW_US + block_us) == []


def test_limits_say_what_runs_under_them(rows: Rows) -> None:
    """One of a label by value; counts of limits that are no more are not shown."""
    for key in ("queue:night", "global", "label:show"):
        rows.put(limits, key=key, maximum=4)
    for key, count in (("global", 3), ("label:show=news", 1), ("label:show=a=b", 2), ("label:gone=x", 9)):
        rows.put(limit_counts, key=key, running=count)
    assert rows.read(overview.limits_in_force) == [
        LimitInForce("global", 4, {"": 3}),
        LimitInForce("label:show", 4, {"news": 1, "a=b": 2}),
        LimitInForce("queue:night", 4, {"": 0}),
    ]


def test_agents_are_told_by_what_was_last_heard_of_them(rows: Rows) -> None:
    """A lost one is lost however recently it spoke."""
    for agent, ago_s, columns in (
        *(("a", 1, {}), ("b", 1, {"draining": True}), ("c", 20, {}), ("d", 20, {"draining": True})),
        *(("e", 90, {}), ("f", 1, {"lost": True})),
    ):
        rows.agent(agent, last_seen_us=NOW_US - ago_s * 1_000_000, **columns)
    assert rows.read(overview.agent_states, NOW_US, Timers()) == {
        "ready": 1,
        "draining": 1,
        "unreachable": 2,
        "lost": 2,
    }


def test_counting_the_line_reads_indexes_only() -> None:
    """On SQLite, no query of the overview looks at every task, job or attempt there is."""
    rows = Rows(SqliteDatabase(None))
    plans: list[str] = []

    def watched(connection: Connection) -> None:
        statements: list[tuple[str, Any]] = []
        execute = connection.exec_driver_sql

        @event.listens_for(connection, "before_cursor_execute")
        def _hear(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if statement.startswith("SELECT"):
                statements.append((statement, parameters))

        overview.take(connection, NOW_US, Timers())
        overview.standing(connection, NOW_US)
        for statement, parameters in list(statements):
            plans.extend(row.detail for row in execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    rows.lane()
    rows.read(watched)
    rows.engine.dispose()
    full = [plan for plan in plans if plan.startswith("SCAN") and "USING" not in plan]
    assert not [plan for plan in full if plan.split()[1] in ("tasks", "jobs", "attempts", "waiting")], plans
    assert any("ix_tasks_line" in plan for plan in plans)
