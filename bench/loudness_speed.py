"""How long a box takes for long programmes whose peaks leave room for the gain, beside ffmpeg-normalize."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import normalizer
from bench.box import running_box
from bench.figures import Figure, Sheet
from bench.normalizer import FORMATS, Format
from mediactl import Client
from mediactl.v1 import job_pb2

RATIO_AT_MOST = 0.3
#: Ten minutes of each, and quiet enough: FFmpeg's arguments, and the extension.
_NOISE = "anoisesrc=c=pink:r=48000:a=0.1:s={seed}:d=600"
_TALK = (
    "0.05*(sin(2*PI*140*t)+0.5*sin(2*PI*280*t)+0.3*sin(2*PI*560*t)+0.2*sin(2*PI*2800*t))"
    "*pow(max(0,sin(2*PI*1.3*t)),2)*(0.7+0.3*sin(2*PI*0.05*t))"
)
SOURCES: Mapping[str, tuple[str, str, str]] = {
    "noise": (f"{_NOISE.format(seed=1)}[l];{_NOISE.format(seed=2)}[r];[l][r]join=channel_layout=stereo", "s24", "wav"),
    "talk": (f"aevalsrc='{_TALK}':s=48000:d=600", "s24", "wav"),
    "talk, compressed": (f"aevalsrc='{_TALK}':s=16000:d=600", "vorbis", "ogg"),
    "noise, 44.1 kHz": (
        f"{_NOISE.format(seed=3)}[l];{_NOISE.format(seed=4)}[r];[l][r]join=channel_layout=stereo,aresample=44100",
        "flac",
        "flac",
    ),
}
_ENCODERS = {"s24": "pcm_s24le", "vorbis": "libvorbis", "flac": "flac"}

#: What is made of which. Where the codec is lossless nothing but decoding and measuring stands beside the gain; a lossy
#: encoder alone takes about a third of what ffmpeg-normalize takes.
CASES = (
    *(("noise", "wav 24", -23.0), ("noise", "flac", -20.0), ("talk", "wav 24", -23.0), ("talk", "flac", -19.0)),
    *(("talk, compressed", "wav 24", -19.0), ("noise, 44.1 kHz", "wav 24", -23.0)),
    *(("noise", "opus 96", -23.0), ("noise", "aac 192", -23.0)),
)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one case: of a job, of ffmpeg-normalize, and of the encoder with a gain and nothing else."""

    ours_s: float
    theirs_s: float
    encoder_s: float


def cases(sheet: Sheet, runs: int) -> None:
    """Every case; lossless ones against the target."""
    ratios = []
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-") as name:
        folder = Path(name)
        with running_box(folder / "data") as client:
            for source, form, lufs in CASES:
                took = _case(client, _made(source, folder), FORMATS[form], lufs, folder, runs)
                ratio = statistics.median(one.ours_s / one.theirs_s for one in took)
                lossless = form in {"wav 24", "flac"}
                ratios += [ratio] if lossless else []
                _tell(sheet, f"{source} → {form}", took, ratio, target=RATIO_AT_MOST if lossless else None)
    sheet.add(Figure("worst of the lossless", max(ratios), "× ffmpeg-normalize", target=RATIO_AT_MOST, at_most=True))


def _tell(sheet: Sheet, name: str, took: Sequence[Took], ratio: float, *, target: float | None) -> None:
    ours, theirs, encoder = (
        statistics.median(getattr(one, key) for one in took) for key in ("ours_s", "theirs_s", "encoder_s")
    )
    note = f"{ours:.2f} s against {theirs:.2f} s, the encoder alone {encoder:.2f} s; median of {len(took)}"
    sheet.add(Figure(name, ratio, "× ffmpeg-normalize", target=target, at_most=True, note=note))


def _case(client: Client, source: Path, packing: Format, lufs: float, folder: Path, runs: int) -> list[Took]:
    took = []
    channels = 1 if "talk" in source.name else 2
    for run in range(runs):
        target = folder / f"ours-{run}.{packing.extension}"
        begun = time.perf_counter()
        job = client.wait(
            client.submit(
                {
                    "inputs": [{"uri": source.as_uri()}],
                    "preset": "loudness_podcast",
                    "params": {"target_lufs": lufs, **packing.params},
                    "outputs": [{"profile": packing.profile, "uri": target.as_uri()}],
                }
            ).id
        )
        ours_s = time.perf_counter() - begun
        if job.state != job_pb2.JOB_STATE_COMPLETED:
            raise SystemExit(f"the job ended {job_pb2.JobState.Name(job.state)}: {job.failure.message}")
        if job.artifacts[0].loudness.limited_db > 0:
            raise SystemExit(f"{source.name} at {lufs:g} LUFS is no linear case")
        theirs = folder / f"theirs.{packing.extension}"
        theirs_s = normalizer.theirs(source, theirs, packing, lufs, channels)
        begun = time.perf_counter()
        bare = folder / f"bare.{packing.extension}"
        _ffmpeg("-i", str(source), "-af", "volume=1dB", "-ar", "48000", *packing.options, str(bare))
        took.append(Took(ours_s, theirs_s, time.perf_counter() - begun))
        for made in (target, theirs, bare):
            made.unlink()
    return took


def _made(name: str, folder: Path) -> Path:
    graph, encoder, extension = SOURCES[name]
    path = folder / f"{name.replace(' ', '-')}.{extension}"
    if not path.exists():
        _ffmpeg("-filter_complex", graph, "-c:a", _ENCODERS[encoder], str(path))
    return path


def _ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments], check=True)
