"""What the queue is measured against: pgqueuer and procrastinate, by their documented APIs, on a PostgreSQL.

pgqueuer runs on asyncpg where that is installed, else on psycopg. The throughput is about the same, but its psycopg
driver listens and dequeues on one connection, which an idle `notifies()` keeps for up to a second: latencies are only
worth comparing on asyncpg. `PGQUEUER` says which it was.

pgqueuer's consumer is a process of its own, as the controller and the fleet are:
`python -m bench.baselines URL JOBS` prints `ready`, then `handled` once it has run that many jobs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
import uvloop
from pgqueuer import AsyncpgDriver, Job, PgQueuer, PsycopgDriver, Queries
from pgqueuer.ports.driver import Driver

from bench.serving import conninfo

BATCH = 100
PAYLOAD = b"x" * 120
"""About as many bytes as one of our specs."""
READY_S = 30.0

_asyncpg: Any = importlib.import_module("asyncpg") if importlib.util.find_spec("asyncpg") else None
PGQUEUER = "pgqueuer (asyncpg)" if _asyncpg else "pgqueuer (psycopg)"


def _consumer(driver: Driver, ran: Callable[[], None]) -> PgQueuer:
    queue = PgQueuer(driver)

    @queue.entrypoint("noop")
    async def noop(_: Job) -> None:
        ran()

    return queue


@asynccontextmanager
async def _driver(url: str) -> AsyncIterator[Driver]:
    if _asyncpg is not None:
        connection = await _asyncpg.connect(conninfo(url))
        try:
            yield AsyncpgDriver(connection)
        finally:
            await connection.close()
    else:
        async with await psycopg.AsyncConnection.connect(conninfo(url), autocommit=True) as connection:
            yield PsycopgDriver(connection)


async def pgqueuer_rate(url: str, *, jobs: int, batch: int, producers: int, timeout_s: float) -> float:
    """Jobs a second from the first enqueue until the last one is logged as done: `producers` connections, each
    enqueueing `batch` jobs a call, and one consumer that takes 100 at once."""
    async with AsyncExitStack() as stack:
        drivers = [await stack.enter_async_context(_driver(url)) for _ in range(producers)]
        watcher = await stack.enter_async_context(_driver(url))
        await Queries(watcher).install()
        handled = await stack.enter_async_context(_consuming(url, jobs))
        left = iter(range(jobs // batch))
        begun = time.monotonic()

        async def produce(driver: Driver) -> None:
            queries = Queries(driver)
            for _ in left:
                if batch == 1:
                    await queries.enqueue("noop", PAYLOAD)
                else:
                    await queries.enqueue(["noop"] * batch, [PAYLOAD] * batch, [0] * batch)

        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(produce(driver) for driver in drivers))
            await handled.readline()
            while await watcher.fetch("SELECT 1 FROM pgqueuer LIMIT 1"):  # noqa: ASYNC110 - the database wakes nobody
                await asyncio.sleep(0.005)
        return jobs / (time.monotonic() - begun)


@asynccontextmanager
async def _consuming(url: str, jobs: int) -> AsyncIterator[asyncio.StreamReader]:
    """A consumer that is ready; a line comes when it has handled so many jobs."""
    consumer = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.baselines", url, str(jobs)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    if consumer.stdout is None:
        raise RuntimeError("no pipe")
    try:
        async with asyncio.timeout(READY_S):
            await consumer.stdout.readline()
        yield consumer.stdout
    finally:
        with suppress(ProcessLookupError):
            consumer.terminate()
        await consumer.wait()


async def pgqueuer_latencies(url: str, *, samples: int, pause_s: float) -> list[float]:
    """Seconds from the call that enqueues to the start of the job, on an idle queue."""
    latch = _Latch()
    async with _driver(url) as producing, _driver(url) as consuming:
        queries = Queries(producing)
        await queries.install()
        queue = _consumer(consuming, latch.start)
        running = asyncio.create_task(queue.run(dequeue_timeout=timedelta(seconds=30), batch_size=10))
        try:
            return await latch.measure(lambda: queries.enqueue("noop", PAYLOAD), samples, pause_s)
        finally:
            queue.shutdown.set()
            await asyncio.gather(running, return_exceptions=True)


async def procrastinate_latencies(url: str, *, samples: int, pause_s: float) -> list[float]:
    """Seconds from the call that defers to the start of the task, on an idle queue."""
    latch = _Latch()
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo(url)))

    @app.task(name="noop")
    async def noop(payload: str) -> None:
        latch.start()

    async with app.open_async(), _worker(app):
        return await latch.measure(lambda: noop.defer_async(payload=PAYLOAD.decode()), samples, pause_s)


@asynccontextmanager
async def _worker(app: procrastinate.App) -> AsyncIterator[None]:
    await app.schema_manager.apply_schema_async()
    working = asyncio.create_task(app.run_worker_async(install_signal_handlers=False))
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


class _Latch:
    """One job at a time: when it was asked for, when it started."""

    def __init__(self) -> None:
        self._started = asyncio.Event()
        self._at = 0.0

    def start(self) -> None:
        self._at = time.monotonic()
        self._started.set()

    async def measure(self, ask: Callable[[], Any], samples: int, pause_s: float, warm_up: int = 20) -> list[float]:
        taken = []
        for number in range(-warm_up, samples):
            self._started.clear()
            asked = time.monotonic()
            await ask()
            async with asyncio.timeout(READY_S):
                await self._started.wait()
            if number >= 0:
                taken.append(self._at - asked)
            await asyncio.sleep(pause_s)
        return taken


async def _consume(url: str, jobs: int) -> None:
    ran = 0

    def count() -> None:
        nonlocal ran
        ran += 1
        if ran == jobs:
            print("handled", flush=True)

    async with _driver(url) as driver:
        queue = _consumer(driver, count)
        print("ready", flush=True)
        await queue.run(dequeue_timeout=timedelta(seconds=1), batch_size=BATCH)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_consume(sys.argv[1], int(sys.argv[2])))
