"""What becomes of outputs in storage: when programs are killed, and when objects are large.

.venv/bin/python bench/bench_storage.py kills [--runs 50] [--seed 1] [--json FILE]
.venv/bin/python bench/bench_storage.py large [--gb 2] [--json FILE]

Without a part both are run. An S3 server of the benchmark's own (SeaweedFS) holds the objects.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import click

from bench.figures import Figure, Sheet
from bench.large import measured
from tests.fakes.kills import Killing, kills
from tests.fakes.object_server import ObjectServer

PARTS = ("kills", "large")


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """What becomes of outputs in storage."""
    if context.invoked_subcommand is None:
        context.invoke(by_kills)
        context.invoke(large)


def reporting(part: Callable[..., Sheet]) -> Callable[..., None]:
    """Prints what a part measured, with the load of the machine, and writes it where asked."""

    @wraps(part)
    def run(json_file: Path | None, **given: object) -> None:
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
        sheet = part(**given)
        print(f"load of the machine after: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores\n")
        print(sheet.table())
        if json_file is not None:
            sheet.write(json_file)
        if any(figure.met is False for figure in sheet.figures):
            sys.exit(1)

    return click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False))(run)


@main.command(name="kills")
@click.option("--runs", default=50, show_default=True, help="Jobs, in each of which one thing is killed.")
@click.option("--seed", default=1, show_default=True, help="Chooses what is killed, and when.")
@reporting
def by_kills(runs: int = 50, seed: int = 1) -> Sheet:
    """Agents, their machines, supervisors and the controller, killed at any point of a job, on S3 and on files."""
    sheet = Sheet()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ObjectServer() as server, Killing(Path(folder), server) as world:
        print(f"seed {seed}", flush=True)
        for kill in kills(seed, runs):
            job = world.suffer(kill)
            print(f"{kill}: {', '.join(attempt.state for attempt in job.attempts)}", flush=True)
        world.settle()
    counted = world.counted
    note = ", ".join(f"{count} {what}" for what, count in sorted(counted.items()))
    # A job that did not end so, an output that is not the clean run's, or something left staged ends all of this.
    completed = counted["jobs completed"]
    sheet.add(Figure("jobs completed, each output whole and once", completed, "jobs", target=runs, note=note))
    left = counted["unmarked uploads, ended after an hour"]
    sheet.add(Figure("left staged after the sweep", left, "uploads and files", target=0, at_most=True))
    sheet.add(Figure("time", time.monotonic() - begun, "s"))
    return sheet


@main.command()
@click.option("--gb", default=2.0, show_default=True, help="Size of the object, in 10^9 bytes.")
@reporting
def large(gb: float = 2.0) -> Sheet:
    """One large object from S3 through a stream copy and back; the same bytes copied by obstore alone."""
    sheet = Sheet()
    with tempfile.TemporaryDirectory() as folder, ObjectServer() as server:
        for figure in measured(Path(folder), server, int(gb * 1e9)):
            sheet.add(figure)
    return sheet


if __name__ == "__main__":
    main()
