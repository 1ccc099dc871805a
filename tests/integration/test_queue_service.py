"""QueueService on a real store: what it shows of a queue, and what it lets people set."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration

from controller.core.liveness import Timers
from controller.core.retries import BLOCK_S
from controller.library import Library
from controller.metrics import Recent
from controller.rpc.queue import QueueServicer
from controller.sessions import Sessions
from controller.store.databases import open_database
from controller.store.overview import take
from controller.store.tables import attempts, failures, jobs
from controller.store.writer import Store
from mediactl.v1 import job_pb2
from mediactl.v1 import queue_service_pb2 as pb
from presets.problems import InvalidRequest
from tests.fakes.rows import Rows

NOW_US = 1_700_000_000_000_000
CONTEXT: Any = None


class _Progress:
    """All that the service wants of the sessions."""

    def __init__(self) -> None:
        self.known: dict[str, job_pb2.Progress] = {}

    def progress(self, job_id: str) -> job_pb2.Progress | None:
        return self.known.get(job_id)


@asynccontextmanager
async def _service(folder: Path) -> AsyncIterator[tuple[QueueServicer, Rows, _Progress]]:
    database = open_database(f"sqlite:///{folder / 'queue.db'}")
    rows, progress, store = Rows(database), _Progress(), Store(database)
    store.open()
    overview = Recent(partial(store.read, take, NOW_US, Timers()))
    try:
        yield QueueServicer(store, cast(Sessions, progress), Library(store), overview.get), rows, progress
    finally:
        await store.close()
        rows.engine.dispose()


async def test_a_queue_is_shown_whole(tmp_path: Path) -> None:
    """Depth, age, cores and weight; limits; what runs; who is blocked."""
    async with _service(tmp_path) as (service, rows, progress):
        rows.agent("a")
        rows.task(queue="night", lane=rows.lane("night"), ready_us=NOW_US - 90_000_000)
        fresh = rows.held(queue="night", cores=4, leased_us=NOW_US - 20)
        stale = rows.held(queue="day", leased_us=NOW_US - 10)
        progress.known[fresh] = job_pb2.Progress(job_id=fresh, attempt_id=fresh, fraction=0.25)
        progress.known[stale] = job_pb2.Progress(job_id=stale, attempt_id="a former one", fraction=0.9)
        for task in ("1", "2"):
            rows.put(failures, agent_id="a", class_key="[]", task_id=task, at_us=NOW_US - 5)
        await service.SetQueue(pb.SetQueueRequest(name="idle", weight=3.0), CONTEXT)
        await service.SetLimit(pb.SetLimitRequest(key="queue:night", maximum=7), CONTEXT)
        shown = await service.GetQueue(pb.GetQueueRequest(), CONTEXT)
        assert [(q.name, q.weight, dict(q.depth), q.oldest_wait.seconds, q.cores) for q in shown.queues] == [
            ("day", 1.0, {"RUNNING": 1}, 0, 1),
            ("idle", 3.0, {}, 0, 0),
            ("night", 1.0, {"PENDING": 1, "RUNNING": 1}, 90, 4),
        ]
        assert [q.HasField("oldest_wait") for q in shown.queues] == [False, False, True]
        assert [(x.key, x.maximum, dict(x.running)) for x in shown.limits] == [("queue:night", 7, {"": 1})]
        assert [(r.job_id, r.agent_name, r.progress, r.state) for r in shown.running] == [
            (fresh, "A", 0.25, "running"),
            (stale, "A", 0.0, "running"),
        ]
        [block] = shown.blocks
        assert (block.agent_name, sorted(block.task_ids)) == ("A", ["1", "2"])
        assert block.end_time.ToMicroseconds() == NOW_US - 5 + int(BLOCK_S * 1e6)


async def test_what_was_set_is_answered(tmp_path: Path) -> None:
    """A limit that was removed is not there any more, and asking twice is harmless."""
    async with _service(tmp_path) as (service, _, _):
        queue = (await service.SetQueue(pb.SetQueueRequest(name="night", weight=0.5), CONTEXT)).queue
        assert (queue.tenant, queue.name, queue.weight) == ("default", "night", 0.5)
        nothing = (await service.SetLimit(pb.SetLimitRequest(key="label:show", maximum=0), CONTEXT)).limit
        assert (nothing.key, nothing.maximum, dict(nothing.running)) == ("label:show", 0, {})
        for _ in range(2):
            assert not (await service.SetLimit(pb.SetLimitRequest(key="label:show"), CONTEXT)).HasField("limit")


@pytest.mark.parametrize(
    ("name", "weight", "fields"),
    [
        ("", 1.0, ["name"]),
        ("night", 0.0, ["weight"]),
        ("night", -1.0, ["weight"]),
        ("night", 1000.5, ["weight"]),
        ("night", float("nan"), ["weight"]),
        ("night", float("inf"), ["weight"]),
        ("a\0b", 0.0, ["name", "weight"]),
    ],
)
async def test_weights_that_mean_nothing_are_refused(
    tmp_path: Path, name: str, weight: float, fields: list[str]
) -> None:
    """Every problem at once, by its field."""
    async with _service(tmp_path) as (service, _, _):
        with pytest.raises(InvalidRequest) as refused:
            await service.SetQueue(pb.SetQueueRequest(name=name, weight=weight), CONTEXT)
        assert [problem.field for problem in refused.value.problems] == fields


@pytest.mark.parametrize(
    ("key", "maximum", "fields"),
    [
        ("", 1, ["key"]),
        ("job:x", 1, ["key"]),
        ("label:show=news", None, ["key"]),
        ("global", -1, ["maximum"]),
        ("global", 1_000_001, ["maximum"]),
        ("preset:loudness", -1, ["key", "maximum"]),
    ],
)
async def test_limits_that_mean_nothing_are_refused(
    tmp_path: Path, key: str, maximum: int | None, fields: list[str]
) -> None:
    """Every problem at once, by its field."""
    async with _service(tmp_path) as (service, _, _):
        with pytest.raises(InvalidRequest) as refused:
            await service.SetLimit(pb.SetLimitRequest(key=key, maximum=maximum), CONTEXT)
        assert [problem.field for problem in refused.value.problems] == fields


async def test_statistics_are_by_preset_and_by_each_of_its_operations(tmp_path: Path) -> None:
    """Of the window asked for, a day otherwise; one preset by its short name, and a fixed reason for an unknown one."""
    async with _service(tmp_path) as (service, rows, _):
        now_us = time.time_ns() // 1000
        for number, (preset, age_s) in enumerate([("loudness_podcast_v1", 60), ("mono_v1", 7200)]):
            ended_us = now_us - age_s * 1_000_000
            job = {"seq": number, "tenant": "default", "id": f"j{number}", "state": "COMPLETED", "preset": preset}
            rows.put(jobs, **job, kind="media", queue="default", ended_us=ended_us)
            attempt = {"tenant": "default", "id": f"a{number}", "job_id": f"j{number}", "state": "completed"}
            rows.put(attempts, **attempt, run_us=2_000_000, media_us=90_000_000, limit_keys="[]")
        whole = await service.GetStatistics(pb.GetStatisticsRequest(), CONTEXT)
        assert [(each.name, dict(each.jobs)) for each in whole.presets] == [
            ("loudness_podcast_v1", {"COMPLETED": 1}),
            ("mono_v1", {"COMPLETED": 1}),
        ]
        assert whole.presets[0].real_time_factor == 45
        operations = {each.name: each.attempts for each in whole.operations}
        assert operations["loudness"] == 1
        assert operations["conform"] == 2
        lately = await service.GetStatistics(pb.GetStatisticsRequest(window=Duration(seconds=3600)), CONTEXT)
        assert [each.name for each in lately.presets] == ["loudness_podcast_v1"]
        one = await service.GetStatistics(pb.GetStatisticsRequest(preset="mono"), CONTEXT)
        assert [each.name for each in one.presets] == ["mono_v1"]
        for wrong in (pb.GetStatisticsRequest(preset="polka"), pb.GetStatisticsRequest(window=Duration())):
            with pytest.raises(InvalidRequest):
                await service.GetStatistics(wrong, CONTEXT)
