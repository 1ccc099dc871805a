"""How the queue bears size: a long line that nobody can serve, many agents that do nothing, many readers.

.venv/bin/python bench/bench_scale.py [--engine sqlite|postgresql] [--only NAME] [--million] [--json FILE]
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop

from bench.figures import Figure, Sheet, quantile
from bench.loads import run_jobs, submit
from bench.serving import Controller, Fleet, Setting, controller, fleet, settings
from mediactl import MediactlError
from mediactl.v1 import fleet_service_pb2, job_pb2

CLASSES = 50
BULK = 1000
"""Jobs a call while the line is being made."""
CALLERS = 2
LAST = {"class": "last"}
BEHIND = "behind 1,000"
PARTS = ("line", "idle", "reads")


@dataclass(frozen=True, slots=True)
class Sizes:
    line: int
    asked: int
    agents: int
    idle_s: float
    reads_s: float
    timeout_s: float


async def line(setting: Setting, sizes: Sizes, sheet: Sheet) -> None:
    """Lease rate behind a short line and behind a long one. The line's jobs need labels of 49 classes which no agent
    has; those of the fiftieth, which the agents can run, come last."""
    async with controller(setting) as serving:
        async with _suited(serving) as agents:
            # A warm-up, and an agent that is known to have the media root.
            await run_jobs(serving, agents, jobs=500, batch=100, callers=4, timeout_s=sizes.timeout_s, **LAST)
        await _lengthen(serving, 0, 1000, sizes.timeout_s)
        short = await _asked(serving, sizes)
        took_s, length = await _lengthen(serving, 1000, sizes.line, sizes.timeout_s)
        long = await _asked(serving, sizes)
        pages = [await _timed(lambda: serving.client.list_page(page_size=50)) for _ in range(20)]
        pending = job_pb2.JobFilter(states=[job_pb2.JOB_STATE_PENDING])
        waiting = [await _timed(lambda: serving.client.list_page(pending, page_size=50)) for _ in range(20)]
        rss = serving.process.rss_bytes()
    name = f"{setting.engine}: behind {length:,} queued in {CLASSES} classes"
    cost = f"CPU of the controller a job: {long.controller_us:.0f} µs, behind 1,000 {short.controller_us:.0f} µs"
    sheet.add(Figure(f"{name}, leased and ended", long.rate, "jobs/s", short.rate, BEHIND, 0.8 * short.rate, note=cost))
    grown = f"the line grew by {(length - 1000) / took_s:,.0f}/s, {BULK} jobs a call"
    sheet.add(
        Figure(
            f"{name}, submission",
            long.submit_rate,
            "jobs/s",
            short.submit_rate,
            BEHIND,
            0.9 * short.submit_rate,
            note=grown,
        )
    )
    worst = max(statistics.median(pages), statistics.median(waiting))
    note = f"all {1000 * statistics.median(pages):.1f} ms, PENDING {1000 * statistics.median(waiting):.1f} ms"
    sheet.add(Figure(f"{name}, first page of ListJobs", 1000 * worst, "ms", target=50, at_most=True, note=note))
    sheet.add(Figure(f"{name}, memory", rss / 1e6, "MB", target=500, at_most=True))


async def _lengthen(serving: Controller, have: int, want: int, timeout_s: float) -> tuple[float, int]:
    """Seconds, and how long the line is now: time may run out."""
    begun = time.monotonic()
    while have < want and time.monotonic() - begun < timeout_s:
        jobs = min(want - have, CALLERS * BULK)
        batch = min(BULK, jobs)
        label = f"c{have // BULK % (CLASSES - 1)}"
        await submit(serving.client, jobs=jobs, batch=batch, callers=CALLERS, require={"class": label})
        have += jobs // batch * batch
    return time.monotonic() - begun, have


@dataclass(frozen=True, slots=True)
class _Asked:
    submit_rate: float
    rate: float
    controller_us: float


async def _asked(serving: Controller, sizes: Sizes) -> _Asked:
    """Jobs that stand last in line, submitted while nobody can run them, then run. The rate counts from their first
    lease to their last acknowledgement."""
    submit_s = await submit(serving.client, jobs=sizes.asked, batch=100, callers=4, require=LAST)
    async with _suited(serving) as agents:
        # Most of what connecting costs is over by then, though not all leases are still to come.
        used = serving.process.cpu_s()
        with suppress(TimeoutError):
            await agents.until(lambda tally: tally.acknowledged >= sizes.asked, timeout_s=sizes.timeout_s)
        used = serving.process.cpu_s() - used
        tally = agents.tally
    rate = tally.acknowledged / max(1e-3, tally.acknowledged_at - tally.first_leased_at)
    return _Asked(sizes.asked / submit_s, rate, 1e6 * used / max(1, tally.acknowledged))


def _suited(serving: Controller) -> AbstractAsyncContextManager[Fleet]:
    return fleet([serving.address], 4, "--slots", "64", "--label", "class=last")


async def _timed(ask: Callable[[], Awaitable[object]]) -> float:
    begun = time.monotonic()
    await ask()
    return time.monotonic() - begun


async def idle(setting: Setting, sizes: Sizes, sheet: Sheet) -> None:
    """What connected agents cost that do nothing, and how soon silence is noticed: of a process that stands still
    (its connection lives) and of one that was killed."""
    async with (
        controller(setting) as serving,
        fleet([serving.address], sizes.agents, "--prefix", "idle-") as agents,
        fleet([serving.address], 1, "--prefix", "stopped-") as stopped,
        fleet([serving.address], 1, "--prefix", "killed-") as killed,
    ):
        # Beyond the rush of connecting.
        await asyncio.sleep(sizes.idle_s / 3)
        used, theirs, begun = serving.process.cpu_s(), agents.process.cpu_s(), time.monotonic()
        await asyncio.sleep(sizes.idle_s)
        lasted = time.monotonic() - begun
        share = 100 * (serving.process.cpu_s() - used) / lasted
        note = f"the simulated fleet {100 * (agents.process.cpu_s() - theirs) / lasted:.0f} %"
        sheet.add(
            Figure(
                f"{setting.engine}: {sizes.agents:,} idle agents",
                share,
                "% of a core",
                target=30,
                at_most=True,
                note=note,
            )
        )
        os.kill(stopped.process.pid, signal.SIGSTOP)
        os.kill(killed.process.pid, signal.SIGKILL)
        noticed = await asyncio.gather(
            *(_unreachable(serving, f"{prefix}-1", sizes.timeout_s) for prefix in ("stopped", "killed"))
        )
        os.kill(stopped.process.pid, signal.SIGCONT)
    for name, after_s in zip(("stands still", "was killed"), noticed, strict=True):
        sheet.add(Figure(f"{setting.engine}: an agent {name}, until noticed", after_s, "s", target=20, at_most=True))


async def _unreachable(serving: Controller, agent_id: str, timeout_s: float) -> float:
    begun = time.monotonic()
    gone = (fleet_service_pb2.AGENT_STATE_UNREACHABLE, fleet_service_pb2.AGENT_STATE_LOST)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while (await serving.client.agent(agent_id)).state not in gone:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.1)
    return time.monotonic() - begun


async def reads(setting: Setting, sizes: Sizes, sheet: Sheet) -> None:
    """GetJob of any job nine times out of ten, else the first page of ListJobs: at full speed by 32 callers, then by
    the clock at half that rate, where a read counts from the moment at which it was due."""
    dice = random.Random(1)  # noqa: S311 - no secret
    async with (
        controller(setting) as serving,
        fleet([serving.address], 4, "--slots", "64") as agents,
    ):
        await run_jobs(serving, agents, jobs=5000, batch=100, callers=4, timeout_s=sizes.timeout_s)
        ids = [job.id for job in (await serving.client.list_page(page_size=1000)).jobs]
        client = serving.client

        async def read() -> None:
            if dice.random() < 0.1:
                await client.list_page(page_size=50)
            else:
                await client.get(dice.choice(ids))

        count = 0

        async def reader(until: float) -> None:
            nonlocal count
            while time.monotonic() < until:
                await read()
                count += 1

        begun = time.monotonic()
        await asyncio.gather(*(reader(begun + sizes.reads_s) for _ in range(32)))
        rate = count / (time.monotonic() - begun)

        taken: list[float] = []
        gap = 2 / rate
        begun = time.monotonic()

        async def due(number: int) -> None:
            await read()
            taken.append(time.monotonic() - begun - number * gap)

        async with asyncio.TaskGroup() as group:
            for number in range(int(sizes.reads_s / gap)):
                await asyncio.sleep(max(0.0, begun + number * gap - time.monotonic()))
                group.create_task(due(number))
    sheet.add(Figure(f"{setting.engine}: reads, GetJob 9 : ListJobs 1", rate, "reads/s", target=2000))
    p95 = 1000 * quantile(taken, 0.95)
    note = f"median {1000 * statistics.median(taken):.1f} ms at {rate / 2:,.0f}/s"
    sheet.add(Figure(f"{setting.engine}: reads, p95 at half", p95, "ms", target=20, at_most=True, note=note))


async def run(chosen: list[Setting], only: frozenset[str], sizes: Sizes) -> Sheet:
    sheet = Sheet()
    parts = {"line": line, "idle": idle, "reads": reads}
    for name in PARTS:
        for setting in chosen:
            if name in only:
                try:
                    await parts[name](setting, sizes, sheet)
                except (MediactlError, TimeoutError) as error:
                    print(f"{setting.engine}: {name} could not be measured: {error!r}", flush=True)
    return sheet


@click.command()
@click.option("--engine", "engines", multiple=True, type=click.Choice(["sqlite", "postgresql"]), help="Default: both.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Repeats. Default: all.")
@click.option("--queued", default=100_000, show_default=True, help="How long the line is made.")
@click.option("--million", is_flag=True, help="The same as --queued 1000000, with more time for it.")
@click.option("--asked", default=5000, show_default=True, help="Jobs that are run behind the line.")
@click.option("--agents", default=1000, show_default=True, help="Idle agents.")
@click.option("--idle-s", default=20.0, show_default=True, help="Seconds for which they are watched.")
@click.option("--reads-s", default=8.0, show_default=True, help="Seconds of reading, twice.")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds that each step may take.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Where databases go: a disk.")
@click.option("--controller-command", default="", help="Starts another controller than this tree's.")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too.")
def main(
    engines: tuple[str, ...],
    only: tuple[str, ...],
    queued: int,
    million: bool,
    asked: int,
    agents: int,
    idle_s: float,
    reads_s: float,
    timeout_s: float,
    folder: Path | None,
    controller_command: str,
    out: Path | None,
) -> None:
    """The queue under size."""
    sizes = Sizes(
        line=1_000_000 if million else queued,
        asked=asked,
        agents=agents,
        idle_s=idle_s,
        reads_s=reads_s,
        timeout_s=max(timeout_s, 600.0) if million else timeout_s,
    )
    with (
        settings(folder, controller_command, engines or ("sqlite", "postgresql")) as chosen,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        sheet = runner.run(run(chosen, frozenset(only or PARTS), sizes))
    print(f"\n{sheet.table()}")
    if out is not None:
        sheet.write(out)


if __name__ == "__main__":
    main()
