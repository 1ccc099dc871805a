"""Envelope and loudness of real files, against a meter that shares no code with FFmpeg's and against arithmetic."""

import math
import struct
import subprocess
from pathlib import Path

import pytest

from ctl.levels import Levels, Unmeasurable, measure
from ctl.picture import Sound, draw
from tests.fakes.media_measure import measured
from tests.fakes.synth import synthesise


def _levels(path: Path) -> Levels:
    levels = measure(path)
    assert levels is not None
    return levels


def test_a_tone_measures_what_it_is(tmp_path: Path) -> None:
    """997 Hz at an eighth of full scale: that envelope throughout, and the power of the sine as its loudness."""
    levels = _levels(synthesise("tone", tmp_path))
    assert levels.duration_s == pytest.approx(5, abs=0.011)
    low, high = levels.column(1, 4) or (0.0, 0.0)
    assert (low, high) == pytest.approx((-0.125, 0.125), abs=0.002)
    lufs = 10 * math.log10(0.125**2 / 2)
    assert levels.loudness.integrated_lufs == pytest.approx(lufs, abs=0.1)
    steady = [reading for reading in levels.readings if reading.time_s >= 3]
    assert steady[0].time_s == 3
    for reading in steady:
        assert (reading.momentary_lufs, reading.short_term_lufs) == pytest.approx((lufs, lufs), abs=0.1)
    assert all(reading.short_term_lufs is None for reading in levels.readings if reading.time_s < 3)


@pytest.mark.parametrize("name", ["speech", "loud_music", "clicks", "surround"])
def test_loudness_and_peak_are_those_of_another_meter(name: str, tmp_path: Path) -> None:
    """As libebur128 sees the same file."""
    path = synthesise(name, tmp_path)
    levels, other = _levels(path), measured(path)
    assert levels.loudness.integrated_lufs == pytest.approx(other.integrated_lufs, abs=0.1)
    assert levels.loudness.true_peak_dbtp == pytest.approx(other.true_peak_dbtp, abs=0.4)
    assert levels.duration_s == pytest.approx(other.duration_s, abs=0.1)


def test_sound_that_begins_late_is_shown_late(tmp_path: Path) -> None:
    """Two seconds of picture come first."""
    levels = _levels(synthesise("late_audio", tmp_path))
    assert levels.column(0, 1.9) == pytest.approx((0, 0), abs=1e-3)
    low, high = levels.column(2.2, 3) or (0.0, 0.0)
    assert high > 0.1 > -0.1 > low
    assert levels.column(7, 8) is None


def test_the_envelope_of_a_long_file_is_no_longer_than_needed(tmp_path: Path) -> None:
    """A sound in the last second of ten minutes stands there, in a few thousand blocks."""
    path = tmp_path / "long.flac"
    late = "aevalsrc='if(gte(t,599),0.5,0.001)*sin(2*PI*300*t)':s=8000:d=600"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", late, path], check=True, timeout=60)
    levels = _levels(path)
    assert len(levels.envelope) <= 4001
    assert levels.duration_s == pytest.approx(600, abs=0.2)
    assert levels.column(300, 301) == pytest.approx((-0.001, 0.001), abs=5e-4)
    assert levels.column(599.2, 600) == pytest.approx((-0.5, 0.5), abs=0.01)


def test_infinite_samples_do_no_harm(tmp_path: Path) -> None:
    """A file of floating point may hold anything; its picture is drawn all the same."""
    path = tmp_path / "wild.wav"
    values = struct.pack("<4f", math.inf, -math.inf, math.nan, 1e30) * 12_000
    sound = ["-f", "f32le", "-ar", "48000", "-ac", "1", "-i", "-", "-c:a", "pcm_f32le", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", *sound], input=values, check=True, timeout=60)
    levels = _levels(path)
    assert all(math.isfinite(value) for block in levels.envelope for value in block)
    assert draw("t", [Sound("wild", False, levels)], -16.0)


def test_silence_has_neither_loudness_nor_peak(tmp_path: Path) -> None:
    """And a flat envelope."""
    levels = _levels(synthesise("silence", tmp_path))
    assert (levels.loudness.integrated_lufs, levels.loudness.true_peak_dbtp) == (None, None)
    assert levels.column(0, 3) == (0, 0)


def test_what_has_no_sound_has_no_levels(tmp_path: Path) -> None:
    """A silent film is no error."""
    assert measure(synthesise("video_only", tmp_path)) is None


def test_what_can_t_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No media, a playlist that names other files, nothing at all, and a machine without FFmpeg."""
    for name, text in (("words.wav", "just some words\n"), ("list.wav", "ffconcat version 1.0\nfile other.wav\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(Unmeasurable, match="ffprobe can't read it: "):
            measure(tmp_path / name)
    with pytest.raises(Unmeasurable, match="No such file"):
        measure(tmp_path / "absent.wav")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unmeasurable, match="must be on PATH"):
        measure(tmp_path / "words.wav")
