"""ffmpeg-normalize as what loudness is measured against: what is asked of it, and of ours, to make the same file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from presets.catalog import Catalog
from presets.intent import Intent, resolve
from presets.uris import path_to_uri

CEILING_DBTP = -1.0


@dataclass(frozen=True, slots=True)
class Format:
    """A way of packing: a profile of ours with overrides, and FFmpeg's options for the same."""

    profile: str
    extension: str
    options: tuple[str, ...]
    overrides: Mapping[str, str]

    @property
    def params(self) -> dict[str, str]:
        """The overrides as a request's parameters."""
        return {f"profile.{key}": value for key, value in self.overrides.items()}


def _format(profile: str, extension: str, options: str, **overrides: str) -> Format:
    return Format(profile, extension, tuple(options.split()), overrides)


FORMATS: Mapping[str, Format] = {
    "wav 24": _format("audio_only_master", "wav", "-c:a pcm_s24le"),
    "flac": _format("flac", "flac", "-c:a flac"),
    "aac 192": _format("aac_192", "m4a", "-c:a aac -b:a 192k"),
    "aac 96": _format("aac_192", "m4a", "-c:a aac -b:a 96k", bitrate_kbps="96"),
    "mp3 192": _format("mp3_192", "mp3", "-c:a libmp3lame -b:a 192k"),
    "opus 96": _format("opus_96", "opus", "-c:a libopus -b:a 96k"),
}


def ours(source: Path, packing: Format, lufs: float) -> Intent:
    """A file at that loudness, in that format."""
    return resolve(
        Catalog.shipped(),
        inputs=[("", path_to_uri(str(source)))],
        preset="loudness_podcast",
        params={"target_lufs": str(lufs), **packing.params},
        outputs=[(packing.profile, "file:///published")],
    )


def theirs(source: Path, target: Path, packing: Format, lufs: float, channels: int) -> float:
    """The same by ffmpeg-normalize, told to stay linear where it can; the seconds it took."""
    program = Path(sys.executable).parent / "ffmpeg-normalize"
    command = [str(program), str(source), "-o", str(target), "-f", "-q", "-vn", "-sn", "--keep-loudness-range-target"]
    command += ["-t", f"{lufs:g}", "-tp", f"{CEILING_DBTP:g}", "-ar", "48000", *packing.options]
    command += ["-ac", "2"] if channels > 2 else []
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun
