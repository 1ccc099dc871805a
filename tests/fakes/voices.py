"""What became of a voice and of the noise beneath it, told from samples before and after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

#: Blocks of 50 ms at 48 kHz: shorter than a syllable, longer than a period of any voice.
_BLOCK = 2400

#: Of all blocks so many are pauses, and those are voice that are louder than this below the loudest ones.
_PAUSES = 0.15
_VOICE_DB = 15.0


@dataclass(frozen=True, slots=True)
class Changes:
    """By how much pauses are quieter than before, and the voice louder, in dB."""

    noise_reduction_db: float
    voice_db: float


def voice_changes(
    before: Sequence[float], after: Sequence[float], gain_db: float = 0.0, told_by: Sequence[float] | None = None
) -> Changes:
    """What ``after`` is against ``before`` but for a gain: both at 48 kHz, of one length.

    Where pauses and voice are is told by the levels of ``told_by``, the same voice without noise, or else ``before``.
    """
    levels = [_power(before, start) for start in range(0, min(len(before), len(after)) - _BLOCK + 1, _BLOCK)]
    told = levels if told_by is None else [_power(told_by, block * _BLOCK) for block in range(len(levels))]
    ordered = sorted(told)
    pauses = [block for block, level in enumerate(told) if level <= ordered[int(len(ordered) * _PAUSES)]]
    loud = ordered[int(len(ordered) * 0.95)] * 10 ** (-_VOICE_DB / 10)
    voice = [block for block, level in enumerate(told) if level > loud]

    def change(blocks: Sequence[int]) -> float:
        was, became = sum(levels[block] for block in blocks), sum(_power(after, block * _BLOCK) for block in blocks)
        return 10 * math.log10(max(became, 1e-30) / max(was, 1e-30)) - gain_db

    # Some pauses are the ends of words; of every one by itself the median is told.
    return Changes(-median(change([block]) for block in pauses), change(voice))


def _power(samples: Sequence[float], start: int) -> float:
    return math.fsum(sample * sample for sample in samples[start : start + _BLOCK])
