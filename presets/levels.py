"""Which gain and limiting bring a programme to its loudness, from what was measured. Numbers only.

Loudness is EBU R128's integrated loudness, peaks are true peaks (both ITU-R BS.1770-4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from presets.operations.loudness import OverPeaks
from presets.plan import Loudness
from presets.problems import MediaFailure
from presets.reasons import Reason

#: How far from its target an encoded file may be and count as on it, in LU: half of what EBU Tech 3341 grants meters.
TOLERANCE_LU = 0.1

#: How far above the ceiling a measured true peak may be, in dB, without another encode.
TOLERANCE_DB = 0.04

#: Beyond this distance from the target, in LU, a job that asked to fail rather than miss it fails: EBU R128's own
#: tolerance for programmes whose exact normalisation is not practicable.
UNREACHED_LU = 0.5

#: Taken off the ceiling beyond a measured overshoot, in dB, for each encode made so far: codecs overshoot anew.
_MARGIN_DB = 0.05

#: Limits to how much loudness follows gain, in LU per dB, as learnt from two encodes: against jumps on noise. Without
#: a limiter it follows fully; behind one that takes off peaks of speech it follows by about 0.7.
_SLOPES = (0.25, 1.0)
_SLOPE_LIMITED = 0.75


@dataclass(frozen=True, slots=True)
class Goal:
    """The loudness asked for: LUFS, dBTP, and how much a limiter may take off before ``over_peaks`` decides."""

    target_lufs: float
    ceiling_dbtp: float
    over_peaks: OverPeaks
    max_reduction_db: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One gain in dB and the ceiling of a true-peak limiter, which takes off at most ``limited_by_db``; 0: none."""

    gain_db: float
    ceiling_dbtp: float
    limited_by_db: float


@dataclass(frozen=True, slots=True)
class Encode:
    """A setting and what the file encoded with it measures."""

    setting: Setting
    after: Loudness


def first_setting(goal: Goal, before: Loudness) -> Setting:
    """The setting of the first encode.

    :raises MediaFailure: LOUDNESS_UNREACHABLE where the goal says to fail rather than to limit that much.
    """
    if before.integrated_lufs is None:
        return _setting(before, 0.0, goal.ceiling_dbtp)
    wanted = goal.target_lufs - before.integrated_lufs
    highest = _highest_gain(goal, before, goal.ceiling_dbtp)
    if goal.over_peaks is OverPeaks.FAIL and wanted > highest:
        raise MediaFailure(
            Reason.LOUDNESS_UNREACHABLE,
            f"{goal.target_lufs:g} LUFS needs {wanted:.1f} dB of gain, which puts peaks "
            f"{wanted - highest + goal.max_reduction_db:.1f} dB above {goal.ceiling_dbtp:g} dBTP; at most "
            f"{goal.max_reduction_db:g} dB may be limited. Ask for a lower target, or over_peaks = limit or lower",
        )
    return _setting(before, min(wanted, highest), goal.ceiling_dbtp)


def next_setting(goal: Goal, before: Loudness, encodes: Sequence[Encode], max_encodes: int) -> Setting | None:
    """The setting of the next encode; None when the last one serves, or no more may be made."""
    last = encodes[-1]
    over = overshoot(goal, last)
    error = 0.0 if before.integrated_lufs is None else _error(goal, last)
    highest = _highest_gain(goal, before, last.setting.ceiling_dbtp)
    reachable = error <= 0 or last.setting.gain_db < highest - TOLERANCE_LU
    on_target = abs(error) <= TOLERANCE_LU or not reachable
    if (on_target and over <= TOLERANCE_DB) or len(encodes) >= max_encodes:
        return None
    ceiling = last.setting.ceiling_dbtp
    if over > TOLERANCE_DB:
        # Where nothing was limited the peaks themselves are the ceiling that was kept.
        peak = before.true_peak_dbtp
        reached = ceiling if peak is None else min(ceiling, peak + last.setting.gain_db)
        ceiling = reached - over - _MARGIN_DB * len(encodes)
    gain_db = last.setting.gain_db
    if not on_target:
        gain_db += error / _slope(encodes)
    if before.integrated_lufs is not None:
        gain_db = min(gain_db, _highest_gain(goal, before, ceiling))
    return _setting(before, gain_db, ceiling)


def best(goal: Goal, encodes: Sequence[Encode]) -> int:
    """The index of the encode to deliver: the one that keeps the ceiling best, among equals the nearest to target.

    :raises MediaFailure: LOUDNESS_UNREACHABLE where the goal says to fail and even the best misses.
    """

    def rank(index: int) -> tuple[float, float]:
        over = overshoot(goal, encodes[index])
        return (over if over > TOLERANCE_DB else 0.0, abs(_error(goal, encodes[index])))

    index = min(range(len(encodes)), key=rank)
    chosen = encodes[index]
    if goal.over_peaks is OverPeaks.FAIL:
        missed, over = abs(_error(goal, chosen)), overshoot(goal, chosen)
        if missed > UNREACHED_LU or over > UNREACHED_LU:
            raise MediaFailure(
                Reason.LOUDNESS_UNREACHABLE,
                f"after {len(encodes)} encodes the file is {missed:.1f} LU from {goal.target_lufs:g} LUFS "
                f"and {max(over, 0.0):.1f} dB above {goal.ceiling_dbtp:g} dBTP",
            )
    return index


def overshoot(goal: Goal, encode: Encode) -> float:
    """How far the encoded file's true peak is above the goal's ceiling, in dB; negative below it."""
    peak = encode.after.true_peak_dbtp
    return float("-inf") if peak is None else peak - goal.ceiling_dbtp


def _error(goal: Goal, encode: Encode) -> float:
    integrated = encode.after.integrated_lufs
    return 0.0 if integrated is None else goal.target_lufs - integrated


def _setting(before: Loudness, gain_db: float, ceiling_dbtp: float) -> Setting:
    peak = before.true_peak_dbtp
    over = 0.0 if peak is None else max(peak + gain_db - ceiling_dbtp, 0.0)
    return Setting(round(gain_db, 3), round(ceiling_dbtp, 3), round(over, 3))


def _highest_gain(goal: Goal, before: Loudness, ceiling_dbtp: float) -> float:
    """The gain beyond which more than the allowed reduction would be limited; unbounded where all may be."""
    if goal.over_peaks is OverPeaks.LIMIT or before.true_peak_dbtp is None:
        return float("inf")
    return ceiling_dbtp + goal.max_reduction_db - before.true_peak_dbtp


def _slope(encodes: Sequence[Encode]) -> float:
    """LU per dB of gain, from the last two encodes, or what is usual."""
    low, high = _SLOPES
    usual = _SLOPE_LIMITED if encodes[-1].setting.limited_by_db > 0 else high
    if len(encodes) < 2:
        return usual
    before, after = encodes[-2:]
    step = after.setting.gain_db - before.setting.gain_db
    if abs(step) < TOLERANCE_LU or None in (before.after.integrated_lufs, after.after.integrated_lufs):
        return usual
    moved = (after.after.integrated_lufs or 0.0) - (before.after.integrated_lufs or 0.0)
    return min(max(moved / step, low), high)
