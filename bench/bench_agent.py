"""What an agent costs its machine, section by section.

    .venv/bin/python bench/bench_agent.py [--only detection|supervisor|idle] [--runs 5] [--json FILE]

detection: how long the agent looks at the machine, at its first start and with what it remembers of it, in milliseconds
beside one `ffmpeg -version`. On a machine with GPUs the first includes their trials.

supervisor: how long until a command runs under one, beside starting the command alone, and what each occupies, beside a
bare interpreter.

idle: what an agent of a running box that has nothing to do occupies and uses, before its first job and after it, beside
an interpreter that has loaded gRPC.
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
from mediactl import Client
from mediactl.v1 import job_pb2

COLD_MS = 5000
WARM_MS = 500
SETTLED_S = 2.0
"""After a job, until its memory has been given back."""


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
        with running_box(data_dir) as client:
            [agent] = [pid for pid in _running(data_dir / "agent") if b"agent.main" in _command(pid)]
            before = _cpu_s(agent)
            time.sleep(4.0 * runs)
            used = (_cpu_s(agent) - before) / (4.0 * runs)
            resident = _resident_mb(agent)
            _work(client, Path(name))
            time.sleep(SETTLED_S)
            after = _resident_mb(agent)
    loaded = _resident_of([sys.executable, "-c", "import grpc.aio, sys; sys.stdin.read()"])
    sheet.add(Figure("agent idle, memory", resident, "MB", loaded, "gRPC alone", 60, at_most=True))
    sheet.add(Figure("agent idle after a job, memory", after, "MB", loaded, "gRPC alone", 60, at_most=True))
    sheet.add(Figure("agent idle, of a core", 100 * used, "%", target=1, at_most=True, note=f"over {4.0 * runs:g} s"))


def _work(client: Client, folder: Path) -> None:
    """One job that measures, filters and encodes."""
    talk = folder / "talk.wav"
    sources = ["-f", "lavfi", "-i", "sine=duration=5", "-f", "lavfi", "-i", "anoisesrc=d=5:a=0.02"]
    command = ["ffmpeg", "-loglevel", "error", *sources, "-filter_complex", "amix", str(talk)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    output = {"profile": "aac_192", "uri": f"{folder.as_uri()}/out/"}
    job = client.submit({"inputs": [{"uri": talk.as_uri()}], "preset": "loudness_podcast", "outputs": [output]})
    ended = client.wait(job.id)
    if ended.state != job_pb2.JOB_STATE_COMPLETED:
        raise SystemExit(f"the job did not complete: {ended.failure.reason} {ended.failure.message}")


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
