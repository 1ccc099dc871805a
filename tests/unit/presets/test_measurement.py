"""Reading the meter's metadata and FFmpeg's progress."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.measurement import TAIL_BYTES, TAIL_S, parse_frames, parse_loudness, parse_progress, step_result
from presets.plan import Invocation, Loudness, Purpose, StepResult


def _block(number: int, lufs: float | str, *peaks: float | str) -> str:
    lines = [f"frame:{number}    pts:{number * 4800}    pts_time:{number / 10}", f"lavfi.r128.I={lufs}"]
    lines += ["lavfi.r128.M=-120.691", "lavfi.r128.LRA=3.120"]
    lines += [f"lavfi.r128.true_peaks_ch{channel}={peak}" for channel, peak in enumerate(peaks)]
    return "\n".join(lines) + "\n"


def test_loudness_is_the_programme_s_and_peaks_are_the_padded_end_s() -> None:
    """The last block holds the last samples and the padding: its peaks count, its loudness does not."""
    loudness = parse_loudness(_block(8, -20.0, 0.1, 0.1) + _block(9, -16.5, 0.1, 0.25) + _block(10, -17.9, 0.5, 0.25))
    assert loudness.integrated_lufs == -16.5
    assert loudness.true_peak_dbtp == pytest.approx(20 * math.log10(0.5))
    assert loudness.range_lu == 3.12


def test_silence_has_neither_loudness_nor_peak() -> None:
    """The meter shows -70 LUFS until something passes its gate."""
    silent = _block(0, "-70.000", "0.000") * 2
    assert parse_loudness(silent) == Loudness(None, None, None)


@pytest.mark.parametrize("tail", ["", _block(0, -16, 0.5), "lavfi.r128.I=-16\n", "frame:1\nlavfi.r128.I=nan\n" * 2])
def test_too_little_is_no_loudness(tail: str) -> None:
    """An empty file, a recording shorter than a block, and numbers that are none."""
    assert parse_loudness(tail).integrated_lufs is None


@given(st.integers(min_value=0, max_value=2000))
def test_a_tail_that_begins_within_a_line_reads_the_same(start: int) -> None:
    """Only the last blocks matter, wherever the tail was cut."""
    text = "".join(_block(n, -16.0 - n, 0.25, 0.125) for n in range(12))
    assert parse_loudness(text[min(start, len(text) - 600) :]) == parse_loudness(text)


def test_a_tail_holds_the_last_blocks_of_many_channels() -> None:
    """The bytes an agent reads are enough for the widest stream."""
    assert 2 * len(_block(10**6, "-16.000", *["0.000"] * 64).encode()) < TAIL_BYTES


@pytest.mark.parametrize(
    ("value", "seconds"), [("13910063", 13.910063), ("N/A", None), ("-9223372036854775807", None), ("0", 0.0)]
)
def test_progress_is_read_in_microseconds_whatever_is_printed_before_the_first_packet(
    value: str, seconds: float | None
) -> None:
    """N/A, zero and the lowest integer are all printed by some version."""
    assert parse_progress([f"out_time_us={value}\n", "out_time_ms=5\n", "progress=continue\n"]) == seconds


def test_a_measuring_step_s_time_is_without_its_padding() -> None:
    """Silence that was appended for the meter is no media, and a pass that put out nothing decoded nothing."""
    step = Invocation("measure", Purpose.MEASURE, (), (), "m.txt", None, 1.0, False)
    assert step_result(step, 10.0 + TAIL_S, "").out_time_s == pytest.approx(10)
    assert step_result(step, None, None).out_time_s is None
    assert step_result(step, TAIL_S, "").out_time_s is None


@pytest.mark.parametrize(
    ("lines", "frames"),
    [
        (["frame=12", "fps=3"], 12),
        (["frame=  0 "], 0),
        (["frame=1", "frame=2"], 2),
        (["out_time_us=1"], None),
        (["frame=N/A"], None),
    ],
)
def test_frames_are_counted_where_there_is_a_picture(lines: list[str], frames: int | None) -> None:
    """None is where nothing is counted, 0 where not one came."""
    assert parse_frames(lines) == frames
    step = Invocation("verify", Purpose.VERIFY, (), (), None, None, 1.0, False)
    made = step_result(step, 1.0, None, frames)
    assert made == StepResult(1.0, None, frames)
    assert StepResult.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert StepResult.from_json({"out_time_s": 1.0, "loudness": None}) == StepResult(1.0, None)
