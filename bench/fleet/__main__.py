"""A simulated fleet as a process: `python -m bench.fleet --controller ADDR --agents N --slots S`.

Prints its tally as a line of JSON whenever it changed, at most every `--report-ms`, until SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import signal
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import uvloop

from bench.fleet.fleet import SimulatedFleet
from bench.fleet.hooks import Hooks
from bench.fleet.journal import journalling
from bench.fleet.machine import Machine


@click.command()
@click.option("--controller", "controllers", multiple=True, required=True, help="Address; repeat for several.")
@click.option("--agents", default=1, show_default=True, help="How many.")
@click.option("--slots", default=4, show_default=True, help="Tasks that each runs at once.")
@click.option("--cores", default=0, help="Cores that each offers. Default: as many as slots.")
@click.option("--work-ms", default=0.0, help="How long an attempt lasts on average.")
@click.option("--fail-rate", default=0.0, help="Probability that an attempt fails.")
@click.option("--decline-rate", default=0.0, help="Probability that a lease is declined.")
@click.option("--seed", default=0, help="Of the dice.")
@click.option("--prefix", default="sim-", show_default=True, help="Of the agents' ids: one for each process.")
@click.option("--root", "roots", multiple=True, default=("/media",), show_default=True, help="Media root; repeats.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label; repeats.")
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help="Add what happens to this file.")
@click.option("--report-ms", default=100.0, show_default=True, help="How often the tally is printed at the most.")
def main(
    controllers: tuple[str, ...],
    agents: int,
    slots: int,
    cores: int,
    work_ms: float,
    fail_rate: float,
    decline_rate: float,
    seed: int,
    prefix: str,
    roots: tuple[str, ...],
    labels: tuple[str, ...],
    journal: Path | None,
    report_ms: float,
) -> None:
    """Simulated agents: the protocol, no FFmpeg."""
    # A connection for each agent.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def run(hooks: Hooks) -> None:
        fleet = SimulatedFleet(
            controllers,
            agents,
            machine=Machine(
                slots=slots, cores=cores, roots=roots, labels=dict(label.split("=", 1) for label in labels)
            ),
            work_s=work_ms / 1000,
            fail_rate=fail_rate,
            decline_rate=decline_rate,
            hooks=hooks,
            seed=seed,
            prefix=prefix,
        )
        stopping = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stopping.set)
        said = ""
        async with fleet:
            while not stopping.is_set():
                line = json.dumps(dataclasses.asdict(fleet.tally))
                if line != said:
                    print(line, flush=True)
                    said = line
                with suppress(TimeoutError):
                    async with asyncio.timeout(report_ms / 1000):
                        await stopping.wait()

    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        if journal is None:
            runner.run(run(Hooks()))
        else:
            runner.run(run(journalling(stack.enter_context(journal.open("a", buffering=1)))))


if __name__ == "__main__":
    main()
