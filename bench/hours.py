"""Ten hours in one file: more than 4 GiB are read and written, and nothing grows with them."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.box import running_box
from bench.figures import Figure, Sheet
from mediactl.v1 import job_pb2
from tests.fakes.media_measure import described

HOURS = 10.0
TARGET_LUFS = -23.0
GROWTH_AT_MOST_MB = 16.0
_BODY_S = 60
_SAMPLE_S = 0.5
_SETTLED_S = 3.0


@dataclass
class Watch:
    """Resident megabytes of every process that works in a folder, each with its age, until it is left."""

    folder: Path
    samples: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            for process in psutil.process_iter():
                try:
                    command = process.cmdline()
                    if str(self.folder) in process.cwd() or any(str(self.folder) in word for word in command):
                        name = "agent" if "agent.main" in command else process.name()
                        age_s = time.time() - process.create_time()
                        self.samples[name, process.pid].append((age_s, process.memory_info().rss / 1e6))
                except psutil.Error:
                    continue

    def peak_mb(self, name: str) -> float:
        """The most that any process of that name occupied."""
        return max((mb for (of, _), seen in self.samples.items() if of == name for _, mb in seen), default=0.0)

    def growth_mb(self, name: str) -> float:
        """By how much more one occupied in the last half of its life than in the first, once it had begun."""
        grown = [0.0]
        for (of, _), seen in self.samples.items():
            settled = [mb for age_s, mb in seen if age_s > _SETTLED_S]
            if of == name and len(settled) > 3:
                half = len(settled) // 2
                grown.append(max(settled[half:]) - max(settled[:half]))
        return max(grown)


def hours(sheet: Sheet, folder: Path | None, length_h: float = HOURS) -> None:
    """A Wave64 file of ``length_h`` hours, 48 kHz, 24 bit, stereo, comes back as a master of RF64."""
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-", dir=folder) as name:
        here = Path(name)
        source, target = here / "hours.w64", here / "out.wav"
        _synthesise(source, here / "body.wav", length_h)
        with running_box(here / "data") as client, Watch(here / "data") as watch:
            begun = time.perf_counter()
            job = client.wait(
                client.submit(
                    {
                        "inputs": [{"uri": source.as_uri()}],
                        "preset": "loudness_ebu_r128",
                        "outputs": [{"uri": target.as_uri()}],
                    }
                ).id
            )
            took_s = time.perf_counter() - begun
            if job.state != job_pb2.JOB_STATE_COMPLETED:
                raise SystemExit(f"the job ended {job_pb2.JobState.Name(job.state)}: {job.failure.message}")
        head, size = target.open("rb").read(4), target.stat().st_size
        found = float(described(target)["format"]["duration"])
        if head != b"RF64" or size <= 1 << 32 or abs(found - length_h * 3600) > 0.1:
            raise SystemExit(f"the master begins with {head!r}, has {size} bytes and lasts {found} s")
        after = job.artifacts[0].loudness.after.integrated_lufs
        sheet.add(
            Figure(
                f"{length_h:g} hours",
                took_s,
                "s",
                length_h * 3600,
                "real time",
                at_most=True,
                note=f"{size / 1e9:.1f} GB",
            )
        )
        sheet.add(Figure("error", abs(after - TARGET_LUFS), "LU", target=0.2, at_most=True))
        for program in ("ffmpeg", "agent"):
            note = f"at most {watch.peak_mb(program):.0f} MB"
            growth = watch.growth_mb(program)
            title = f"{program}, memory grown"
            sheet.add(Figure(title, growth, "MB", target=GROWTH_AT_MOST_MB, at_most=True, note=note))


def _synthesise(path: Path, body: Path, length_h: float) -> None:
    """The body again and again, copied as it is."""
    noise = f"anoisesrc=c=pink:r=48000:a=0.1:s=%d:d={_BODY_S}"
    graph = f"{noise % 1}[l];{noise % 2}[r];[l][r]join=channel_layout=stereo"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
    subprocess.run([*command, "-filter_complex", graph, "-c:a", "pcm_s24le", str(body)], check=True)
    again = ["-stream_loop", str(round(length_h * 3600 / _BODY_S) - 1), "-i", str(body), "-c", "copy", str(path)]
    subprocess.run([*command, *again], check=True)
