"""Weights and limits, on both engines: after every change the counts say what runs, whatever they said before."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from controller.store.databases import open_database
from controller.store.limits import Drift, ReconcileLimits, SetLimit, SetWeight, current_limits
from controller.store.sqlite import SqliteDatabase
from controller.store.tables import DEFAULT_TENANT, attempts, lanes, limit_counts, shares, tasks
from controller.store.topics import DISPATCH
from tests.fakes.postgres import Postgres
from tests.fakes.rows import Rows

NIGHT: dict[str, Any] = {"queue": "night", "labels": {"show": "news"}}


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


def _counts(connection: Connection) -> dict[str, int]:
    return {row.key: row.running for row in connection.execute(select(limit_counts))}


def _keys(connection: Connection) -> dict[str, list[str]]:
    return {row.id: json.loads(row.limit_keys) for row in connection.execute(select(attempts))}


def _lane_keys(connection: Connection) -> list[str]:
    """Of the one task's lane."""
    [text] = connection.scalars(select(lanes.c.limit_keys).join(tasks, tasks.c.lane == lanes.c.key))
    return list(json.loads(text))


def _share(connection: Connection, queue: str) -> Any:
    return connection.execute(select(shares).where(shares.c.queue == queue)).one()


def _until_blocked(rows: Rows) -> None:
    for _ in range(1000):
        if rows.read(lambda connection: connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))):
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


# Limits


def test_a_new_limit_counts_what_runs_already(rows: Rows) -> None:
    """Held attempts get its key, ended ones keep what they have."""
    inside, outside = rows.held(**NIGHT), rows.held(queue="day")
    ended = rows.held(holder="", **NIGHT)
    assert DISPATCH in rows.changes(SetLimit("queue:night", 1))[1]
    assert rows.read(_keys) == {inside: ["queue:night"], outside: [], ended: []}
    assert rows.read(_counts) == {"queue:night": 1}
    assert rows.read(current_limits) == {"queue:night": 1}


def test_waiting_tasks_stand_under_a_limit_as_soon_as_it_is_set(rows: Rows) -> None:
    """And under none as soon as it is gone."""
    rows.task(lane="none", **NIGHT)
    rows.do(SetLimit("label:show", 1))
    assert rows.read(_lane_keys) == ["label:show=news"]
    rows.do(SetLimit("label:show", None))
    assert rows.read(_lane_keys) == []


def test_a_limit_of_a_label_counts_by_value(rows: Rows) -> None:
    """Jobs without the label don't count."""
    for value in ("news", "news", "film"):
        rows.held(labels={"show": value})
    rows.held()
    rows.do(SetLimit("label:show", 5))
    assert rows.read(_counts) == {"label:show=news": 2, "label:show=film": 1}


def test_every_kind_of_limit_counts_its_own(rows: Rows) -> None:
    """Global, tenant, queue, preset and label together."""
    rows.held(**NIGHT)
    rows.held(tenant="other", preset="duck_v2")
    for key in ("global", "tenant:other", "queue:night", "preset:duck_v2", "label:show"):
        rows.do(SetLimit(key, 3))
    assert rows.read(_counts) == {
        "global": 2,
        "tenant:other": 1,
        "queue:night": 1,
        "preset:duck_v2": 1,
        "label:show=news": 1,
    }


def test_a_limit_that_is_gone_counts_nothing(rows: Rows) -> None:
    """Neither in the attempts nor in the counts; other limits stay as they were."""
    held = rows.held(**NIGHT)
    rows.do(SetLimit("global", 9))
    rows.do(SetLimit("label:show", 9))
    rows.do(SetLimit("label:show", None))
    assert rows.read(_keys) == {held: ["global"]}
    assert rows.read(_counts) == {"global": 1}
    assert rows.read(current_limits) == {"global": 9}


def test_another_maximum_leaves_the_lanes_alone(rows: Rows) -> None:
    """Only who may be granted changes."""
    rows.do(SetLimit("global", 9))
    assert rows.changes(SetLimit("global", 0))[1] == {DISPATCH}
    assert rows.read(current_limits) == {"global": 0}


def test_removing_what_was_never_set_changes_no_lane(rows: Rows) -> None:
    """It is harmless to ask twice."""
    assert rows.changes(SetLimit("global", None))[1] == {DISPATCH}


# Drift


def test_what_drifted_is_corrected_and_told(rows: Rows) -> None:
    """Counts that are too high, too low, missing, or of values that nothing has any more."""
    for _ in range(3):
        rows.held(**NIGHT)
    rows.do(SetLimit("queue:night", 5))
    rows.do(SetLimit("label:show", 5))
    rows.do(SetLimit("global", 5))
    with rows.engine.begin() as connection:
        connection.execute(update(limit_counts).where(limit_counts.c.key == "queue:night").values(running=7))
        connection.execute(update(limit_counts).where(limit_counts.c.key == "global").values(running=-1))
        connection.execute(delete(limit_counts).where(limit_counts.c.key == "label:show=news"))
        connection.execute(insert(limit_counts).values(key="label:show=film", running=2))
    drifted, changed = rows.changes(ReconcileLimits())
    assert drifted == (
        Drift("global", -1, 3),
        Drift("label:show=film", 2, 0),
        Drift("label:show=news", 0, 3),
        Drift("queue:night", 7, 3),
    )
    assert DISPATCH in changed
    assert rows.read(_counts) == {"global": 3, "queue:night": 3, "label:show=news": 3}
    assert rows.changes(ReconcileLimits()) == ((), set())


def test_a_grant_out_of_a_lane_of_before_is_counted_too(rows: Rows) -> None:
    """Tasks may be leased between the setting of a limit and the moving of the line into new lanes."""
    rows.do(SetLimit("queue:night", 5))
    late = rows.held(**NIGHT)
    assert rows.do(ReconcileLimits()) == (Drift("queue:night", 0, 1),)
    assert rows.read(_keys) == {late: ["queue:night"]}


def test_an_end_during_a_recount_is_seen_whole_or_not_at_all(postgres: Postgres) -> None:
    """Another controller ended an attempt and has not committed: the recount waits for it and corrects nothing."""
    with postgres.database() as url:
        rows = Rows(open_database(url))
        first = rows.held()
        rows.held()
        rows.do(SetLimit("global", 5))
        found: list[tuple[Drift, ...]] = []
        with rows.engine.connect() as other, other.begin():
            other.execute(update(attempts).where(attempts.c.id == first).values(holder=""))
            other.execute(update(limit_counts).values(running=limit_counts.c.running - 1))
            recount = threading.Thread(target=lambda: found.append(rows.do(ReconcileLimits())))
            recount.start()
            _until_blocked(rows)
        recount.join(10)
        assert found == [()]
        assert rows.read(_counts) == {"global": 1}
        rows.engine.dispose()


# Weights


def test_a_weight_is_set_and_changed(rows: Rows) -> None:
    """What the queue has used stays."""
    rows.put(shares, tenant="default", queue="night", weight=1.0, passed=40.0, active=True)
    _, changed = rows.changes(SetWeight(DEFAULT_TENANT, "night", 3.0))
    assert changed == {DISPATCH}
    assert rows.read(_share, "night")[:6] == ("default", "night", 3.0, 40.0, 0.0, True)


def test_a_new_queue_enters_at_the_current_virtual_time(rows: Rows) -> None:
    """It is not owed the time before it existed."""
    rows.put(shares, tenant="default", queue="", weight=1.0, virtual_time=123.0)
    rows.do(SetWeight(DEFAULT_TENANT, "night", 0.5))
    assert rows.read(_share, "night")[:6] == ("default", "night", 0.5, 123.0, 0.0, False)


def test_a_queue_of_a_tenant_that_nobody_served_enters_at_the_beginning(rows: Rows) -> None:
    """There is no row of the tenant then."""
    rows.do(SetWeight(DEFAULT_TENANT, "night", 2.0))
    assert rows.read(_share, "night").passed == 0.0
