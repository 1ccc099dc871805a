"""Gain, limiting and correction, on a model of what limiters and codecs do."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from presets.levels import (
    TOLERANCE_DB,
    TOLERANCE_LU,
    Goal,
    Setting,
    Trial,
    best,
    closer_look,
    first_aim,
    first_setting,
    foretold,
    next_aim,
    next_encode,
    next_rehearsal,
)
from presets.operations.loudness import OverPeaks
from presets.plan import Loudness
from presets.problems import MediaFailure
from presets.reasons import Reason

LIMIT = Goal(-16, -1, OverPeaks.LIMIT, 8)
LOWER = Goal(-16, -1, OverPeaks.LOWER, 8)
FAIL = Goal(-16, -1, OverPeaks.FAIL, 8)


def _programme(lufs: float | None, dbtp: float | None) -> Loudness:
    return Loudness(lufs, dbtp, 3.0)


def test_a_gain_that_fits_needs_neither_limiter_nor_rehearsal() -> None:
    """Peaks below the ceiling after the gain: one factor and nothing else."""
    for before, setting in ((_programme(-23, -10), Setting(7, -1, 0)), (_programme(-8, 1), Setting(-8, -1, 0))):
        assert next_rehearsal(LIMIT, LIMIT, before, [], 0) is None
        assert next_encode(LIMIT, before, []) == setting


def test_peaks_above_the_ceiling_are_limited_and_that_is_rehearsed() -> None:
    """The reduction is what the gain puts above the ceiling, and the gain a little more than without a limiter."""
    setting = next_rehearsal(LIMIT, LIMIT, _programme(-27.9, -7.4), [], 0)
    assert setting is not None
    assert 11.9 < setting.gain_db < 13.5
    assert setting.limited_by_db == pytest.approx(-7.4 + setting.gain_db + 1)


def test_what_happens_beyond_the_allowed_reduction_is_the_caller_s_choice() -> None:
    """Limit all the same, stay below the target by what is missing, or fail and say why."""
    spiky = _programme(-36, -5)  # 20 dB of gain would put peaks 16 dB above the ceiling
    assert first_setting(LIMIT, spiky).limited_by_db >= 16
    assert first_setting(LOWER, spiky) == Setting(12, -1, 8)
    with pytest.raises(MediaFailure, match=r"peaks 16\.0 dB above -1 dBTP; at most 8 dB") as caught:
        first_setting(FAIL, spiky)
    assert caught.value.reason is Reason.LOUDNESS_UNREACHABLE


def test_a_rehearsal_that_may_have_no_more_gain_is_the_last() -> None:
    """Whoever wants to stay below the target is not measured again for what nobody may change."""
    spiky = _programme(-36, -5)
    quiet = Trial(Setting(12, -1, 8), _programme(-24.5, -1))
    assert next_rehearsal(LOWER, LOWER, spiky, [quiet], 0) is None
    assert next_encode(LOWER, spiky, [quiet]) == quiet.setting


@pytest.mark.parametrize("goal", [LIMIT, LOWER, FAIL])
def test_silence_gets_no_gain_but_keeps_its_ceiling(goal: Goal) -> None:
    """Nothing above the gate has no loudness to bring anywhere; a click in it may still be too high."""
    assert next_encode(goal, _programme(None, None), []) == Setting(0, -1, 0)
    assert next_encode(goal, _programme(None, 0.5), []) == Setting(0, -1, 1.5)
    assert next_rehearsal(goal, goal, _programme(None, 0.5), [], 0) is None
    assert closer_look(goal, _programme(None, None)) is None
    silent = Trial(Setting(0, -1, 0), _programme(None, -40))
    assert next_aim(goal, _programme(None, -40), [], [silent], 3) is None


@pytest.mark.parametrize(
    ("lufs", "dbtp", "gain_db"), [(-62.5, -54, 46.5), (-65, None, 49), (-40, -20, None), (-10, -40, None)]
)
def test_peaks_too_faint_for_the_meter_s_digits_are_looked_at_closer(
    lufs: float, dbtp: float | None, gain_db: float | None
) -> None:
    """An amplitude of 0.002 may be 0.0025, which is 2 dB more; measured at the gain it is to have it is clear."""
    assert closer_look(LIMIT, _programme(lufs, dbtp)) == gain_db


def test_what_is_beyond_the_meter_s_scale_is_measured_quieter() -> None:
    """Which ends at +10 LUFS, whatever the samples are."""
    assert closer_look(LIMIT, _programme(10, 90)) == -60


def test_a_lossless_file_need_not_be_measured() -> None:
    """Gain moves loudness and peaks alike and leaves the range; what was limited is in the file as rehearsed."""
    before = _programme(-23, -10)
    rehearsed = Trial(Setting(11, -1, 2), _programme(-12.4, -1))
    assert foretold(before, [], Setting(7, -1, 0)) == Loudness(-16, -3, 3.0)
    assert foretold(_programme(None, -80), [], Setting(0, -1, 0)) == Loudness(None, -80, 3.0)
    assert foretold(before, [rehearsed], Setting(11, -1, 2)) == rehearsed.after
    assert foretold(before, [rehearsed], Setting(11, -1.2, 2.2)) is None


def test_an_encode_within_tolerance_is_the_last() -> None:
    """A tenth of a LU and a few hundredths of a dB are no reason for another one."""
    done = Trial(Setting(7, -1, 0), _programme(-16 + 0.99 * TOLERANCE_LU, -1 + 0.99 * TOLERANCE_DB))
    assert next_aim(LIMIT, _programme(-23, -10), [], [done], 3) is None


def test_an_overshoot_lowers_the_ceiling_and_not_the_gain() -> None:
    """A codec's overshoot on a linear encode is answered with a limiter just below the peaks that were."""
    before = _programme(-23, -8.1)
    over = Trial(Setting(7, -1, 0), _programme(-16, -0.7))
    aim = next_aim(LIMIT, before, [], [over], 3)
    assert aim is not None
    following = next_rehearsal(aim, aim, before, [], 1)
    assert following is not None
    assert 7 <= following.gain_db < 7.05
    assert following.ceiling_dbtp < -1.1 - 0.3
    assert following.limited_by_db > 0


def test_what_a_codec_does_to_loudness_is_added_before_it() -> None:
    """A quarter of a LU lost in the file is aimed at more before it; what was rehearsed is not forgotten."""
    before = _programme(-23, -6)
    rehearsal = Trial(Setting(7.1, -1, 2.1), _programme(-16.02, -1))
    lost = Trial(rehearsal.setting, _programme(-16.27, -1.2))
    aim = next_aim(LIMIT, before, [rehearsal], [lost], 3)
    assert aim == Goal(-15.75, -1, OverPeaks.LIMIT, 8)
    assert next_rehearsal(LIMIT, aim, before, [rehearsal], 1) is None
    assert 7.35 < next_encode(aim, before, [rehearsal]).gain_db < 7.5


def test_what_a_codec_is_known_to_do_is_aimed_past() -> None:
    """What the encoder takes off is put on before, and limited peaks leave room for what it usually adds to them."""
    assert first_aim(LIMIT, _programme(-23, -6), 0.265, 0.1) == Goal(-15.735, -0.835, OverPeaks.LIMIT, 8)
    assert first_aim(LIMIT, _programme(-23, -9), 0.0, 0.35) == LIMIT


def test_a_rehearsal_that_tells_enough_is_the_last() -> None:
    """A quarter of a LU from the target is made up for without another one, where the limiter costs little there."""
    before = _programme(-23, -6)
    light = Trial(Setting(7.1, -1, 2.1), _programme(-16.2, -1))
    assert next_rehearsal(LIMIT, LIMIT, before, [light], 0) is None
    assert 7.3 < next_encode(LIMIT, before, [light]).gain_db < 7.4
    heavy = Trial(Setting(8, -1, 3), _programme(-16.8, -1))
    assert next_rehearsal(LIMIT, LIMIT, before, [heavy], 0) is not None
    assert next_encode(LIMIT, before, [heavy]) == heavy.setting


def test_the_last_encode_of_a_heavily_limited_programme_is_lower_as_a_whole() -> None:
    """A lower ceiling would be overshot by more; the same shape at a lower level is not."""
    before = _programme(-22, 0)
    rehearsals = [
        Trial(Setting(13.5, -1, 14.5), _programme(-16.1, -1)),
        Trial(Setting(20, -2.5, 22.5), _programme(-15, -2.5)),
    ]
    first, second = (
        Trial(trial.setting, _programme(lufs, dbtp))
        for trial, (lufs, dbtp) in zip(rehearsals, ((-17, -0.2), (-16.1, -0.7)), strict=True)
    )
    aim = next_aim(LIMIT, before, rehearsals, [first, second], 3)
    assert aim is not None
    assert aim.ceiling_dbtp == pytest.approx(-2.9)
    lower = next_rehearsal(aim, aim, before, rehearsals, 2)
    assert lower is not None
    assert lower.gain_db == pytest.approx(20 - 0.4, abs=0.01)
    assert lower.limited_by_db == pytest.approx(22.5, abs=0.01)


def test_room_that_a_lowered_ceiling_left_is_used_for_what_is_too_quiet() -> None:
    """Peaks 1.5 dB below the ceiling and a LU missing: the next ceiling is higher, and not above the one asked for."""
    before = _programme(-22, 0)
    rehearsal = Trial(Setting(30, -6, 36), _programme(-16, -6))
    aim = next_aim(LIMIT, before, [rehearsal], [Trial(rehearsal.setting, _programme(-17, -2.5))], 3)
    assert aim is not None
    assert -6 < aim.ceiling_dbtp < -4.5
    on_target = Trial(rehearsal.setting, _programme(-16.05, -2.5))
    assert next_aim(LIMIT, before, [rehearsal], [on_target], 3) is None


def test_no_more_encodes_than_allowed() -> None:
    """The profile's max_encodes ends the corrections, whatever was reached."""
    bad = Trial(Setting(7, -1, 0), _programme(-18, 1))
    assert next_aim(LIMIT, _programme(-23, -10), [], [bad] * 3, 3) is None
    assert next_aim(LIMIT, _programme(-23, -10), [], [bad] * 2, 3) is not None


def test_the_best_encode_keeps_the_ceiling_first() -> None:
    """Nearer to the target but above the ceiling loses."""
    clipping = Trial(Setting(7, -1, 0), _programme(-16, -0.5))
    quiet = Trial(Setting(7, -2, 1), _programme(-16.4, -1.4))
    close = Trial(Setting(7, -2, 1), _programme(-15.8, -1.3))
    assert best(LIMIT, [clipping, quiet, close]) == 2


def test_whoever_asked_to_fail_gets_no_file_that_misses() -> None:
    """After the last encode more than half a LU from the target is a failure for that choice only."""
    missed = [Trial(Setting(7, -1, 0), _programme(-17, -1.2))]
    assert best(LIMIT, missed) == 0
    with pytest.raises(MediaFailure, match=r"1\.0 LU from -16 LUFS"):
        best(FAIL, missed)


@given(
    lufs=st.floats(-50, -5),
    crest=st.floats(6, 22),
    bend=st.floats(0.01, 0.06),
    steepest=st.floats(0.2, 0.8),
    codec_lu=st.floats(-0.3, 0.1),
    overshoot=st.floats(0, 1.5),
    expected=st.tuples(st.sampled_from([0.0, 0.265, 0.446]), st.floats(0, 0.4)),
    target=st.floats(-31, -9),
    over_peaks=st.sampled_from([OverPeaks.LIMIT, OverPeaks.LOWER]),
)
def test_corrections_converge(
    lufs: float,
    crest: float,
    bend: float,
    steepest: float,
    codec_lu: float,
    overshoot: float,
    expected: tuple[float, float],
    target: float,
    over_peaks: OverPeaks,
) -> None:
    """Three encodes reach target and ceiling wherever gain alone would put the peaks 8 dB above it at most.

    In the model a limiter costs loudness with the square of what it takes off, until each further dB costs ``steepest``
    LU; the codec moves loudness by ``codec_lu`` and adds ``overshoot`` dB to every peak.
    """
    goal = Goal(target, -1, over_peaks, 8)
    before = _programme(lufs, lufs + crest)
    assume(target + crest + 1 <= 8)

    def limited(setting: Setting) -> Loudness:
        knee = steepest / (2 * bend)
        square = min(setting.limited_by_db, knee)
        cost = bend * square**2 + steepest * (setting.limited_by_db - square)
        return _programme(lufs + setting.gain_db - cost, min(lufs + crest + setting.gain_db, setting.ceiling_dbtp))

    rehearsals: list[Trial] = []
    encodes: list[Trial] = []
    aim: Goal | None = first_aim(goal, before, *expected)
    while aim is not None:
        while (setting := next_rehearsal(goal, aim, before, rehearsals, len(encodes))) is not None:
            rehearsals.append(Trial(setting, limited(setting)))
        assert len(rehearsals) <= 4 + 2 * len(encodes)
        setting = next_encode(aim, before, rehearsals)
        heard = limited(setting)
        assert heard.integrated_lufs is not None
        assert heard.true_peak_dbtp is not None
        file = _programme(heard.integrated_lufs + codec_lu, heard.true_peak_dbtp + overshoot)
        encodes.append(Trial(setting, file))
        aim = next_aim(goal, before, rehearsals, encodes, 3)
    chosen = encodes[best(goal, encodes)]
    assert chosen.after.true_peak_dbtp is not None
    assert chosen.after.true_peak_dbtp <= goal.ceiling_dbtp + TOLERANCE_DB
    assert chosen.after.integrated_lufs is not None
    if over_peaks is OverPeaks.LIMIT:
        assert abs(chosen.after.integrated_lufs - target) <= 2 * TOLERANCE_LU
    else:
        assert chosen.after.integrated_lufs <= target + TOLERANCE_LU
        assert chosen.setting.limited_by_db <= goal.max_reduction_db + 0.001
