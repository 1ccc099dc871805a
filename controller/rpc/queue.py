"""QueueService."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from controller.core.limits import MOST, key_problem, name_problem
from controller.library import Library
from controller.rpc.messages import timestamp
from controller.sessions import Sessions
from controller.store.limits import SetLimit, SetWeight
from controller.store.overview import Blocked, LimitInForce, Overview, Standing, limits_in_force, standing
from controller.store.queries import Record
from controller.store.statistics import Figures, Members, Spread, statistics
from controller.store.tables import DEFAULT_TENANT
from controller.store.writer import Store
from mediactl.v1 import queue_service_pb2 as pb
from mediactl.v1 import queue_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

_Context = grpc.aio.ServicerContext[Any, Any]

LEAST_WEIGHT = 0.001
"""Virtual times are sums of what was used divided by weights: of far smaller ones they would overflow."""
MOST_WEIGHT = 1000.0
WINDOW_US = 86_400_000_000
"""Of what time statistics are where the caller does not say: a day."""


class QueueServicer(queue_service_pb2_grpc.QueueServiceServicer):
    """Shows and steers the queue. `overview` gives what is costly to count, of lately rather than now."""

    def __init__(
        self, store: Store, sessions: Sessions, library: Library, overview: Callable[[], Awaitable[Overview]]
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._library = library
        self._overview = overview

    async def GetQueue(self, request: pb.GetQueueRequest, context: _Context) -> pb.GetQueueResponse:
        counted = await self._overview()
        now = await self._store.read(standing, counted.at_us)
        return pb.GetQueueResponse(
            queues=_queues(counted, now),
            limits=[_limit(limit) for limit in now.limits],
            running=[self._running(row) for row in now.running],
            blocks=[_block(block) for block in now.blocks],
        )

    async def SetQueue(self, request: pb.SetQueueRequest, context: _Context) -> pb.SetQueueResponse:
        problems = []
        if unfit := name_problem(request.name):
            problems.append(Problem(Reason.INVALID_ARGUMENT, "name", unfit))
        if not LEAST_WEIGHT <= request.weight <= MOST_WEIGHT:
            message = f"a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g} is expected, got {request.weight:g}"
            problems.append(Problem(Reason.INVALID_ARGUMENT, "weight", message))
        if problems:
            raise InvalidRequest(*problems)
        await self._store.execute(SetWeight(DEFAULT_TENANT, request.name, request.weight))
        return pb.SetQueueResponse(
            queue=pb.Queue(tenant=DEFAULT_TENANT, name=request.name, weight=request.weight),
        )

    async def SetLimit(self, request: pb.SetLimitRequest, context: _Context) -> pb.SetLimitResponse:
        problems = []
        if unfit := key_problem(request.key):
            problems.append(Problem(Reason.INVALID_ARGUMENT, "key", unfit))
        maximum = request.maximum if request.HasField("maximum") else None
        if maximum is not None and not 0 <= maximum <= MOST:
            message = f"a whole number from 0 to {MOST} is expected, got {maximum}"
            problems.append(Problem(Reason.INVALID_ARGUMENT, "maximum", message))
        if problems:
            raise InvalidRequest(*problems)
        await self._store.execute(SetLimit(request.key, maximum))
        after = [limit for limit in await self._store.read(limits_in_force) if limit.key == request.key]
        return pb.SetLimitResponse(limit=_limit(after[0]) if after else None)

    async def GetStatistics(self, request: pb.GetStatisticsRequest, context: _Context) -> pb.GetStatisticsResponse:
        window_us = request.window.ToMicroseconds() if request.HasField("window") else WINDOW_US
        if window_us <= 0:
            raise InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "window", "a time above 0 is expected"))
        catalog = await self._library.catalog(DEFAULT_TENANT)
        presets = (catalog.preset(request.preset),) if request.preset else catalog.presets
        operations: dict[str, list[str]] = {}
        for preset in presets:
            for operation in preset.operations:
                operations.setdefault(operation, []).append(preset.full_name)
        since_us = max(0, time.time_ns() // 1000 - window_us)
        return pb.GetStatisticsResponse(
            presets=await self._statistics(since_us, {p.full_name: (p.full_name,) for p in presets}, request.queue),
            operations=await self._statistics(since_us, operations, request.queue),
            since=timestamp(since_us),
        )

    async def _statistics(self, since_us: int, members: Members, queue: str) -> list[pb.Statistics]:
        found = await self._store.read(statistics, DEFAULT_TENANT, since_us, members, queue)
        return [_statistics(name, figures) for name, figures in sorted(found.items())]

    def _running(self, row: Record) -> pb.RunningTask:
        progress = self._sessions.progress(row.job_id)
        return pb.RunningTask(
            job_id=row.job_id,
            task_id=row.task_id,
            attempt_id=row.id,
            agent_id=row.holder,
            agent_name=row.agent_name or "",
            queue=row.queue,
            preset=row.preset,
            state=row.state,
            cores=row.cores,
            lease_time=timestamp(row.leased_us),
            progress=progress.fraction if progress is not None and progress.attempt_id == row.id else 0.0,
        )


def _statistics(name: str, figures: Figures) -> pb.Statistics:
    return pb.Statistics(
        name=name,
        jobs=figures.jobs,
        dead=figures.dead,
        attempts=figures.attempts,
        failed_attempts=figures.failed,
        queue_wait=_spread(figures.queue_wait),
        run_time=_spread(figures.run_time),
        cpu_seconds=figures.cpu_s,
        media_seconds=figures.timed_media_s,
        real_time_factor=figures.timed_media_s / figures.timed_run_s if figures.timed_run_s else 0.0,
    )


def _spread(spread: Spread | None) -> pb.Spread | None:
    if spread is None:
        return None
    message = pb.Spread()
    message.median.FromMicroseconds(spread.median_us)
    message.p95.FromMicroseconds(spread.p95_us)
    return message


def _queues(counted: Overview, now: Standing) -> list[pb.Queue]:
    queues: dict[tuple[str, str], pb.Queue] = {}
    for key in sorted({*now.weights, *counted.cores, *((d.tenant, d.queue) for d in counted.depths)}):
        queues[key] = pb.Queue(
            tenant=key[0], name=key[1], weight=now.weights.get(key, 1.0), cores=counted.cores.get(key, 0)
        )
    for depth in counted.depths:
        queue = queues[depth.tenant, depth.queue]
        queue.depth[depth.state] = depth.tasks
        if depth.state == "PENDING" and depth.since_us is not None:
            queue.oldest_wait.FromMicroseconds(max(0, counted.at_us - depth.since_us))
    return list(queues.values())


def _limit(limit: LimitInForce) -> pb.Limit:
    return pb.Limit(key=limit.key, maximum=limit.maximum, running=limit.running)


def _block(block: Blocked) -> pb.Block:
    return pb.Block(
        agent_id=block.agent_id,
        agent_name=block.agent_name,
        class_key=block.class_key,
        task_ids=block.task_ids,
        end_time=timestamp(block.end_us),
    )
