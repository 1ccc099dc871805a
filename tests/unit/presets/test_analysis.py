"""Reading what the meters print."""

from collections.abc import Iterable, Iterator
from math import inf

import pytest

from presets.analysis import Analysis, analyse
from presets.plan import StepResult


def _printed(frames: Iterable[tuple[float, dict[str, float]]]) -> Iterator[str]:
    """Lines as ``ametadata=mode=print`` writes them."""
    for number, (at_s, values) in enumerate(frames):
        yield f"frame:{number}    pts:{int(at_s * 48_000)}   pts_time:{at_s}\n"
        for key, value in values.items():
            yield f"lavfi.{key}={value}\n"


def _peaks(channels: int, seconds: float, *, peak: float = 0.5) -> Iterator[str]:
    blocks = int(seconds * 10)
    values = {f"r128.true_peaks_ch{number}": peak for number in range(channels)}
    return _printed((n / 10, {"r128.M": -20.0 - n, "r128.S": -23.0 + n / 10, **values}) for n in range(blocks))


def _window(*channels: tuple[float, float, int, float], dc: float = 0.0) -> dict[str, float]:
    """Of each channel its RMS in dB, highest sample, how often it came, and the length of its runs."""
    values: dict[str, float] = {}
    for number, (rms, peak, count, flat) in enumerate(channels, start=1):
        of = {"DC_offset": dc, "Min_level": -peak / 2, "Max_level": peak, "RMS_level": rms}
        of |= {"Flat_factor": flat, "Peak_count": count}
        values |= {f"astats.{number}.{key}": value for key, value in of.items()}
    return values


def _of(*windows: dict[str, float], silences: Iterable[str] = (), channels: int = 1) -> Analysis:
    seconds = 0.4 * len(windows)
    frames = [(0.4 * number, window) for number, window in enumerate(windows)]
    return analyse(_peaks(channels, seconds), _printed(frames), silences, seconds)


def test_levels_add_up_by_their_energy() -> None:
    """Half of the time at -10 dB and half at -20 dB is -12.6 dB; the floor is the lower one."""
    found = _of(_window((-10, 0.5, 1, 0)), _window((-20, 0.2, 1, 0)), _window((-inf, 0, 19200, -inf)))
    [channel] = found.channels
    assert channel.rms_dbfs == pytest.approx(-12.596 - 1.761, abs=0.01)
    assert channel.sample_peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert found.noise_floor_dbfs == -20
    assert found.phase is None


def test_a_channel_is_silent_that_never_reaches_60_db_below_full_scale() -> None:
    """Nothing at all, or the noise of a cable that leads nowhere; one sample at full scale is not silence."""
    found = _of(_window((-20, 1.0, 1, 0), (-inf, 0, 19200, 0), (-90, 0.0005, 1, 0), (-55, 0.002, 1, 0)), channels=4)
    assert [channel.is_silent for channel in found.channels] == [False, True, True, False]


def test_samples_at_full_scale_are_counted_and_their_runs_are_seen() -> None:
    """Twelve at full scale in one window and thirty in another, eight of these in a row."""
    found = _of(_window((-6, 0.99997, 12, 0)), _window((-6, 1.0, 30, 18.06)), _window((-6, 0.9, 500, 0)))
    assert found.channels[0].full_scale_samples == 42
    assert found.longest_run == 8
    assert found.hard_clipped_at_dbfs == pytest.approx(0, abs=0.001)


def test_peaks_cut_off_below_full_scale_are_found_and_single_ones_are_not() -> None:
    """A clipped recording that was lowered by 6 dB has flat peaks; one that touches its peak now and then has none."""
    assert _of(*[_window((-10, 0.5, 20, 20.0))] * 3).hard_clipped_at_dbfs == pytest.approx(-6.02, abs=0.01)
    assert _of(*[_window((-10, 0.5, 20, 3.0))] * 3).hard_clipped_at_dbfs is None
    assert _of(_window((-10, 0.5, 9, 20.0))).hard_clipped_at_dbfs is None


@pytest.mark.parametrize(
    ("middle_db", "side_db", "correlation", "mono_db"),
    [(-10, -inf, 1.0, 0.0), (-13.0103, -13.0103, 0.0, -3.01), (-inf, -10, -1.0, None)],
)
def test_phase_follows_from_half_sum_and_half_difference(
    middle_db: float, side_db: float, correlation: float, mono_db: float | None
) -> None:
    """Two equal channels, two unrelated ones, and antiphase, of which mono leaves nothing."""
    window = _window((-10, 0.5, 1, 0), (-10, 0.5, 1, 0), (middle_db, 0.5, 1, 0), (side_db, 0.5, 1, 0))
    phase = _of(window, window, channels=2).phase
    assert phase is not None
    assert phase.correlation == pytest.approx(correlation, abs=1e-4)
    assert phase.worst_correlation == pytest.approx(correlation, abs=1e-4)
    assert phase.mono_sum_db == pytest.approx(mono_db, abs=0.01)


def test_four_channels_are_not_taken_for_two() -> None:
    """What distinguishes stereo is that the loudness meter hears two channels."""
    found = _of(_window(*[(-10, 0.5, 1, 0)] * 4), channels=4)
    assert len(found.channels) == 4
    assert found.phase is None


def test_a_silence_that_lasts_to_the_end_ends_there() -> None:
    """The meter says where it begins, and never that it ends; one before it is whole, and both may share a frame."""
    silences = _printed(
        [
            (0, {"silence_start": -0.01}),
            (0.8, {"silence_start": 0.9, "silence_end": 0.75, "silence_duration": 0.76}),
        ]
    )
    found = _of(*[_window((-10, 0.5, 1, 0))] * 4, silences=silences)
    assert list(found.silences) == [(0, 0.75), (0.9, 1.6)]
    assert (found.silence_count, found.silence_s) == (2, 1.45)


def test_the_loudest_moments_leave_out_windows_that_are_not_full() -> None:
    """Before 0.4 s and 3 s have gone by the meters hear silence too."""
    loud = _printed((n / 10, {"r128.M": 0.0 - n, "r128.S": -9.0 - n, "r128.true_peaks_ch0": 0.5}) for n in range(35))
    found = analyse(loud, (), (), 3.5)
    assert (found.max_momentary_lufs, found.max_short_term_lufs) == (-3, -38)


def test_nothing_is_no_programme_with_a_level() -> None:
    """Meters that printed nothing make an analysis without figures."""
    found = analyse((), (), (), 0)
    assert found.channels == ()
    assert (found.noise_floor_dbfs, found.max_momentary_lufs, found.longest_run) == (None, None, 0)


def test_results_survive_the_journal() -> None:
    """An analysis is the same after it has been written down and read again."""
    found = _of(*[_window(*[(-10, 0.5, 1, 0)] * 4)] * 3, silences=_printed([(0, {"silence_start": 0.2})]), channels=2)
    result = StepResult(1.2, None, analysis=found)
    assert StepResult.from_json(result.to_json()) == result


def test_an_hour_is_read_line_by_line() -> None:
    """A generator of nine thousand windows gives one analysis of them."""
    window = _window((-10, 0.5, 1, 0))
    frames = ((0.4 * number, window) for number in range(9_000))
    found = analyse(_peaks(1, 100), _printed(frames), (), 3600)
    assert found.channels[0].rms_dbfs == pytest.approx(-10)
