"""Readers of what FFmpeg reports while and after it runs: loudness and progress. Pure."""

import math
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from presets.analysis import analyse
from presets.plan import Invocation, Loudness, Purpose, StepResult
from presets.survey import parse_survey

#: Silence appended before measuring: one block of the meter, which reports complete blocks only, so that a peak in
#: the last instants of a recording is seen. ITU-R BS.1770-4 meters advance by 100 ms.
TAIL_S = 0.1

#: How much of a measurement's file is enough to read: more than the last two blocks of a stream of 64 channels.
TAIL_BYTES = 16384

#: What the meter shows before any block passed the absolute gate of ITU-R BS.1770-4, in LUFS.
_ABSOLUTE_GATE_LUFS = -70.0


def parse_loudness(tail: str) -> Loudness:
    """Loudness from the last lines that ``ametadata=mode=print`` wrote behind ``ebur128=peak=true:metadata=1``.

    The invocation appends :data:`TAIL_S` of silence: peaks are read from the last block, which holds the recording's
    last samples, loudness and range from the block before, which holds no padding.
    """
    blocks = _complete_blocks(tail)
    last = blocks[-1] if blocks else {}
    programme = blocks[-2] if len(blocks) > 1 else {}
    peaks = [value for key, value in last.items() if re.fullmatch(r"lavfi\.r128\.true_peaks_ch\d+", key)]
    peak = max(peaks, default=0.0)
    integrated = programme.get("lavfi.r128.I", _ABSOLUTE_GATE_LUFS)
    gated = not integrated > _ABSOLUTE_GATE_LUFS
    return Loudness(
        integrated_lufs=None if gated else integrated,
        true_peak_dbtp=20 * math.log10(peak) if peak > 0 else None,
        range_lu=None if gated else programme.get("lavfi.r128.LRA"),
    )


def step_result(
    invocation: Invocation,
    out_time_s: float | None,
    tail: str | None,
    frames: int | None = None,
    files: Callable[[str], AbstractContextManager[Iterable[str]]] | None = None,
) -> StepResult:
    """What a finished invocation tells the compiler.

    ``out_time_s`` and ``frames`` are the last output time and number that ``-progress`` reported, ``tail`` the end of
    the file named by ``invocation.measure`` (at least :data:`TAIL_BYTES`, or all of it), None where the invocation
    measures nothing. ``files`` opens a file that an analysis or a survey wrote, to be read line by line.
    """
    if invocation.measure is None:
        return StepResult(out_time_s, None, frames)
    if invocation.purpose in {Purpose.SURVEY, Purpose.INSPECT}:
        if files is None:
            return StepResult(out_time_s, None, frames)
        with files(invocation.measure) as lines:
            return StepResult(out_time_s, None, frames, survey=parse_survey(lines))
    decoded_s = None if out_time_s is None else max(out_time_s - TAIL_S, 0.0)
    analysis = None
    if files is not None and invocation.levels is not None and invocation.silences is not None:
        with files(invocation.measure) as loudness, files(invocation.levels) as levels, files(invocation.silences) as s:
            analysis = analyse(loudness, levels, s, decoded_s or 0.0)
    return StepResult(decoded_s or None, parse_loudness(tail or ""), frames, analysis=analysis)


def _complete_blocks(tail: str) -> list[dict[str, float]]:
    blocks: list[dict[str, float]] = []
    for line in tail.splitlines():
        if line.startswith("frame:"):
            blocks.append({})
        elif blocks and "=" in line:
            key, _, value = line.partition("=")
            try:
                number = float(value)
            except ValueError:
                continue
            if math.isfinite(number):
                blocks[-1][key.strip()] = number
    return blocks


def parse_progress(lines: Iterable[str]) -> float | None:
    """Output time in seconds from one block of ``-progress`` lines; None before the first packet.

    ``out_time_us`` is read: ``out_time_ms`` is in microseconds too, whatever its name says, and before the first
    packet versions print ``N/A``, 0 or a huge negative number.
    """
    microseconds: int | None = None
    for line in lines:
        key, _, value = line.strip().partition("=")
        if key == "out_time_us" and re.fullmatch(r"\d+", value):
            microseconds = int(value)
    return None if microseconds is None else microseconds / 1e6


def parse_frames(lines: Iterable[str]) -> int | None:
    """The number of pictures put out, from one block of ``-progress`` lines; None where there is no video."""
    counts = [value.strip() for key, _, value in (line.strip().partition("=") for line in lines) if key == "frame"]
    return int(counts[-1]) if counts and re.fullmatch(r"\d{1,12}", counts[-1]) else None
