"""What the machinery costs: submit → COMPLETED of a 15 s job on a running box, against its FFmpeg runs by hand.

Both sides run the same FFmpeg invocations on the same files, in turn, in one call. The baseline is a minimal script:
it starts one process after the other and does nothing else. It is timed twice, with the ffprobe of input and output
and without, since a script that knows its input could do without.

    .venv/bin/python bench/bench_overhead.py [RUNS]
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.box import running_box, spread
from mediactl import Client
from mediactl.v1 import job_pb2

RUNS = 15
WARM_UP = 2
TARGET_MS = 150


def synthesise(path: Path) -> None:
    """15 s of a voice-like tone: harmonics under a syllabic and a phrasal envelope."""
    voice = "sin(2*PI*140*t)+0.5*sin(2*PI*280*t)+0.3*sin(2*PI*560*t)"
    envelope = "(0.55+0.45*sin(2*PI*3*t))*(0.7+0.3*sin(2*PI*0.4*t))"
    source = f"aevalsrc='0.06*({voice})*{envelope}':duration=15:sample_rate=48000"
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, str(path)], check=True)


def by_box(client: Client, source: Path, target: Path) -> tuple[float, job_pb2.Job]:
    spec = {
        "inputs": [{"uri": source.as_uri()}],
        "preset": "loudness_podcast_v1",
        "outputs": [{"profile": "aac_192_v1", "uri": target.as_uri()}],
    }
    begun = time.perf_counter()
    job = client.wait(client.submit(spec).id)
    took = time.perf_counter() - begun
    if job.state != job_pb2.JOB_STATE_COMPLETED:
        raise SystemExit(f"the job ended {job_pb2.JobState.Name(job.state)}: {job.failure.message}")
    return took, client.get(job.id)


def by_hand(plan: job_pb2.Plan, ffprobe: str, source: Path, folder: Path, *, probing: bool) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    (folder / "in" / "0").symlink_to(source)
    probes = [ffprobe, "-v", "error", "-of", "json", "-show_format", "-show_streams"]
    begun = time.perf_counter()
    if probing:
        subprocess.run([*probes, "in/0"], cwd=folder, check=True, capture_output=True)
    for step in plan.steps:
        subprocess.run([plan.binary_path, *step.arguments], cwd=folder, check=True, capture_output=True)
    if probing:
        written = max((folder / "out").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        subprocess.run([*probes, str(written)], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def compare(runs: int, source: Path | None = None) -> None:
    """Both sides, ``runs`` times each in turn; of a synthetic voice unless there is a ``source``."""
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-") as name:
        folder = Path(name)
        if source is None:
            source = folder / "speech.wav"
            synthesise(source)
        box: list[float] = []
        hand: list[float] = []
        probing: list[float] = []
        with running_box(folder / "data") as client:
            [agent] = client.agents()
            ffprobe = agent.capabilities.ffprobe_path
            plan = job_pb2.Plan()
            for run in range(-WARM_UP, runs):
                took, job = by_box(client, source, folder / f"out-{run}.m4a")
                plan = job.attempts[-1].plan
                bare = by_hand(plan, ffprobe, source, folder / "by-hand", probing=False)
                full = by_hand(plan, ffprobe, source, folder / "by-hand", probing=True)
                if run >= 0:
                    box.append(took)
                    hand.append(bare)
                    probing.append(full)
    print(f"submit → COMPLETED of 15 s, {len(plan.steps)} FFmpeg invocations, {runs} runs of each in turn")
    print(f"  by mediactl           {spread(box)}")
    print(f"  by hand               {spread(hand)}")
    print(f"  by hand with ffprobe  {spread(probing)}")
    for label, base in (("by hand", hand), ("by hand with ffprobe", probing)):
        ratio = statistics.median(a / b for a, b in zip(box, base, strict=True))
        more = statistics.median(1000 * (a - b) for a, b in zip(box, base, strict=True))
        print(f"  against {label}: ratio {ratio:.3f}, difference {more:+.1f} ms (target ≤ {TARGET_MS} ms)")


def main() -> None:
    compare(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)


if __name__ == "__main__":
    main()
