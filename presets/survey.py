"""Reader of what a survey's meters print: how loud a programme is, where its quietest pause, where it is silent. Pure.

Meters print into a file, which is read line by line: hours of it take a few megabytes.
"""

import math
from array import array
from collections.abc import Iterable, Sequence

from presets.plan import Survey

#: The value of FFmpeg's ebur128 that is kept: the loudness of 400 ms, every 100 ms.
MOMENTARY = "lavfi.r128.M"

#: The level of all channels of one block, after FFmpeg's astats.
_LEVEL = "lavfi.astats.Overall.RMS_level"
#: How many samples of all channels were none so far, by kind.
_NOT_NUMBERS = ("lavfi.astats.Number of NaNs", "lavfi.astats.Number of Infs")

_SILENCE_START, _SILENCE_END = "lavfi.silence_start", "lavfi.silence_end"

#: ITU-R BS.1770-4: gating blocks last 400 ms and begin every 100 ms, as momentary loudness does.
_STEP_S, _BLOCK_STEPS = 0.1, 4
_ABSOLUTE_GATE_LUFS, _RELATIVE_GATE_LU = -70.0, -10.0

#: At or below this a block has no sound at all, and its neighbours may have it in part only: an edit, no pause.
_NOTHING_LUFS = -119.0

#: A pause goes on while it is no louder than this above its quietest block, in LU, and no longer than this.
_EVEN_LU = 1.5
_LONGEST_PAUSE_S = 1.0

#: What is written for digital silence, in dBFS.
_SILENT_DB = -200.0


def parse_survey(lines: Iterable[str]) -> Survey:
    """What ``ametadata=mode=print`` wrote behind ebur128, astats or silencedetect."""
    momentary, levels = array("f"), list[float]()
    silences: list[tuple[float, float | None]] = []
    not_numbers = dict.fromkeys(_NOT_NUMBERS, 0)
    for line in lines:
        key, _, value = line.strip().partition("=")
        if key == MOMENTARY:
            momentary.append(_number(value))
        elif key == _LEVEL:
            levels.append(_number(value))
        elif key in not_numbers:
            not_numbers[key] = int(_number(value))
        elif key == _SILENCE_START:
            silences.append((max(_number(value), 0.0), None))
        elif key == _SILENCE_END and silences:
            silences[-1] = (silences[-1][0], _number(value))
    quietest = _quietest(momentary)
    return Survey(
        loudness_lufs=_integrated(momentary[_BLOCK_STEPS - 1 :]),
        pause_s=None if quietest is None else _pause(momentary, quietest),
        pause_lufs=None if quietest is None else round(momentary[quietest], 3),
        levels_db=tuple(levels),
        silences_s=tuple(silences),
        not_numbers=sum(not_numbers.values()),
    )


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        return _SILENT_DB
    return number if math.isfinite(number) else _SILENT_DB


def _integrated(blocks: Sequence[float]) -> float | None:
    """The integrated loudness of gating blocks; None where none passes the absolute gate."""
    loud = [_power(block) for block in blocks if block > _ABSOLUTE_GATE_LUFS]
    if not loud:
        return None
    gate = sum(loud) / len(loud) * _power(_RELATIVE_GATE_LU)
    gated = [power for power in loud if power > gate]
    return round(10 * math.log10(sum(gated) / len(gated)), 3)


def _power(decibels: float) -> float:
    return float(10 ** (decibels / 10))


def _quietest(momentary: Sequence[float]) -> int | None:
    """The quietest block that is all within the recording; None where it is too short to have one."""
    silent = [block <= _NOTHING_LUFS for block in momentary]
    # The first and last instants are a codec's as often as a room's.
    first, last = 2 * _BLOCK_STEPS, len(momentary) - _BLOCK_STEPS
    whole = (i for i in range(first, last) if not any(silent[i - _BLOCK_STEPS : i + _BLOCK_STEPS + 1]))
    return min(whole, key=lambda i: momentary[i], default=None)


def _pause(momentary: Sequence[float], quietest: int) -> tuple[float, float]:
    """From where to where the recording is about as quiet as in its quietest block."""
    low = high = quietest
    limit = momentary[quietest] + _EVEN_LU
    longest = round(_LONGEST_PAUSE_S / _STEP_S) - _BLOCK_STEPS
    while high - low < longest:
        before = momentary[low - 1] if low > 2 * _BLOCK_STEPS else math.inf
        after = momentary[high + 1] if high + 1 < len(momentary) - _BLOCK_STEPS else math.inf
        if min(before, after) > limit:
            break
        low, high = (low - 1, high) if before <= after else (low, high + 1)
    return round((low + 1 - _BLOCK_STEPS) * _STEP_S, 3), round((high + 1) * _STEP_S, 3)
