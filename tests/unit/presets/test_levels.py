"""Gain, limiting and correction, on a model of what limiters and codecs do."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from presets.levels import TOLERANCE_DB, TOLERANCE_LU, Encode, Goal, Setting, best, first_setting, next_setting
from presets.operations.loudness import OverPeaks
from presets.plan import Loudness
from presets.problems import MediaFailure
from presets.reasons import Reason

LIMIT = Goal(-16, -1, OverPeaks.LIMIT, 8)
LOWER = Goal(-16, -1, OverPeaks.LOWER, 8)
FAIL = Goal(-16, -1, OverPeaks.FAIL, 8)


def _programme(lufs: float | None, dbtp: float | None) -> Loudness:
    return Loudness(lufs, dbtp, 3.0)


def test_a_gain_that_fits_needs_no_limiter() -> None:
    """Peaks below the ceiling after the gain: one factor and nothing else."""
    assert first_setting(LIMIT, _programme(-23, -10)) == Setting(7, -1, 0)
    assert first_setting(LIMIT, _programme(-8, 1)) == Setting(-8, -1, 0)


def test_peaks_above_the_ceiling_are_limited() -> None:
    """The reduction is what the gain puts above the ceiling."""
    assert first_setting(LIMIT, _programme(-27.9, -7.4)) == Setting(11.9, -1, 5.5)


def test_what_happens_beyond_the_allowed_reduction_is_the_caller_s_choice() -> None:
    """Limit all the same, stay below the target by what is missing, or fail and say why."""
    spiky = _programme(-36, -5)  # 20 dB of gain would put peaks 16 dB above the ceiling
    assert first_setting(LIMIT, spiky) == Setting(20, -1, 16)
    assert first_setting(LOWER, spiky) == Setting(12, -1, 8)
    with pytest.raises(MediaFailure, match=r"peaks 16\.0 dB above -1 dBTP; at most 8 dB") as caught:
        first_setting(FAIL, spiky)
    assert caught.value.reason is Reason.LOUDNESS_UNREACHABLE


@pytest.mark.parametrize("goal", [LIMIT, LOWER, FAIL])
def test_silence_gets_no_gain_but_keeps_its_ceiling(goal: Goal) -> None:
    """Nothing above the gate has no loudness to bring anywhere; a click in it may still be too high."""
    assert first_setting(goal, _programme(None, None)) == Setting(0, -1, 0)
    assert first_setting(goal, _programme(None, 0.5)) == Setting(0, -1, 1.5)
    silent = Encode(Setting(0, -1, 0), _programme(None, -40))
    assert next_setting(goal, _programme(None, -40), [silent], 3) is None


def test_an_encode_within_tolerance_is_the_last() -> None:
    """A tenth of a LU and a few hundredths of a dB are no reason for another one."""
    done = Encode(Setting(7, -1, 0), _programme(-16 + 0.99 * TOLERANCE_LU, -1 + 0.99 * TOLERANCE_DB))
    assert next_setting(LIMIT, _programme(-23, -10), [done], 3) is None


def test_an_overshoot_lowers_the_ceiling_where_nothing_was_limited_before() -> None:
    """A codec's overshoot on a linear encode is answered with a limiter just below the peaks that were."""
    before = _programme(-23, -8.1)
    over = Encode(Setting(7, -1, 0), _programme(-16, -0.7))
    following = next_setting(LIMIT, before, [over], 3)
    assert following is not None
    assert following.gain_db == 7
    assert following.ceiling_dbtp < -1.1 - 0.3
    assert following.limited_by_db > 0


def test_no_more_encodes_than_allowed() -> None:
    """The profile's max_encodes ends the corrections, whatever was reached."""
    bad = Encode(Setting(7, -1, 0), _programme(-18, 1))
    assert next_setting(LIMIT, _programme(-23, -10), [bad] * 3, 3) is None
    assert next_setting(LIMIT, _programme(-23, -10), [bad] * 2, 3) is not None


def test_the_best_encode_keeps_the_ceiling_first() -> None:
    """Nearer to the target but above the ceiling loses."""
    clipping = Encode(Setting(7, -1, 0), _programme(-16, -0.5))
    quiet = Encode(Setting(7, -2, 1), _programme(-16.4, -1.4))
    close = Encode(Setting(7, -2, 1), _programme(-15.8, -1.3))
    assert best(LIMIT, [clipping, quiet, close]) == 2


def test_whoever_asked_to_fail_gets_no_file_that_misses() -> None:
    """After the last encode more than half a LU from the target is a failure for that choice only."""
    missed = [Encode(Setting(7, -1, 0), _programme(-17, -1.2))]
    assert best(LIMIT, missed) == 0
    with pytest.raises(MediaFailure, match=r"1\.0 LU from -16 LUFS"):
        best(FAIL, missed)


@given(
    lufs=st.floats(-50, -5),
    crest=st.floats(6, 22),
    slope=st.floats(0.6, 1.0),
    overshoot=st.floats(0, 1.5),
    target=st.floats(-31, -9),
    over_peaks=st.sampled_from([OverPeaks.LIMIT, OverPeaks.LOWER]),
)
def test_corrections_converge(
    lufs: float, crest: float, slope: float, overshoot: float, target: float, over_peaks: OverPeaks
) -> None:
    """Three encodes reach target and ceiling where limiting costs loudness steadily and the codec overshoots steadily.

    In the model each dB that is limited costs ``1 - slope`` LU, and the codec adds ``overshoot`` dB to every peak.
    """
    goal = Goal(target, -1, over_peaks, 8)
    before = _programme(lufs, lufs + crest)
    assume(target - lufs + lufs + crest < 15)
    encodes: list[Encode] = []
    setting: Setting | None = first_setting(goal, before)
    while setting is not None:
        peak = min(lufs + crest + setting.gain_db, setting.ceiling_dbtp) + overshoot
        loudness = lufs + setting.gain_db - (1 - slope) * setting.limited_by_db
        encodes.append(Encode(setting, _programme(loudness, peak)))
        setting = next_setting(goal, before, encodes, 4)
    chosen = encodes[best(goal, encodes)]
    assert len(encodes) <= 4
    assert chosen.after.true_peak_dbtp is not None
    assert chosen.after.true_peak_dbtp <= goal.ceiling_dbtp + TOLERANCE_DB
    assert chosen.after.integrated_lufs is not None
    if over_peaks is OverPeaks.LIMIT:
        assert abs(chosen.after.integrated_lufs - target) <= 2 * TOLERANCE_LU
    else:
        assert chosen.after.integrated_lufs <= target + TOLERANCE_LU
        assert chosen.setting.limited_by_db <= goal.max_reduction_db + 0.001
