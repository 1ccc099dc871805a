"""How loud a file is over its time, as FFmpeg measures it: its waveform's envelope and its loudness after EBU R128."""

import json
import math
import os
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from presets.formats import FORMAT_WHITELIST, PROTOCOL_WHITELIST
from presets.measurement import TAIL_BYTES, TAIL_S, parse_loudness
from presets.plan import Loudness

#: The envelope is taken at this rate, in blocks of 10 ms, or as long that there are this many: more than a picture
#: has columns.
_RATE_HZ: Final = 48_000
_BLOCK: Final = 480
_MOST_BLOCKS: Final = 4000
#: An EBU meter reads every 100 ms; a reading is of what has passed when it is taken.
_READING_S: Final = 0.1
_MOMENTARY_S: Final = 0.4
_SHORT_TERM_S: Final = 3.0
_QUIET: Final = -120.0


class Unmeasurable(Exception):
    """FFmpeg is missing or can't read the file; the message says which."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the meter shows at a time (s): loudness (LUFS) of the last 400 ms and of the last 3 s, None before."""

    time_s: float
    momentary_lufs: float | None
    short_term_lufs: float | None


@dataclass(frozen=True, slots=True)
class Levels:
    """A file's sound: `envelope` is (start in s, lowest, highest sample) of short blocks, 1.0 being full scale."""

    duration_s: float
    envelope: Sequence[tuple[float, float, float]]
    readings: Sequence[Reading]
    loudness: Loudness

    def column(self, start_s: float, end_s: float) -> tuple[float, float] | None:
        """The lowest and highest sample of a stretch of time; None beyond the end."""
        first = max(0, bisect_right(self.envelope, start_s, key=lambda block: block[0]) - 1)
        last = max(first + 1, bisect_right(self.envelope, end_s, key=lambda block: block[0]))
        if start_s >= self.duration_s or not self.envelope:
            return None
        blocks = self.envelope[first:last]
        return min(low for _, low, _ in blocks), max(high for _, _, high in blocks)


def measure(path: Path) -> Levels | None:
    """The levels of a file's best audio stream from the file's start on; None where it has no sound.

    Raises Unmeasurable.
    """
    safe = ["-protocol_whitelist", PROTOCOL_WHITELIST, "-format_whitelist", FORMAT_WHITELIST]
    source = f"file:{path.absolute()}"
    asked = ["-select_streams", "a", "-show_entries", "stream=codec_type:format=duration", "-of", "json", source]
    probed = json.loads(_ran(["ffprobe", *safe, *asked]))
    if not probed.get("streams"):
        return None
    duration_s = float(probed["format"].get("duration", 0))
    block = max(_BLOCK, math.ceil(duration_s * _RATE_HZ / _MOST_BLOCKS))
    # A track that begins late in a video is shown late; the sum of all channels' extremes is the envelope.
    whole = f"aresample={_RATE_HZ}:async=1:first_pts=0,aformat=sample_fmts=fltp"
    readings = f"{whole},apad=pad_dur={TAIL_S},ebur128=peak=true:metadata=1,ametadata=mode=print:file=readings:direct=1"
    extremes = (
        f"{whole},asetnsamples=n={block}:p=0,astats=metadata=1:reset=1:measure_perchannel=none"
        ":measure_overall=Min_level+Max_level,ametadata=mode=print:file=extremes:direct=1"
    )
    outputs = [
        part for graph in (readings, extremes) for part in ("-vn", "-sn", "-dn", "-af", graph, "-f", "null", "-")
    ]
    with tempfile.TemporaryDirectory(prefix="mediactl-levels-") as folder:
        _ran(["ffmpeg", "-nostdin", *safe, "-i", source, *outputs], Path(folder))
        envelope = [*_envelope(Path(folder) / "extremes")]
        end_s = envelope[-1][0] + block / _RATE_HZ if envelope else 0.0
        meter = [*_meter(Path(folder) / "readings", end_s)]
        with (Path(folder) / "readings").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            loudness = parse_loudness(file.read().decode())
    return Levels(end_s, envelope, meter, loudness)


def _ran(command: Sequence[str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            [command[0], "-hide_banner", "-v", "error", *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise Unmeasurable(f"can't run {command[0]}, which must be on PATH: {error.strerror}") from None
    if done.returncode != 0:
        told = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Unmeasurable(f"{command[0]} can't read it: {told}")
    return done.stdout.decode("utf-8", "replace")


def _envelope(printed: Path) -> Iterator[tuple[float, float, float]]:
    overall = "lavfi.astats.Overall."
    for time_s, values in _blocks(printed):
        yield time_s, values.get(f"{overall}Min_level", 0.0), values.get(f"{overall}Max_level", 0.0)


def _meter(printed: Path, end_s: float) -> Iterator[Reading]:
    for time_s, values in _blocks(printed):
        now_s = round(time_s + _READING_S, 3)
        # Behind the end there is padding.
        if now_s <= end_s + _READING_S / 2:
            momentary = values.get("lavfi.r128.M", _QUIET) if now_s >= _MOMENTARY_S else None
            short_term = values.get("lavfi.r128.S", _QUIET) if now_s >= _SHORT_TERM_S else None
            yield Reading(now_s, momentary, short_term)


def _blocks(printed: Path) -> Iterator[tuple[float, Mapping[str, float]]]:
    time_s, values = 0.0, dict[str, float]()
    with printed.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("frame:"):
                if values:
                    yield time_s, values
                time_s, values = float(line.rpartition("pts_time:")[2]), {}
            else:
                key, _, value = line.partition("=")
                number = float(value)
                # Files of floating point may hold infinities, which no picture can show.
                if math.isfinite(number):
                    values[key] = number
    if values:
        yield time_s, values
