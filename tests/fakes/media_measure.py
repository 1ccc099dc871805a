"""Published files as tools see them that share no code with ours: libebur128, ffprobe, and FFmpeg only to decode."""

import array
import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest


@dataclass(frozen=True, slots=True)
class Measured:
    """One audio track, decoded: loudness by ITU-R BS.1770-4, the peak oversampled four times.

    `duration_s` is of what decodes; `late_s` is by how much it begins after the file's earliest stream.
    """

    integrated_lufs: float
    true_peak_dbtp: float
    range_lu: float
    duration_s: float
    late_s: float
    channels: int
    sample_rate_hz: int

    @property
    def silent(self) -> bool:
        """Nothing of it passes the absolute gate of -70 LUFS."""
        return self.integrated_lufs <= -70


def described(path: Path) -> dict[str, Any]:
    """What ffprobe says: `format` and `streams`."""
    found = subprocess.run(
        ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", str(path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def audio_streams(path: Path) -> list[dict[str, Any]]:
    """The audio streams among them."""
    return _audio(described(path))


def _audio(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [stream for stream in document["streams"] if stream["codec_type"] == "audio"]


def measured(path: Path, track: int = 0) -> Measured:
    """Decodes an audio track to its end and measures it; skips the test where pyebur128 is not installed.

    Raises subprocess.CalledProcessError where FFmpeg cannot decode it.
    """
    pyebur128 = pytest.importorskip("pyebur128", reason="pyebur128 has no wheel for this Python")
    document = described(path)
    stream = _audio(document)[track]
    channels, rate = int(stream["channels"]), int(stream["sample_rate"])
    modes = pyebur128.MeasurementMode
    mode = modes.MODE_I | modes.MODE_LRA | modes.MODE_TRUE_PEAK
    state = pyebur128.R128State(channels, rate, mode)
    frames = 0
    for samples in _decoded(path, track, channels * rate):
        count = len(samples) // channels
        state.add_frames(samples, count)
        frames += count
    peak = max(pyebur128.get_true_peak(state, channel) for channel in range(channels)) if frames else 0.0
    return Measured(
        integrated_lufs=pyebur128.get_loudness_global(state) if frames else -math.inf,
        true_peak_dbtp=20 * math.log10(peak) if peak else -math.inf,
        range_lu=pyebur128.get_loudness_range(state) if frames else 0.0,
        duration_s=frames / rate,
        late_s=float(stream.get("start_time", 0)) - float(document["format"].get("start_time", 0)),
        channels=channels,
        sample_rate_hz=rate,
    )


def _decoded(path: Path, track: int, at_once: int) -> Iterator["array.array[float]"]:
    # The bundled one, which starts in a fraction of the time.
    decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(path)]
    command = [*decode, "-map", f"0:a:{track}", "-f", "f32le", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(at_once * 4):
            yield array.array("f", piece)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
