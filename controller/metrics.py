"""What Prometheus is told: counters and histograms by the code that knows, gauges from the store at each scrape.

Every controller has a registry of its own. Gauges tell of the whole database: where several controllers share one,
take the `max` over them, not the sum. Agents tell of themselves to the controller that they are connected to:
of those, the sum.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from operator import itemgetter
from typing import Generic, TypeAlias, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from controller.store.overview import Overview
from mediactl.v1 import fleet_service_pb2
from presets.catalog import Catalog
from presets.reasons import Reason

log = structlog.get_logger()

T = TypeVar("T")

Caches: TypeAlias = Iterable[tuple[str, str, fleet_service_pb2.CacheStatus]]
"""Agents by id and name, with what they said last of their caches of inputs."""

MOST_QUEUES = 100
"""Queues with series of their own; the others share the name `other`. Names come from callers."""
MOST_PRESETS = 100
"""Presets with series of their own."""
MOST_AGENTS = 1000
"""Agents with series of their own; of further ones nothing is told."""
OTHER = "other"
OVERVIEW_S = 2.0
"""How long a scrape waits for the database; without it, it tells the rest."""

_SHARE = 50
_LEAST_S = 0.2

_WAIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_START_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RUN_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
_PRESET_WAIT_S = (0.01, 0.1, 1, 10, 60, 300, 900, 3600, 14400, 86400)
_RPC_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COMMIT_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Recent(Generic[T]):
    """A costly answer, kept for fifty times as long as it took: never more than 2 % of the time goes into it.

    Who asks while it is being found waits for the same one.
    """

    def __init__(self, find: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._value: T | None = None
        self._good_until = float("-inf")
        self._finding: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The answer, at most that old; raises what finding it raised."""
        if self._value is not None and self._clock() < self._good_until:
            return self._value
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._refresh())
            # Everybody who asked may be gone by then.
            self._finding.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._finding)

    async def _refresh(self) -> T:
        begun = self._clock()
        value = await self._find()
        ended = self._clock()
        self._value, self._good_until = value, ended + max(_LEAST_S, _SHARE * (ended - begun))
        return value


class Metrics:
    """One controller's. The methods belong to any thread; `exposition` to the event loop."""

    def __init__(self, overview: Callable[[], Awaitable[Overview]], caches: Callable[[], Caches] = tuple) -> None:
        self._overview = overview
        self._registry = CollectorRegistry()
        registry = self._registry
        ProcessCollector(registry=registry)
        Gauge("mediactl_build_info", "1, labelled with the version.", ("version",), registry=registry).labels(
            version("mediactl")
        ).set(1)
        self._gauges = _Gauges()
        self._presets: set[str] = set()
        registry.register(self._gauges)
        registry.register(_OfCaches(caches))
        self._submitted = Counter("mediactl_jobs_submitted", "Jobs stored.", registry=registry)
        self._jobs_ended = Counter(
            "mediactl_jobs_ended", "Jobs that ended, by state and reason.", ("state", "reason"), registry=registry
        )
        self._attempts_failed = Counter(
            "mediactl_attempts_failed", "Attempts that failed, by reason.", ("reason",), registry=registry
        )
        self._granted = Counter("mediactl_leases_granted", "Leases granted to agents.", registry=registry)
        self._leases_ended = Counter(
            "mediactl_leases_ended",
            "Leases that ended before their attempt did, by how (expired, declined, rejected ...) and reason.",
            ("how", "reason"),
            registry=registry,
        )
        self._queue_wait = Histogram(
            "mediactl_task_queue_wait_seconds",
            "From when a task could first have been leased to its lease.",
            buckets=_WAIT_S,
            registry=registry,
        )
        self._start = Histogram(
            "mediactl_task_start_seconds",
            "From a lease to the agent's word that it began.",
            buckets=_START_S,
            registry=registry,
        )
        self._preset_jobs = Counter(
            "mediactl_preset_jobs_ended",
            "Jobs that ended, by preset, state and reason.",
            ("preset", "state", "reason"),
            registry=registry,
        )
        self._preset_attempts = Counter(
            "mediactl_preset_attempts_ended",
            "Attempts that ended, by preset and reason; of those that completed it is empty.",
            ("preset", "reason"),
            registry=registry,
        )
        self._preset_run = Histogram(
            "mediactl_preset_run_seconds",
            "How long attempts ran that completed, by preset.",
            ("preset",),
            buckets=_RUN_S,
            registry=registry,
        )
        self._preset_wait = Histogram(
            "mediactl_preset_queue_wait_seconds",
            "From when a task could first have been leased to its lease, by preset.",
            ("preset",),
            buckets=_PRESET_WAIT_S,
            registry=registry,
        )
        self._preset_operations = Gauge(
            "mediactl_preset_operation",
            "1 for each operation that a preset uses. Multiplied with a series by preset, it gives one by operation.",
            ("preset", "operation"),
            registry=registry,
        )
        self._preset_cpu = Counter(
            "mediactl_preset_cpu_seconds", "CPU seconds of FFmpeg, by preset.", ("preset",), registry=registry
        )
        self._preset_media = Counter(
            "mediactl_preset_media_seconds",
            "Seconds of media that completed attempts went through, by preset. By mediactl_preset_run_seconds_sum: how "
            "many times faster than real time.",
            ("preset",),
            registry=registry,
        )
        self._log_bytes = Counter("mediactl_log_bytes", "Bytes of tasks' logs stored.", registry=registry)
        self._batch = Histogram(
            "mediactl_database_batch_commands", "Commands in one transaction.", buckets=_BATCH, registry=registry
        )
        self._commit = Histogram(
            "mediactl_database_commit_seconds",
            "Time of one transaction of commands, from its begin to the end of its commit.",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self._rpc = Histogram(
            "mediactl_rpc_seconds",
            "Time of calls with one answer, by method and status code.",
            ("method", "code"),
            buckets=_RPC_S,
            registry=registry,
        )
        self._streams = Counter(
            "mediactl_rpc_streams",
            "Calls with a stream of answers that ended, by method and status code.",
            ("method", "code"),
            registry=registry,
        )
        self._open = Gauge(
            "mediactl_rpc_streams_open", "Calls with a stream of answers open now.", ("method",), registry=registry
        )

    def submitted(self, jobs: int) -> None:
        """Jobs were stored."""
        self._submitted.inc(jobs)

    def job_ended(self, state: str, reason: str) -> None:
        """A job reached COMPLETED, DEAD or CANCELLED; `reason` may be empty."""
        self._jobs_ended.labels(state, _reason(reason)).inc()

    def attempt_failed(self, reason: str) -> None:
        """An attempt failed."""
        self._attempts_failed.labels(_reason(reason)).inc()

    def leased(self, queue_wait_s: float) -> None:
        """A task was leased after waiting so long."""
        self._granted.inc()
        self._queue_wait.observe(queue_wait_s)

    def started(self, lease_to_start_s: float) -> None:
        """An agent began an attempt so long after its lease."""
        self._start.observe(lease_to_start_s)

    def lease_ended(self, how: str, reason: str = "") -> None:
        """A lease ended otherwise than by its attempt's end. `how` is the code's own word, such as `expired`."""
        self._leases_ended.labels(how, _reason(reason)).inc()

    def knows(self, catalog: Catalog) -> None:
        """Which presets there are, and of what they consist."""
        for preset in catalog.presets:
            for operation in preset.operations:
                self._preset_operations.labels(self._preset(preset.full_name), operation).set(1)

    def preset_leased(self, preset: str, queue_wait_s: float) -> None:
        """A task of a job with this preset was leased after waiting so long."""
        self._preset_wait.labels(self._preset(preset)).observe(queue_wait_s)

    def preset_ended(self, preset: str, state: str, reason: str) -> None:
        """A caller's job with this preset ended."""
        self._preset_jobs.labels(self._preset(preset), state, _reason(reason)).inc()

    def preset_used(self, preset: str, reason: str, *, run_s: float, cpu_s: float, media_s: float) -> None:
        """An attempt at a caller's job with this preset ended; without a reason it completed. Durations in seconds."""
        name = self._preset(preset)
        self._preset_attempts.labels(name, _reason(reason)).inc()
        self._preset_cpu.labels(name).inc(cpu_s)
        if not reason:
            self._preset_run.labels(name).observe(run_s)
            self._preset_media.labels(name).inc(media_s)

    def _preset(self, name: str) -> str:
        if name not in self._presets:
            if len(self._presets) >= MOST_PRESETS:
                return OTHER
            self._presets.add(name)
        return name

    def logged(self, size: int) -> None:
        """Bytes of logs were stored."""
        self._log_bytes.inc(size)

    def committed(self, commands: int, seconds: float) -> None:
        """A batch of commands was committed."""
        self._batch.observe(commands)
        self._commit.observe(seconds)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """A call with one answer ended. `method` must be one that exists."""
        self._rpc.labels(method, code).observe(seconds)

    def stream_opened(self, method: str) -> None:
        """A call with a stream of answers began."""
        self._open.labels(method).inc()

    def stream_ended(self, method: str, code: str) -> None:
        """And ended."""
        self._open.labels(method).dec()
        self._streams.labels(method, code).inc()

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All of it and its content type. Where the database doesn't answer, its gauges are left out."""
        try:
            async with asyncio.timeout(OVERVIEW_S):
                self._gauges.overview = await self._overview()
        except Exception as error:  # noqa: BLE001 - whatever ails the database, the rest is told all the more
            log.warning("no gauges of the database", error=str(error) or type(error).__name__)
            self._gauges.overview = None
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _reason(reason: str) -> str:
    return reason if not reason or reason in Reason.__members__ else OTHER


class _Gauges(Collector):
    """The newest overview as metrics."""

    def __init__(self) -> None:
        self.overview: Overview | None = None
        self._known: set[tuple[str, str]] = set()

    def describe(self) -> Iterable[Metric]:
        """Which names it may collect is not known before; nothing else has them."""
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("mediactl_database_up", "1: the database answered this scrape, 0: it did not.")
        up.add_metric((), 0.0 if self.overview is None else 1.0)
        yield up
        if self.overview is not None:
            yield from self._of(self.overview)

    def _of(self, overview: Overview) -> Iterator[Metric]:
        tasks: dict[tuple[str, str, str], int] = {}
        since: dict[tuple[str, str, str], int] = {}
        for depth in overview.depths:
            key = (*self._queue(depth.tenant, depth.queue), depth.state)
            tasks[key] = tasks.get(key, 0) + depth.tasks
            if depth.since_us is not None:
                since[key] = min(since.get(key, depth.since_us), depth.since_us)
        cores: dict[tuple[str, str], int] = {}
        for (tenant, queue), count in overview.cores.items():
            cores[self._queue(tenant, queue)] = cores.get(self._queue(tenant, queue), 0) + count
        # A queue that ran empty says 0 rather than nothing: what is alerted on must not vanish.
        for name in sorted(self._known):
            tasks.setdefault((*name, "PENDING"), 0)
            cores.setdefault(name, 0)
        yield _family(
            "mediactl_queue_tasks",
            "Tasks that have not ended, by queue and state.",
            ("tenant", "queue", "state"),
            tasks.items(),
        )
        yield _family(
            "mediactl_queue_oldest_seconds",
            "How long the first task of a queue has been in a state: PENDING since it was ready, with an agent since "
            "its lease, otherwise since its job was submitted.",
            ("tenant", "queue", "state"),
            ((key, max(0, overview.at_us - at_us) / 1e6) for key, at_us in since.items()),
        )
        yield _family("mediactl_queue_cores", "Cores leased to a queue's tasks.", ("tenant", "queue"), cores.items())
        yield _family(
            "mediactl_agents", "Agents by state.", ("state",), (((state,), n) for state, n in overview.agents.items())
        )
        yield _family(
            "mediactl_limit_tasks_max",
            "How many tasks may run at once, by limit.",
            ("limit",),
            (((limit.key,), limit.maximum) for limit in overview.limits),
        )
        yield _family(
            "mediactl_limit_tasks",
            "How many run, by limit; where it is one of a label, under the value that has most.",
            ("limit",),
            (((limit.key,), max(limit.running.values(), default=0)) for limit in overview.limits),
        )

    def _queue(self, tenant: str, queue: str) -> tuple[str, str]:
        key = (tenant, queue)
        if key not in self._known:
            if len(self._known) >= MOST_QUEUES:
                return (OTHER, OTHER)
            self._known.add(key)
        return key


class _OfCaches(Collector):
    """What agents count themselves: from 0 again when one is started anew, as counters may."""

    def __init__(self, caches: Callable[[], Caches]) -> None:
        self._caches = caches

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        labels = ("agent_id", "agent")
        families: tuple[CounterMetricFamily | GaugeMetricFamily, ...] = (
            CounterMetricFamily("mediactl_agent_cache_hits", "Inputs that were in an agent's cache.", labels=labels),
            CounterMetricFamily("mediactl_agent_cache_misses", "Inputs that had to be fetched.", labels=labels),
            CounterMetricFamily(
                "mediactl_agent_cache_saved_bytes", "Bytes that agents did not have to fetch.", labels=labels
            ),
            GaugeMetricFamily("mediactl_agent_cache_held_bytes", "What an agent's cache holds.", labels=labels),
            GaugeMetricFamily("mediactl_agent_cache_limit_bytes", "What it may hold.", labels=labels),
        )
        for agent_id, name, cache in islice(sorted(self._caches(), key=itemgetter(0)), MOST_AGENTS):
            told = (cache.hits, cache.misses, cache.saved_bytes, cache.held_bytes, cache.limit_bytes)
            for family, value in zip(families, told, strict=True):
                family.add_metric((agent_id, name), value)
        yield from families


def _family(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
