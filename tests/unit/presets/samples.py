"""Probed media, FFmpeg binaries and requests for tests of the presets."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.facts import AudioStream, MediaFacts, Stream, VideoStream
from presets.formats import FORMAT_WHITELIST
from presets.intent import Intent, resolve
from presets.plan import Loudness, Plan, Purpose, StepResult

BINARY = Binary(
    path="/usr/bin/ffmpeg",
    version="9.0.2",
    digest="d",
    capabilities=frozenset(f"encoder:{name}" for name in ("aac", "libmp3lame", "libopus", "flac", "pcm_s24le")),
    start_ms=10,
)
#: As BINARY, with encoders on the processor and on a GPU.
GPU_BINARY = Binary(
    path="/usr/bin/ffmpeg",
    version="9.0.2",
    digest="d",
    capabilities=BINARY.capabilities.union(
        f"encoder:{name}" for name in ("libx264", "libx265", "h264_nvenc", "hevc_nvenc")
    ),
    start_ms=10,
)


def audio(
    index: int = 0,
    *,
    duration_s: float | None = 60.0,
    rate: int = 48_000,
    channels: int = 2,
    language: str | None = None,
    default: bool = False,
    codec: str = "vorbis",
) -> AudioStream:
    """An audio stream with a layout that fits its channels."""
    layout = {1: "mono", 2: "stereo", 6: "5.1(side)"}.get(channels)
    return AudioStream(index, codec, duration_s, language, default, rate, channels, layout, None)


def video(index: int = 1, *, attached_pic: bool = False) -> VideoStream:
    """A video stream of a minute, or a cover picture."""
    return VideoStream(index, "h264", 60.0, None, True, attached_pic, 1920, 1080, 25.0)


def picture(
    index: int = 0,
    *,
    size: tuple[int, int] = (1920, 1080),
    fps: float | None = 30.0,
    base_fps: str | None = "30/1",
    duration_s: float | None = 60.0,
    codec: str = "h264",
    default: bool = True,
    **more: Any,
) -> VideoStream:
    """A video stream of a minute as a camera makes it; ``more`` are further fields."""
    more = {"time_base": "1/15360", "pixel_format": "yuv420p", "color_space": "bt709", **more}
    return VideoStream(index, codec, duration_s, None, default, False, *size, fps, base_fps, **more)


def media(*streams: Stream, format_name: str = "matroska,webm") -> MediaFacts:
    """A file of a minute with these streams, by default one stereo track."""
    return MediaFacts(format_name, 60.0, 0.0, 1_000_000, None, streams or (audio(),))


def intent(
    preset: str = "loudness_podcast",
    *,
    profiles: Sequence[str] = ("aac_192",),
    params: Mapping[str, str] | None = None,
    inputs: Sequence[tuple[str, str]] = (("", "file:///media/talk.wav"),),
    catalog: Catalog | None = None,
) -> Intent:
    """A request resolved against the shipped library."""
    return resolve(
        catalog or Catalog.shipped(),
        inputs=inputs,
        preset=preset,
        params=params or {},
        outputs=[(profile, f"file:///published/{n}.out") for n, profile in enumerate(profiles)],
    )


def measured(lufs: float | None, dbtp: float | None, seconds: float = 60.0) -> StepResult:
    """The result of a measuring pass."""
    return StepResult(seconds, Loudness(lufs, dbtp, 3.0))


def golden(name: str, plan: Plan) -> None:
    """Compare with the golden file; UPDATE_GOLDEN=1 in the environment writes it instead."""
    text = _shown(plan).replace(FORMAT_WHITELIST, "{FORMAT_WHITELIST}")
    path = Path(__file__).parent / "golden" / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def _shown(plan: Plan) -> str:
    """A plan's invocations as text, one argument a line."""
    lines: list[str] = []
    for step in plan.invocations:
        kind = f"{step.purpose}{' provisional' if step.provisional else ''}"
        lines += [f"## {step.id} ({kind}) writes {' '.join(step.writes) or 'nothing'}", *step.argv, ""]
    lines += [f"# {d.subject}: {d.choice} -- {d.because}" for d in plan.decisions]
    return "\n".join(lines) + "\n"


def passes(plan: Plan, purpose: Purpose) -> list[str]:
    """The ids of a plan's invocations of one purpose."""
    return [step.id for step in plan.invocations if step.purpose is purpose]
