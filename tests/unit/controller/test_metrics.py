"""What Prometheus is told: names, counts, a bounded number of series, and something even without a database."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.metrics import MOST_AGENTS, MOST_QUEUES, Metrics, Recent
from controller.store.overview import Depth, LimitInForce, Overview
from mediactl.v1.fleet_service_pb2 import CacheStatus

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

SOME = Overview(
    at_us=10_000_000,
    depths=(
        Depth("default", "night", "PENDING", 7, 4_000_000),
        Depth("default", "night", "RUNNING", 2, 9_500_000),
        Depth("default", "day", "HELD", 1, None),
    ),
    cores={("default", "night"): 6},
    agents={"ready": 3, "lost": 1},
    limits=(LimitInForce("global", 8, {"": 2}), LimitInForce("label:show", 2, {"news": 1, "film": 2})),
)


def _always(overview: Overview) -> Callable[[], Awaitable[Overview]]:
    async def ask() -> Overview:
        return overview

    return ask


async def _scrape(metrics: Metrics) -> Samples:
    body, content_type = await metrics.exposition()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


async def test_what_the_code_tells_is_counted() -> None:
    """Every method moves the metric that bears its name."""
    metrics = Metrics(_always(SOME))
    metrics.submitted(100)
    metrics.leased(0.003)
    metrics.leased(40.0)
    metrics.started(0.02)
    metrics.lease_ended("declined")
    metrics.lease_ended("expired", "AGENT_LOST")
    metrics.job_ended("DEAD", "INPUT_CORRUPT")
    metrics.job_ended("COMPLETED", "")
    metrics.attempt_failed("FFMPEG_FAILED")
    metrics.logged(2048)
    metrics.committed(17, 0.004)
    metrics.rpc("mediactl.v1.JobService/GetJob", "OK", 0.001)
    told = await _scrape(metrics)
    for name, labels, value in (
        ("mediactl_jobs_submitted_total", {}, 100),
        ("mediactl_leases_granted_total", {}, 2),
        ("mediactl_task_queue_wait_seconds_count", {}, 2),
        ("mediactl_task_queue_wait_seconds_bucket", {"le": "0.005"}, 1),
        ("mediactl_task_start_seconds_sum", {}, 0.02),
        ("mediactl_leases_ended_total", {"how": "declined", "reason": ""}, 1),
        ("mediactl_leases_ended_total", {"how": "expired", "reason": "AGENT_LOST"}, 1),
        ("mediactl_jobs_ended_total", {"state": "DEAD", "reason": "INPUT_CORRUPT"}, 1),
        ("mediactl_jobs_ended_total", {"state": "COMPLETED", "reason": ""}, 1),
        ("mediactl_attempts_failed_total", {"reason": "FFMPEG_FAILED"}, 1),
        ("mediactl_log_bytes_total", {}, 2048),
        ("mediactl_database_batch_commands_sum", {}, 17),
        ("mediactl_database_commit_seconds_sum", {}, 0.004),
        ("mediactl_rpc_seconds_count", {"method": "mediactl.v1.JobService/GetJob", "code": "OK"}, 1),
    ):
        assert _value(told, name, **labels) == value, name


async def test_streams_are_counted_while_open_and_when_they_end() -> None:
    """How long somebody watched says nothing about the controller."""
    metrics = Metrics(_always(SOME))
    method = "mediactl.v1.JobService/WatchJobs"
    metrics.stream_opened(method)
    metrics.stream_opened(method)
    metrics.stream_ended(method, "CANCELLED")
    told = await _scrape(metrics)
    assert _value(told, "mediactl_rpc_streams_open", method=method) == 1
    assert _value(told, "mediactl_rpc_streams_total", method=method, code="CANCELLED") == 1


async def test_gauges_are_those_of_the_store() -> None:
    """Depth and age by queue and state, cores, agents, limits."""
    told = await _scrape(Metrics(_always(SOME)))
    night = {"tenant": "default", "queue": "night"}
    assert _value(told, "mediactl_queue_tasks", **night, state="PENDING") == 7
    assert _value(told, "mediactl_queue_tasks", tenant="default", queue="day", state="HELD") == 1
    assert _value(told, "mediactl_queue_oldest_seconds", **night, state="PENDING") == 6
    assert _value(told, "mediactl_queue_oldest_seconds", **night, state="RUNNING") == 0.5
    assert _value(told, "mediactl_queue_cores", **night) == 6
    assert _value(told, "mediactl_agents", state="ready") == 3
    assert _value(told, "mediactl_limit_tasks_max", limit="global") == 8
    assert _value(told, "mediactl_limit_tasks", limit="label:show") == 2
    assert _value(told, "mediactl_database_up") == 1


async def test_agents_tell_of_their_caches() -> None:
    """Under the id, for two agents may have one name; no more agents than are bounded, and without a database too."""
    one = CacheStatus(limit_bytes=100, held_bytes=60, hits=5, misses=2, saved_bytes=300)

    async def ask() -> Overview:
        raise OSError("gone")

    told = await _scrape(Metrics(ask, lambda: [("a1", "studio", one), ("a2", "studio", CacheStatus(limit_bytes=7))]))
    studio = {"agent_id": "a1", "agent": "studio"}
    for name, value in (
        ("hits_total", 5),
        ("misses_total", 2),
        ("saved_bytes_total", 300),
        ("held_bytes", 60),
        ("limit_bytes", 100),
    ):
        assert _value(told, f"mediactl_agent_cache_{name}", **studio) == value, name
    assert _value(told, "mediactl_agent_cache_limit_bytes", agent_id="a2", agent="studio") == 7
    many = Metrics(ask, lambda: [(f"a{number}", "x", one) for number in range(MOST_AGENTS + 1)])
    assert sum(name == "mediactl_agent_cache_held_bytes" for name, _ in await _scrape(many)) == MOST_AGENTS


async def test_a_queue_that_ran_empty_says_so() -> None:
    """What somebody has an alert on must not vanish."""
    overviews = [SOME, Overview(at_us=11_000_000)]

    async def ask() -> Overview:
        return overviews.pop(0)

    metrics = Metrics(ask)
    await _scrape(metrics)
    told = await _scrape(metrics)
    assert _value(told, "mediactl_queue_tasks", tenant="default", queue="night", state="PENDING") == 0
    assert _value(told, "mediactl_queue_cores", tenant="default", queue="night") == 0


async def test_no_more_queues_are_told_apart_than_are_bounded() -> None:
    """Callers choose the names; the rest is summed, and its age is the oldest."""
    depths = tuple(Depth("default", f"q{n:04}", "PENDING", 1, n) for n in range(MOST_QUEUES + 50))
    told = await _scrape(Metrics(_always(Overview(at_us=1_000_000, depths=depths))))
    assert sum(name == "mediactl_queue_tasks" for name, _ in told) == MOST_QUEUES + 1
    assert _value(told, "mediactl_queue_tasks", tenant="other", queue="other", state="PENDING") == 50


async def test_reasons_that_nobody_knows_share_a_name() -> None:
    """What agents of other versions send must not make series without end."""
    metrics = Metrics(_always(SOME))
    for number in range(3):
        metrics.attempt_failed(f"NEW_{number}")
    assert _value(await _scrape(metrics), "mediactl_attempts_failed_total", reason="other") == 3


async def test_without_the_database_the_rest_is_told() -> None:
    """Old gauges are not shown as if they were new ones."""
    answers: list[Overview | Exception] = [SOME, OSError("gone")]

    async def ask() -> Overview:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    metrics = Metrics(ask)
    metrics.submitted(1)
    await _scrape(metrics)
    told = await _scrape(metrics)
    assert _value(told, "mediactl_database_up") == 0
    assert _value(told, "mediactl_jobs_submitted_total") == 1
    assert not [name for name, _ in told if name == "mediactl_queue_tasks"]


async def test_two_controllers_in_one_process_share_nothing() -> None:
    """There is no global registry."""
    one, other = Metrics(_always(SOME)), Metrics(_always(SOME))
    one.submitted(5)
    assert _value(await _scrape(other), "mediactl_jobs_submitted_total") == 0


async def test_every_metric_follows_the_conventions() -> None:
    """Base units, a help text, and the program's name in front."""
    body, _ = await Metrics(_always(SOME), lambda: [("a1", "studio", CacheStatus())]).exposition()
    for family in text_string_to_metric_families(body.decode()):
        assert family.name.startswith(("mediactl_", "process_")), family.name
        assert family.documentation.endswith("."), family.name


# Recent


class _Costly:
    """An answer that takes a given time on a clock of its own."""

    def __init__(self, cost_s: float) -> None:
        self.now = 0.0
        self.asked = 0
        self._cost_s = cost_s

    async def __call__(self) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        self.now += self._cost_s
        return self.asked


async def test_a_costly_answer_is_kept_in_proportion() -> None:
    """A tenth of a second of counting serves for five."""
    costly = _Costly(0.1)
    recent = Recent(costly, clock=lambda: costly.now)
    assert await recent.get() == 1
    costly.now += 4.9
    assert await recent.get() == 1
    costly.now += 0.2
    assert await recent.get() == 2


async def test_those_who_ask_together_ask_once() -> None:
    """And whoever leaves takes nothing from the others."""
    costly = _Costly(0.0)
    recent = Recent(costly, clock=lambda: costly.now)
    asking = [asyncio.create_task(recent.get()) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    assert await asyncio.gather(*asking[1:]) == [1] * 4


async def test_a_failure_is_not_kept() -> None:
    """The next one asks again."""
    answers: list[int | Exception] = [OSError("gone"), 7]

    async def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    recent = Recent(ask)
    with pytest.raises(OSError, match="gone"):
        await recent.get()
    assert await recent.get() == 7
