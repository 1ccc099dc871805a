"""How fast the queue is: jobs a second end to end, and milliseconds from a submission to its lease.

A real controller, a simulated fleet (real gRPC, no FFmpeg) and the submitters are three processes. The databases are
on a disk with fsync on. The baselines run in the same call on a PostgreSQL of the same kind.

    .venv/bin/python bench/bench_queue.py [--engine sqlite|postgresql] [--only NAME] [--jobs N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop

from bench import baselines
from bench.figures import Figure, Sheet, quantile
from bench.fleet import Hooks, Machine, SimulatedAgent, SimulatedFleet
from bench.loads import Ran, run_jobs, spec
from bench.serving import Setting, controller, fleet, postgresql, settings
from mediactl.v1 import agent_service_pb2 as pb

WARM_UP = 500
PAUSE_S = 0.02
"""Between two submissions to an idle queue."""


@dataclass(frozen=True, slots=True)
class Load:
    """`jobs` is a share of what --jobs says. Targets are jobs a second, by engine."""

    what: str
    batch: int
    callers: int
    jobs: float
    targets: dict[str, float]


LOADS = {
    "batches": Load("batches of 100", 100, 4, 1.0, {"sqlite": 8000, "postgresql": 4000}),
    "many": Load("64 submitters, one job a call", 1, 64, 0.5, {"sqlite": 2000, "postgresql": 2000}),
    "one": Load("one sequential submitter", 1, 1, 0.15, {"sqlite": 500, "postgresql": 500}),
}
LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Sizes:
    jobs: int
    samples: int
    agents: int
    slots: int
    rounds: int
    timeout_s: float

    def of(self, load: Load) -> int:
        """How many jobs a load has: whole batches."""
        return max(load.batch, int(self.jobs * load.jobs) // load.batch * load.batch)


async def ours(setting: Setting, load: Load, sizes: Sizes) -> Ran:
    """One load on one engine, on an empty database."""
    async with (
        controller(setting) as serving,
        fleet([serving.address], sizes.agents, "--slots", str(sizes.slots)) as agents,
    ):
        await run_jobs(serving, agents, jobs=WARM_UP, batch=100, callers=1, timeout_s=sizes.timeout_s)
        return await run_jobs(
            serving,
            agents,
            jobs=sizes.of(load),
            batch=load.batch,
            callers=load.callers,
            timeout_s=sizes.timeout_s,
        )


async def theirs(url: str, load: Load, sizes: Sizes) -> float:
    """The same on pgqueuer; 0 where time ran out."""
    try:
        return await baselines.pgqueuer_rate(
            url, jobs=sizes.of(load), batch=load.batch, producers=load.callers, timeout_s=sizes.timeout_s
        )
    except TimeoutError:
        return 0.0


async def rates(
    engines: list[Setting], load: Load, sizes: Sizes, sheet: Sheet, new_baseline: Callable[[], str]
) -> None:
    """In turn, as many rounds as asked for; of each the run of the median rate is told."""
    base: list[float] = []
    runs: dict[str, list[Ran]] = {setting.engine: [] for setting in engines}
    for _ in range(sizes.rounds):
        base.append(await theirs(await asyncio.to_thread(new_baseline), load, sizes))
        for setting in engines:
            runs[setting.engine].append(await ours(setting, load, sizes))
    baseline = statistics.median_low(base) or None
    for engine, each in runs.items():
        ran = sorted(each, key=lambda one: one.rate)[(len(each) - 1) // 2]
        spread = f"; {len(each)} rounds, {min(r.rate for r in each):,.0f} … {max(r.rate for r in each):,.0f}"
        sheet.add(
            Figure(
                f"{engine}: {load.what}",
                ran.rate,
                "jobs/s",
                baseline,
                baselines.PGQUEUER,
                load.targets[engine],
                note=ran.note + (spread if len(each) > 1 else ""),
            )
        )


async def latencies(setting: Setting, samples: int) -> list[float]:
    """Seconds from the call that submits to the lease at the agent, one job at a time, by one clock."""
    asked = taken = 0.0
    leased, ended = asyncio.Event(), asyncio.Event()

    def on_lease(_: SimulatedAgent, __: pb.Lease) -> None:
        nonlocal taken
        taken = time.monotonic() - asked
        leased.set()

    hooks = Hooks(leased=on_lease, acknowledged=lambda _, __: ended.set())
    values = []
    async with (
        controller(setting) as serving,
        SimulatedFleet([serving.address], 1, machine=Machine(slots=4), hooks=hooks) as agents,
    ):
        await agents.until_connected()
        for number in range(-50, samples):
            leased.clear()
            ended.clear()
            asked = time.monotonic()
            await serving.client.submit(spec())
            async with asyncio.timeout(30):
                await leased.wait()
                await ended.wait()
            if number >= 0:
                values.append(taken)
            await asyncio.sleep(PAUSE_S)
    return values


async def run(engines: list[Setting], only: frozenset[str], sizes: Sizes, new_baseline: Callable[[], str]) -> Sheet:
    sheet = Sheet()
    for key, load in LOADS.items():
        if key in only:
            await rates(engines, load, sizes, sheet, new_baseline)
    if LATENCY in only:
        waits = {setting.engine: await latencies(setting, sizes.samples) for setting in engines}
        bases = {
            "procrastinate": await baselines.procrastinate_latencies(
                await asyncio.to_thread(new_baseline), samples=sizes.samples, pause_s=PAUSE_S
            ),
            baselines.PGQUEUER: await baselines.pgqueuer_latencies(
                await asyncio.to_thread(new_baseline), samples=sizes.samples, pause_s=PAUSE_S
            ),
        }
        for engine, values in waits.items():
            for label, of, target in (("median", statistics.median, 4.0), ("p99", _p99, 9.0)):
                best = min(bases, key=lambda name, of=of: of(bases[name]))  # type: ignore[misc]
                told = ", ".join(f"{name} {1000 * of(seconds):.2f} ms" for name, seconds in bases.items())
                sheet.add(
                    Figure(
                        f"{engine}: submit → lease, idle, {label}",
                        1000 * of(values),
                        "ms",
                        1000 * of(bases[best]),
                        best,
                        target,
                        at_most=True,
                        note=told,
                    )
                )
    return sheet


def _p99(values: list[float]) -> float:
    return quantile(values, 0.99)


@click.command()
@click.option("--engine", "engines", multiple=True, type=click.Choice(["sqlite", "postgresql"]), help="Default: both.")
@click.option("--only", multiple=True, type=click.Choice([*LOADS, LATENCY]), help="Repeats. Default: all.")
@click.option("--jobs", default=20_000, show_default=True, help="In the largest run; others take a share of it.")
@click.option("--samples", default=300, show_default=True, help="Latencies measured.")
@click.option("--agents", default=4, show_default=True, help="Simulated agents.")
@click.option("--slots", default=64, show_default=True, help="Tasks that each agent runs at once.")
@click.option("--rounds", default=1, show_default=True, help="Of every rate; the median is told.")
@click.option("--timeout", "timeout_s", default=90.0, show_default=True, help="Seconds that one run may take.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Where databases go: a disk.")
@click.option("--controller-command", default="", help="Starts another controller than this tree's.")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too.")
def main(
    engines: tuple[str, ...],
    only: tuple[str, ...],
    jobs: int,
    samples: int,
    agents: int,
    slots: int,
    rounds: int,
    timeout_s: float,
    folder: Path | None,
    controller_command: str,
    out: Path | None,
) -> None:
    """Throughput and latency of the queue against pgqueuer and procrastinate."""
    sizes = Sizes(jobs, samples, agents, slots, rounds, timeout_s)
    with (
        settings(folder, controller_command, engines or ("sqlite", "postgresql")) as chosen,
        postgresql(folder) as new_baseline,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        sheet = runner.run(run(chosen, frozenset(only or (*LOADS, LATENCY)), sizes, new_baseline))
    print(f"\n{sheet.table()}")
    if out is not None:
        sheet.write(out)


if __name__ == "__main__":
    main()
