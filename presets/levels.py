"""Which gain and limiting bring a programme to its loudness, from what was measured. Numbers only.

Loudness is EBU R128's integrated loudness, peaks are true peaks (both ITU-R BS.1770-4). A limiter takes loudness away,
how much depends on the programme: so the limited programme is rehearsed, measured without being encoded, until its gain
is known, or nearly so. What is then encoded is measured, and encoded again where a codec moved it too far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from presets.operations.loudness import OverPeaks
from presets.plan import Loudness
from presets.problems import MediaFailure
from presets.reasons import Reason

#: How far from its target an encoded file may be and count as on it, in LU: half of what EBU Tech 3341 grants meters.
TOLERANCE_LU = 0.1

#: As much of a rehearsal, after which codecs are still to come.
_REHEARSED_LU = 0.05

#: How far above the ceiling a measured true peak may be, in dB, without another encode.
TOLERANCE_DB = 0.04

#: Beyond this distance from the target, in LU, a job that asked to fail rather than miss it fails: EBU R128's own
#: tolerance for programmes whose exact normalisation is not practicable.
UNREACHED_LU = 0.5

#: Taken off the ceiling beyond a measured overshoot, after the first encode and later: dB, and a share of it. Codecs
#: overshoot anew, and the more the more is limited; the last encode had better keep the ceiling.
_MARGINS = ((0.1, 0.25), (0.5, 0.5))

#: What is limited by more than this, in dB, overshoots the more the lower its ceiling is. The last encode of it is the
#: one before, lower as a whole.
_HEAVY_DB = 12.0

#: Peaks that stay further below the ceiling than this, in dB, leave room for a programme that is too quiet.
_SLACK_DB = 0.5

#: A meter prints peaks as amplitudes with three digits behind the point: below this, in dBTP, that is more than 0.1 dB.
_FAINT_DBTP = -30.0

#: FFmpeg's meter ends at +10 LUFS: near it, and beyond, a programme is measured this much quieter, in LU.
_LOUDEST_LUFS = 9.5
_QUIETER_DB = -60.0

#: How far below the ceiling the peaks of a rehearsal may be, in dB: else it was one for another ceiling.
_LOW_DB = 0.1

#: How much louder or quieter, in LU, a limiter may make what was not rehearsed than what was: half of it is uncertain.
_TOLD_LU = 0.15

#: How often a limited programme is measured at most before it is encoded, and how often again before another encode.
_MOST_REHEARSALS = 4
_MORE_REHEARSALS = 2

#: What a limiter costs as a first guess, in LU, where it lowers peaks by 1 dB: of speech and music 0.01 to 0.06. It
#: grows with the square until the knee, and then steadily.
_USUAL_COST = 0.025
_USUAL_KNEE_DB = 10.0

#: How much of each further dB a limiter takes away at most, in LU: measured on speech of which every syllable is
#: limited. Beyond what was rehearsed it counts as growing no further.
_STEEPEST = 0.8

#: No peak is lowered by more, in dB: little is left of the programme by then, and loudness no longer follows.
_MOST_LIMITED_DB = 36.0


@dataclass(frozen=True, slots=True)
class Goal:
    """The loudness asked for: LUFS, dBTP, and how much a limiter may take off before ``over_peaks`` decides.

    Also what is aimed at before a codec, so that what comes out behind it is what was asked for.
    """

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
class Trial:
    """A setting and what comes of it: the levelled programme where it was rehearsed, or the file encoded from it."""

    setting: Setting
    after: Loudness


def closer_look(goal: Goal, before: Loudness) -> float | None:
    """The gain in dB at which to measure the programme once more, which is beyond the meter's scale, or whose peaks are
    too faint for the meter's digits.

    None where it is on the scale, and the peaks are clear enough to tell whether they have room.
    """
    if before.integrated_lufs is None:
        return None
    if before.integrated_lufs >= _LOUDEST_LUFS:
        return _QUIETER_DB
    if (before.true_peak_dbtp or _FAINT_DBTP - 1) > _FAINT_DBTP:
        return None
    wanted = goal.target_lufs - before.integrated_lufs
    return round(wanted, 3) if wanted > 0 else None


def shifted(measured: Loudness, gain_db: float) -> Loudness:
    """What the same measures louder by ``gain_db``."""
    lufs, dbtp = measured.integrated_lufs, measured.true_peak_dbtp
    return Loudness(
        None if lufs is None else lufs + gain_db, None if dbtp is None else dbtp + gain_db, measured.range_lu
    )


def first_aim(goal: Goal, before: Loudness, attenuates_db: float, overshoot_db: float) -> Goal:
    """Where to aim before a codec that is known to take ``attenuates_db`` off the sound, and to put ``overshoot_db`` on
    limited peaks.

    :raises MediaFailure: as :func:`first_setting`.
    """
    aim = replace(
        goal,
        target_lufs=round(goal.target_lufs + attenuates_db, 3),
        ceiling_dbtp=round(goal.ceiling_dbtp + attenuates_db, 3),
    )
    if first_setting(goal, before).limited_by_db == 0:
        return aim
    return replace(aim, ceiling_dbtp=round(aim.ceiling_dbtp - overshoot_db, 3), over_peaks=_decided(goal))


def first_setting(goal: Goal, before: Loudness) -> Setting:
    """The setting to begin with.

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
    unlimited = Trial(Setting(0.0, goal.ceiling_dbtp, 0.0), before)
    return _towards(goal, before, (), unlimited, goal.ceiling_dbtp)


def next_rehearsal(
    goal: Goal, aim: Goal, before: Loudness, rehearsals: Sequence[Trial], encodes: int
) -> Setting | None:
    """The setting to rehearse next; None where nothing is limited, or a rehearsal serves, or no more helps.

    The first is of the goal itself, whatever is aimed at, so that outputs of several codecs share it.

    :param encodes: how many were made, each of which may have brought a new aim.
    :raises MediaFailure: as :func:`first_setting`.
    """
    first = first_setting(aim, before)
    if first.limited_by_db == 0 or before.integrated_lufs is None:
        return None
    if not rehearsals:
        at_goal = first_setting(goal, before)
        return at_goal if at_goal.limited_by_db > 0 else first
    if len(rehearsals) >= _MOST_REHEARSALS + _MORE_REHEARSALS * encodes:
        return None
    return None if _known(aim, before, rehearsals) else _following(aim, before, rehearsals)


def next_encode(aim: Goal, before: Loudness, rehearsals: Sequence[Trial]) -> Setting:
    """The setting to encode with: where something is limited, the one that rehearsals tell, else that of the nearest.

    :raises MediaFailure: as :func:`first_setting`.
    """
    first = first_setting(aim, before)
    if first.limited_by_db == 0 or not rehearsals:
        return first
    return _known(aim, before, rehearsals) or rehearsals[_nearest(aim, rehearsals)].setting


def next_aim(
    goal: Goal, before: Loudness, rehearsals: Sequence[Trial], encodes: Sequence[Trial], max_encodes: int
) -> Goal | None:
    """Where to aim before the codec, so that the next file is on the goal; None when the last one serves, or no more
    may be made."""
    last = encodes[-1]
    over = overshoot(goal, last)
    too_low = over < -_SLACK_DB and last.setting.ceiling_dbtp < goal.ceiling_dbtp and _error(goal, last) > TOLERANCE_LU
    settled = _settled(goal, before, last, TOLERANCE_LU) and over <= TOLERANCE_DB and not too_low
    if settled or len(encodes) >= max_encodes:
        return None
    ceiling, target = last.setting.ceiling_dbtp, goal.target_lufs
    heard = expected_lufs(before, rehearsals, last.setting)
    if heard is not None and last.after.integrated_lufs is not None:
        target -= last.after.integrated_lufs - heard
    if over > TOLERANCE_DB and len(encodes) == max_encodes - 1 and last.setting.limited_by_db > _HEAVY_DB:
        lower_db = over + _MARGINS[0][0]
        ceiling -= lower_db
        target -= _error(goal, last) + lower_db
    elif over > TOLERANCE_DB:
        # Where nothing was limited the peaks themselves are the ceiling that was kept.
        peak = before.true_peak_dbtp
        reached = ceiling if peak is None else min(ceiling, peak + last.setting.gain_db)
        margin_db, share = _MARGINS[min(len(encodes), len(_MARGINS)) - 1]
        ceiling = reached - over - margin_db - share * over
    elif too_low:
        ceiling = min(goal.ceiling_dbtp, ceiling - over - _MARGINS[0][0] - _MARGINS[0][1] * -over)
    return Goal(round(target, 3), round(ceiling, 3), _decided(goal), goal.max_reduction_db)


def foretold(before: Loudness, rehearsals: Sequence[Trial], setting: Setting) -> Loudness | None:
    """What a lossless file of a setting measures, where that is known already: gain alone moves loudness and peaks
    alike, and a limited programme that was rehearsed is in the file as it was measured."""
    if setting.limited_by_db == 0:
        return shifted(before, setting.gain_db)
    return next((trial.after for trial in rehearsals if trial.setting == setting), None)


def expected_lufs(before: Loudness, rehearsals: Sequence[Trial], setting: Setting) -> float | None:
    """How loud the programme is at a setting, before a codec; None for one without loudness."""
    if before.integrated_lufs is None:
        return None
    return before.integrated_lufs + setting.gain_db - _cost(_curve(before, rehearsals), setting.limited_by_db)


def best(goal: Goal, encodes: Sequence[Trial]) -> int:
    """The index of the encode to deliver: the one that keeps the ceiling best, among equals the nearest to target.

    :raises MediaFailure: LOUDNESS_UNREACHABLE where the goal says to fail and even the best misses.
    """
    index = _nearest(goal, encodes)
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


def overshoot(goal: Goal, trial: Trial) -> float:
    """How far the true peak is above the goal's ceiling, in dB; negative below it."""
    peak = trial.after.true_peak_dbtp
    return float("-inf") if peak is None else peak - goal.ceiling_dbtp


def _decided(goal: Goal) -> OverPeaks:
    # Whether so much may be limited was decided when the goal was set.
    return OverPeaks.LOWER if goal.over_peaks is OverPeaks.FAIL else goal.over_peaks


def _known(aim: Goal, before: Loudness, rehearsals: Sequence[Trial]) -> Setting | None:
    """The setting that rehearsals tell: one of theirs, or one near to them."""
    nearest = rehearsals[_nearest(aim, rehearsals)]
    if _settled(aim, before, nearest, _REHEARSED_LU) and -_LOW_DB <= overshoot(aim, nearest) <= TOLERANCE_DB:
        return nearest.setting
    following = _following(aim, before, rehearsals)
    told = any(trial.setting == following or _tells(before, trial, following) for trial in rehearsals)
    return following if told else None


def _following(aim: Goal, before: Loudness, rehearsals: Sequence[Trial]) -> Setting:
    last = rehearsals[-1]
    # Between two samples of its own rate the limiter lets a little through.
    leak = (last.after.true_peak_dbtp or 0.0) - last.setting.ceiling_dbtp
    ceiling = aim.ceiling_dbtp - (leak if leak > TOLERANCE_DB else 0.0)
    return _towards(aim, before, rehearsals, last, ceiling)


def _tells(before: Loudness, trial: Trial, setting: Setting) -> bool:
    """Whether a rehearsal is so near to a setting that what the limiter takes away there is known without another.

    It grows with a power between one and two of what is limited: by as much as it is itself in proportion, or twice.
    """
    [*_, (limited_db, cost)] = _curve(before, [trial])
    more_db = abs(setting.limited_by_db - limited_db)
    return more_db * cost <= _TOLD_LU * limited_db and setting.limited_by_db <= _HEAVY_DB


def _nearest(goal: Goal, trials: Sequence[Trial]) -> int:
    def rank(index: int) -> tuple[float, float]:
        over = overshoot(goal, trials[index])
        return (over if over > TOLERANCE_DB else 0.0, abs(_error(goal, trials[index])))

    return min(range(len(trials)), key=rank)


def _error(goal: Goal, trial: Trial) -> float:
    integrated = trial.after.integrated_lufs
    return 0.0 if integrated is None else goal.target_lufs - integrated


def _settled(goal: Goal, before: Loudness, trial: Trial, tolerance_lu: float) -> bool:
    """On target, or too low where no more gain is allowed."""
    if before.integrated_lufs is None:
        return True
    error = _error(goal, trial)
    highest = _highest_gain(goal, before, trial.setting.ceiling_dbtp)
    return abs(error) <= tolerance_lu or (error > 0 and trial.setting.gain_db >= highest - tolerance_lu)


def _towards(goal: Goal, before: Loudness, rehearsals: Sequence[Trial], last: Trial, ceiling_dbtp: float) -> Setting:
    """The gain that meets the target below a ceiling, if a limiter costs what it did in rehearsals."""
    curve = _curve(before, rehearsals)
    cost_before = _cost(curve, last.setting.limited_by_db)

    def missing(gain_db: float) -> float:
        more = gain_db - last.setting.gain_db
        cost = _cost(curve, _setting(before, gain_db, ceiling_dbtp).limited_by_db) - cost_before
        return _error(goal, last) - more + cost

    low = last.setting.gain_db + _error(goal, last) - _MOST_LIMITED_DB
    high = low + 2 * _MOST_LIMITED_DB
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return _setting(before, min(high, _highest_gain(goal, before, ceiling_dbtp)), ceiling_dbtp)


def _curve(before: Loudness, rehearsals: Sequence[Trial]) -> list[tuple[float, float]]:
    """Points of (dB limited, LU it took away), rising from nothing."""
    points = [(0.0, 0.0)]
    for trial in rehearsals:
        limited_db, after = trial.setting.limited_by_db, trial.after.integrated_lufs
        if limited_db > 0 and after is not None and before.integrated_lufs is not None:
            points.append((limited_db, max(before.integrated_lufs + trial.setting.gain_db - after, 0.0)))
    return sorted(points)


def _cost(curve: Sequence[tuple[float, float]], limited_db: float) -> float:
    """LU that a limiter takes away: from nothing with the square, between rehearsals straight, beyond them steadily."""
    if len(curve) == 1:
        square = min(limited_db, _USUAL_KNEE_DB)
        return _USUAL_COST * square * (2 * limited_db - square)
    (first, cost), (last, most) = curve[1], curve[-1]
    if limited_db <= first:
        return cost * (limited_db / first) ** 2
    for (left, low), (right, high) in pairwise(curve[1:]):
        if left < limited_db <= right:
            return low + (high - low) * (limited_db - left) / (right - left)
    return most + min(2 * most / last, _STEEPEST) * (limited_db - last)


def _setting(before: Loudness, gain_db: float, ceiling_dbtp: float) -> Setting:
    peak = before.true_peak_dbtp
    over = 0.0 if peak is None else max(peak + gain_db - ceiling_dbtp, 0.0)
    return Setting(round(gain_db, 3), round(ceiling_dbtp, 3), round(over, 3))


def _highest_gain(goal: Goal, before: Loudness, ceiling_dbtp: float) -> float:
    """The gain beyond which more than the allowed reduction would be limited."""
    if before.true_peak_dbtp is None:
        return float("inf")
    most = _MOST_LIMITED_DB if goal.over_peaks is OverPeaks.LIMIT else goal.max_reduction_db
    return ceiling_dbtp + most - before.true_peak_dbtp
