"""What is asked of a controller by a benchmark: jobs, submitted and brought to their ends."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.serving import Controller, Fleet
from mediactl import AsyncClient
from mediactl.v1 import job_pb2

ROOT = "/media"
"""The media root of simulated agents. Nothing of it exists."""

_numbers = itertools.count()

UNFINISHED = (
    job_pb2.JOB_STATE_BLOCKED,
    job_pb2.JOB_STATE_HELD,
    job_pb2.JOB_STATE_PENDING,
    job_pb2.JOB_STATE_PROCESSING,
    job_pb2.JOB_STATE_FAILED,
    job_pb2.JOB_STATE_DEAD,
    job_pb2.JOB_STATE_CANCELLED,
)
"""All that a job of a benchmark must not be at its end."""


def spec(**require: str) -> job_pb2.JobSpec:
    """A small job: one file in, one file out. `require` are labels of the agent that may run it."""
    number = next(_numbers)
    return job_pb2.JobSpec(
        inputs=[job_pb2.Input(uri=f"file://{ROOT}/in/{number % 1000}.wav")],
        preset="convert",
        outputs=[job_pb2.Output(uri=f"file://{ROOT}/out/{number}.m4a")],
        require=require,
    )


async def submit(client: AsyncClient, *, jobs: int, batch: int, callers: int, require: dict[str, str]) -> float:
    """Store jobs: `callers` at once, each `batch` jobs a call. Returns the seconds it took."""
    left: Iterator[int] = iter(range(jobs // batch))

    async def call() -> None:
        for _ in left:
            await client.submit_all([spec(**require) for _ in range(batch)])

    begun = time.monotonic()
    await asyncio.gather(*(call() for _ in range(callers)))
    return time.monotonic() - begun


@dataclass(frozen=True, slots=True)
class Ran:
    """Rates are jobs a second, costs microseconds of CPU a job. `whole` is False where time ran out; the rate is that
    of the jobs that were done."""

    submit_rate: float
    rate: float
    controller_us: float
    fleet_us: float
    submitter_us: float
    whole: bool

    @property
    def note(self) -> str:
        """For a person."""
        cut = "" if self.whole else "TIME RAN OUT; "
        return (
            f"{cut}submitted at {self.submit_rate:,.0f}/s; CPU a job: controller {self.controller_us:.0f} µs, "
            f"fleet {self.fleet_us:.0f} µs, submitter {self.submitter_us:.0f} µs"
        )


async def run_jobs(
    controller: Controller, fleet: Fleet, *, jobs: int, batch: int, callers: int, timeout_s: float, **require: str
) -> Ran:
    """Jobs from submission until the end of each is durable and acknowledged to its agent; those acknowledged are
    checked against the list of jobs."""
    before = fleet.tally.acknowledged
    controller_s, fleet_s, submitter_s = controller.process.cpu_s(), fleet.process.cpu_s(), time.process_time()
    begun = time.monotonic()
    whole = True
    submitted_s = timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            submitted_s = await submit(controller.client, jobs=jobs, batch=batch, callers=callers, require=require)
            await fleet.until(lambda tally: tally.acknowledged - before >= jobs, timeout_s=timeout_s)
    except TimeoutError:
        whole = False
    done = fleet.tally.acknowledged - before
    took = fleet.tally.acknowledged_at - begun if whole else time.monotonic() - begun
    controller_s = controller.process.cpu_s() - controller_s
    fleet_s = fleet.process.cpu_s() - fleet_s
    submitter_s = time.process_time() - submitter_s
    if whole and not require:
        page = await controller.client.list_page(job_pb2.JobFilter(states=UNFINISHED), page_size=1)
        if page.jobs:
            raise SystemExit(f"every end is acknowledged, but a job is {job_pb2.JobState.Name(page.jobs[0].state)}")
    each = 1e6 / max(1, done)
    return Ran(jobs / submitted_s, done / took, controller_s * each, fleet_s * each, submitter_s * each, whole)
