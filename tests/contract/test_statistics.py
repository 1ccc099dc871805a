"""What came of the jobs that ended lately, on both engines: ends, reasons, waits, run times, speed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.store.databases import open_database
from controller.store.sqlite import SqliteDatabase
from controller.store.statistics import Figures, Spread, statistics
from controller.store.tables import Tenant, attempts, jobs
from tests.fakes.postgres import Postgres
from tests.fakes.rows import Rows

SINCE_US = 1_700_000_000_000_000
S = 1_000_000
EACH = {"loud_v1": ["loud_v1"], "clean_v1": ["clean_v1"]}
TENANT = Tenant("default")


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


class _Ledger:
    """Ended jobs and their attempts."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._number = 0

    def job(self, preset: str, state: str = "COMPLETED", **columns: Any) -> str:
        self._number += 1
        key = f"j{self._number}"
        of_job = {"kind": "media", "queue": "default", "ended_us": SINCE_US + self._number, **columns}
        self._rows.put(jobs, seq=self._number, id=key, preset=preset, state=state, **{"tenant": "default", **of_job})
        return key

    def attempt(self, job: str, state: str = "completed", *, reason: str = "", **columns: Any) -> None:
        self._number += 1
        failure = {"failure": json.dumps({"reason": reason, "message": "it's broken"})} if reason else {}
        row = {"id": f"a{self._number}", "task_id": job, "job_id": job, "state": state, "limit_keys": "[]"}
        self._rows.put(attempts, tenant="default", **row, **failure, **columns)


def test_nothing_ended(rows: Rows) -> None:
    """No names, whatever is asked for."""
    assert rows.read(statistics, TENANT, SINCE_US, EACH) == {}
    assert rows.read(statistics, TENANT, SINCE_US, {}) == {}


def test_jobs_are_counted_by_their_ends_and_attempts_by_their_reasons(rows: Rows) -> None:
    """Of one preset each, and nothing of others, earlier ones, plans, or other tenants."""
    ledger = _Ledger(rows)
    done = ledger.job("loud_v1")
    ledger.attempt(done, "failed", reason="FFMPEG_FAILED", cpu_seconds=1.0)
    ledger.attempt(done, run_us=10 * S, media_us=200 * S, cpu_seconds=4.0)
    dead = ledger.job("loud_v1", "DEAD", reason="INPUT_CORRUPT")
    ledger.attempt(dead, "failed", reason="INPUT_CORRUPT", run_us=1 * S, media_us=7 * S)
    ledger.job("loud_v1", "CANCELLED")
    ledger.attempt(ledger.job("clean_v1"), run_us=2 * S)
    ledger.attempt(ledger.job("clean_v1", ended_us=SINCE_US - 1), run_us=99 * S)
    ledger.job("clean_v1", kind="plan")
    ledger.job("clean_v1", tenant="other")
    ledger.job("unknown_v1")
    found = rows.read(statistics, TENANT, SINCE_US, EACH)
    assert found == {
        "loud_v1": Figures(
            jobs={"COMPLETED": 1, "DEAD": 1, "CANCELLED": 1},
            dead={"INPUT_CORRUPT": 1},
            attempts=3,
            failed={"FFMPEG_FAILED": 1, "INPUT_CORRUPT": 1},
            queue_wait=Spread(0, 0),
            run_time=Spread(10 * S, 10 * S),
            cpu_s=5.0,
            timed_media_s=200.0,
            timed_run_s=10.0,
        ),
        "clean_v1": Figures(jobs={"COMPLETED": 1}, attempts=1, queue_wait=Spread(0, 0), run_time=Spread(2 * S, 2 * S)),
    }


def test_a_job_counts_for_each_operation_of_its_preset(rows: Rows) -> None:
    """So that operations add up to more than there are jobs."""
    ledger = _Ledger(rows)
    for preset in ("loud_v1", "clean_v1", "clean_v1"):
        ledger.attempt(ledger.job(preset))
    members = {"loudness": ["loud_v1", "clean_v1"], "denoise": ["clean_v1"], "duck": []}
    found = rows.read(statistics, TENANT, SINCE_US, members)
    assert {name: (figures.jobs, figures.attempts) for name, figures in found.items()} == {
        "loudness": ({"COMPLETED": 3}, 3),
        "denoise": ({"COMPLETED": 2}, 2),
    }


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
def test_percentiles_are_exact(rows: Rows, count: int) -> None:
    """By rank: of a hundred the fiftieth and the ninety-fifth."""
    ledger = _Ledger(rows)
    for number in range(count, 0, -1):
        ledger.attempt(ledger.job("loud_v1"), queue_wait_us=number, run_us=number * 10)
    [figures] = rows.read(statistics, TENANT, SINCE_US, EACH).values()
    median, p95 = -(-count * 50 // 100), -(-count * 95 // 100)
    assert figures.queue_wait == Spread(median, p95)
    assert figures.run_time == Spread(median * 10, p95 * 10)


def test_one_queue(rows: Rows) -> None:
    """Others are left out."""
    ledger = _Ledger(rows)
    ledger.job("loud_v1", queue="night")
    ledger.job("loud_v1")
    [figures] = rows.read(statistics, TENANT, SINCE_US, EACH, "night").values()
    assert figures.jobs == {"COMPLETED": 1}
