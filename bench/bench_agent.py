"""What an agent costs its machine, section by section.

    .venv/bin/python bench/bench_agent.py [--only detection] [--runs 5] [--json FILE]

detection: how long the agent looks at the machine, at its first start and with what it remembers of it, in milliseconds
beside one `ffmpeg -version`. On a machine with GPUs the first includes their trials.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from agent.detect import detect
from bench.figures import Figure, Sheet

COLD_MS = 5000
WARM_MS = 500


def milliseconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - begun)


def detection(sheet: Sheet, runs: int) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise SystemExit("no ffmpeg on PATH")
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-") as name:
        folder = Path(name)
        cache = folder / "agent" / "detected.json"

        def look() -> None:
            detect(scratch=folder, media_roots=["/"], cache_file=cache)

        def program() -> None:
            command = [sys.executable, "-m", "agent.main", "detect", "--data-dir", str(cache.parent)]
            subprocess.run(command, check=True, capture_output=True)

        def baseline() -> None:
            subprocess.run([ffmpeg, "-version"], check=True, capture_output=True)

        took: dict[str, list[float]] = {"version": [], "cold": [], "warm": [], "program": []}
        # In turn, so that whatever else the machine does falls on all of them.
        for _ in range(runs):
            cache.unlink(missing_ok=True)
            took["version"].append(milliseconds(baseline))
            took["cold"].append(milliseconds(look))
            took["warm"].append(milliseconds(look))
            took["program"].append(milliseconds(program))
        found = detect(scratch=folder, media_roots=["/"], cache_file=cache)
    note = f"{len(found.binaries)} binaries, {len(found.gpus)} GPUs, median of {runs}"
    version = statistics.median(took["version"])
    for title, key, target in (
        ("detection, first start", "cold", COLD_MS),
        ("detection, remembered", "warm", WARM_MS),
        ("`mediactl-agent detect`, remembered", "program", None),
    ):
        value = statistics.median(took[key])
        sheet.add(Figure(title, value, "ms", version, "ffmpeg -version", target, at_most=True, note=note))


SECTIONS = {"detection": detection}


@click.command(help=__doc__)
@click.option("--only", type=click.Choice([*SECTIONS]), multiple=True, help="This section. Repeats.")
@click.option("--runs", default=5, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures there.")
def main(only: tuple[str, ...], runs: int, path: Path | None) -> None:
    sheet = Sheet()
    for name in only or SECTIONS:
        SECTIONS[name](sheet, runs)
    print(f"\n{sheet.table()}")
    if path:
        sheet.write(path)


if __name__ == "__main__":
    main()
