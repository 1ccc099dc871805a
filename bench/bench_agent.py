"""What an agent costs its machine, section by section.

    .venv/bin/python bench/bench_agent.py [--only detection|supervisor|idle] [--runs 5] [--json FILE]

detection: how long the agent looks at the machine, at its first start and with what it remembers of it, in milliseconds
beside one `ffmpeg -version`. On a machine with GPUs the first includes their trials.

supervisor: how long until a command runs under one, beside starting the command alone, and what each occupies, beside a
bare interpreter.

idle: what an agent of a running box that has nothing to do occupies and uses, beside an interpreter that has loaded
gRPC.
"""

from __future__ import annotations

import asyncio
import os
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
from agent.media.supervised import Supervised
from bench.box import running_box
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


def supervisor(sheet: Sheet, runs: int) -> None:
    took: dict[str, list[float]] = {"alone": [], "supervised": []}
    resident = []
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-") as name:
        folder = Path(name)

        async def supervised(number: int) -> None:
            begun = time.perf_counter()
            process = await Supervised.start(folder / str(number), ["sleep", "60"], cwd=folder)
            took["supervised"].append(1000 * (time.perf_counter() - begun))
            if process is None:
                raise SystemExit("the command has ended at once")
            resident.append(sum(map(_resident_mb, _running(folder / str(number)))))
            await process.stop(0)

        def alone() -> None:
            subprocess.run(["true"], check=True)

        for number in range(4 * runs):
            took["alone"].append(milliseconds(alone))
            asyncio.run(supervised(number))
    note = f"median of {4 * runs}"
    start, plain = (statistics.median(took[key]) for key in ("supervised", "alone"))
    sheet.add(Figure("supervisor, start", start, "ms", plain, "the command alone", 20, at_most=True, note=note))
    bare = _resident_of([sys.executable, "-I", "-S"])
    sheet.add(
        Figure(
            "supervisor, memory", statistics.median(resident), "MB", bare, "an interpreter", 12, at_most=True, note=note
        )
    )


def idle(sheet: Sheet, runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-") as name:
        data_dir = Path(name, "box")
        with running_box(data_dir):
            [agent] = [pid for pid in _running(data_dir / "agent") if b"agent.main" in _command(pid)]
            before = _cpu_s(agent)
            time.sleep(4.0 * runs)
            used = (_cpu_s(agent) - before) / (4.0 * runs)
            resident = _resident_mb(agent)
    loaded = _resident_of([sys.executable, "-c", "import grpc.aio, sys; sys.stdin.read()"])
    sheet.add(Figure("agent idle, memory", resident, "MB", loaded, "gRPC alone", 60, at_most=True))
    sheet.add(Figure("agent idle, of a core", 100 * used, "%", target=1, at_most=True, note=f"over {4.0 * runs:g} s"))


def _resident_of(command: list[str]) -> float:
    """Of a program that waits for its standard input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        time.sleep(1.0)
        resident = _resident_mb(process.pid)
        if process.stdin is not None:
            process.stdin.close()
    return resident


def _running(folder: Path) -> list[int]:
    """Processes that have a folder in their command line."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if os.fsencode(folder) in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


SECTIONS = {"detection": detection, "supervisor": supervisor, "idle": idle}


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
