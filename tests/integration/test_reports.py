"""Reports by the real FFmpeg, held against libebur128 and against the samples themselves."""

import array
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.intent import resolve
from presets.plan import Purpose
from presets.uris import path_to_uri
from tests.fakes.plans import Done, carry_out
from tests.fakes.synth import synthesise

#: Runs a command and prints its largest resident set in KiB.
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _done(
    source: Path,
    binary: Binary,
    workspace: Path,
    preset: str = "audio_analyze",
    profiles: Sequence[str] = ("report",),
    params: Mapping[str, str] | None = None,
) -> Done:
    intent = resolve(
        Catalog.shipped(),
        inputs=[("", path_to_uri(str(source)))],
        preset=preset,
        params=params or {},
        outputs=[(profile, f"file:///published/{profile}") for profile in profiles],
    )
    return carry_out(intent, [source], binary, workspace)


def _told(done: Done) -> Any:
    return json.loads((done.workspace / "out" / "report.json").read_text())


def _made(folder: Path, expression: str, *, rate: int = 48_000, layout: str = "", seconds: float = 8) -> Path:
    """What ``aevalsrc`` makes of an expression, one of each channel between bars, in 16 bits without dither."""
    path = folder / "made.wav"
    graph = f"aevalsrc='{expression}':s={rate}:d={seconds}" + (f":c={layout}" if layout else "")
    made = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", graph, "-c:a", "pcm_s16le", str(path)]
    subprocess.run(made, check=True, timeout=60)
    return path


def _channels(path: Path, count: int) -> list["array.array[float]"]:
    decode = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a:0", "-f", "f64le", "-"]
    decoded = array.array("d", subprocess.run(decode, capture_output=True, check=True).stdout)
    return [decoded[channel::count] for channel in range(count)]


def _rms_db(samples: Sequence[float]) -> float:
    return 10 * math.log10(sum(sample * sample for sample in samples) / len(samples))


def _runs(samples: Sequence[float]) -> list[int]:
    """Lengths of the runs of samples at full scale of one sign."""
    runs, length, before = [], 0, 0
    for sample in samples:
        sign = 0 if abs(sample) < 0.9999 else 1 if sample > 0 else -1
        if sign and sign == before:
            length += 1
        else:
            runs += [length] if length else []
            length = 1 if sign else 0
        before = sign
    return runs + ([length] if length else [])


@pytest.mark.parametrize("clip", ["speech-austen.ogg", "loud_music", "speech_with_rumble"])
def test_loudness_and_levels_are_those_of_libebur128_and_of_the_samples(
    clip: str, binary: Binary, media_corpus: Path, tmp_path: Path
) -> None:
    """Integrated loudness to 0.02 LU, the loudest moments and the range to 0.1, levels to 0.01 dB."""
    pyebur128 = pytest.importorskip("pyebur128", reason="pyebur128 has no wheel for this Python")
    source = media_corpus / clip if "." in clip else synthesise(clip, tmp_path)
    told = _told(_done(source, binary, tmp_path / "w"))["programme"]
    count, rate = told["channelCount"], told["sampleRateHz"]
    channels = _channels(source, count)
    frames = len(channels[0])
    interleaved = array.array("d", [sample for frame in zip(*channels, strict=True) for sample in frame])
    mode = pyebur128.MeasurementMode
    state = pyebur128.R128State(
        count, rate, mode.MODE_I | mode.MODE_LRA | mode.MODE_S | mode.MODE_M | mode.MODE_TRUE_PEAK
    )
    momentary = short_term = -math.inf
    step = rate // 10
    for start in range(0, frames, step):
        piece = interleaved[start * count : (start + step) * count]
        state.add_frames(piece, len(piece) // count)
        if start + step >= 0.4 * rate and len(piece) == step * count:
            momentary = max(momentary, pyebur128.get_loudness_momentary(state))
        if start + step >= 3 * rate and len(piece) == step * count:
            short_term = max(short_term, pyebur128.get_loudness_shortterm(state))
    assert told["integratedLufs"] == pytest.approx(pyebur128.get_loudness_global(state), abs=0.02)
    assert told["loudnessRangeLu"] == pytest.approx(pyebur128.get_loudness_range(state), abs=0.1)
    assert told["maxMomentaryLufs"] == pytest.approx(momentary, abs=0.1)
    assert told["maxShortTermLufs"] == pytest.approx(short_term, abs=0.1)
    peak = max(pyebur128.get_true_peak(state, channel) for channel in range(count))
    assert told["truePeakDbtp"] == pytest.approx(20 * math.log10(peak), abs=0.15)
    assert told["durationS"] == pytest.approx(frames / rate, abs=0.002)
    for channel, samples in zip(told["channels"], channels, strict=True):
        assert channel["rmsDbfs"] == pytest.approx(_rms_db(samples), abs=0.01)
        highest = max(map(abs, samples))
        assert channel["samplePeakDbfs"] == pytest.approx(20 * math.log10(highest), abs=0.01)
        assert channel["crestFactorDb"] == pytest.approx(20 * math.log10(highest) - _rms_db(samples), abs=0.02)
        assert channel["dcOffset"] == pytest.approx(sum(samples) / frames, abs=2e-6)


def test_clipping_is_counted(binary: Binary, tmp_path: Path) -> None:
    """Every sample at full scale, and runs at least nearly as long as the longest; quiet music has none."""
    loud = _made(tmp_path, "1.6*sin(2*PI*220*t)*(0.6+0.4*sin(2*PI*0.5*t))")
    told = _told(_done(loud, binary, tmp_path / "w"))["programme"]["clipping"]
    runs = _runs(_channels(loud, 1)[0])
    assert told["fullScaleSamples"] == pytest.approx(sum(runs), rel=0.02)
    assert 0.8 * max(runs) <= told["longestRunAtLeastSamples"] <= max(runs)
    assert told["hardClippedAtDbfs"] == pytest.approx(0, abs=0.01)
    quiet = _told(_done(synthesise("speech_with_rumble", tmp_path), binary, tmp_path / "quiet"))["programme"]
    assert quiet["clipping"] == {
        "fullScaleSamples": 0,
        "longestRunAtLeastSamples": 0,
        "hardClippedAtDbfs": None,
    }


def test_clipping_that_was_lowered_afterwards_is_still_seen(binary: Binary, tmp_path: Path) -> None:
    """Peaks cut off at half of full scale."""
    lowered = _made(tmp_path, "clip(0.9*sin(2*PI*220*t)\\,-0.5\\,0.5)")
    told = _told(_done(lowered, binary, tmp_path / "w"))["programme"]["clipping"]
    assert told["fullScaleSamples"] == 0
    assert told["hardClippedAtDbfs"] == pytest.approx(-6.02, abs=0.05)


def test_silences_are_mapped_to_the_hundredth(binary: Binary, tmp_path: Path) -> None:
    """Two of a second and more are listed with beginning and end, one of 0.3 s is not; louder ones if asked."""
    gaps = "(1-between(t\\,1\\,2.5))*(1-between(t\\,4\\,4.3))*lt(t\\,6)"
    source = _made(tmp_path, f"0.4*sin(2*PI*440*t)*{gaps}+0.002*sin(2*PI*90*t)*gte(t\\,6)")
    told = _told(_done(source, binary, tmp_path / "w"))["programme"]["silence"]
    [span] = told["spans"]
    assert (span["startS"], span["endS"]) == (pytest.approx(1, abs=0.01), pytest.approx(2.5, abs=0.01))
    assert (told["count"], told["totalS"]) == (1, pytest.approx(1.5, abs=0.02))
    louder = _told(_done(source, binary, tmp_path / "louder", params={"profile.below_dbfs": "-40"}))
    ends = [(span["startS"], span["endS"]) for span in louder["programme"]["silence"]["spans"]]
    assert ends == [pytest.approx((1, 2.5), abs=0.01), pytest.approx((6, 8), abs=0.01)]


@pytest.mark.parametrize(
    ("right", "correlation", "mono_db", "compatible"),
    [
        ("0.3*sin(2*PI*440*t)", 1, 0, True),
        ("0.3*sin(2*PI*440*t+PI/2)", 0, -3.01, True),
        ("-0.3*sin(2*PI*440*t)", -1, None, False),
    ],
)
def test_phase_is_the_correlation_of_the_samples(
    right: str, correlation: float, mono_db: float | None, compatible: bool, binary: Binary, tmp_path: Path
) -> None:
    """The same on both sides, a quarter of a period apart, and antiphase."""
    source = _made(tmp_path, f"0.3*sin(2*PI*440*t)|{right}", layout="stereo", seconds=4)
    phase = _told(_done(source, binary, tmp_path / "w"))["programme"]["phase"]
    assert phase["correlation"] == pytest.approx(correlation, abs=0.002)
    assert phase["worstCorrelation"] == pytest.approx(correlation, abs=0.005)
    assert phase["monoSumDb"] == pytest.approx(mono_db, abs=0.02) or (mono_db is None and phase["monoSumDb"] < -60)
    assert phase["monoCompatible"] is compatible


def test_direct_current_and_noise_floor(binary: Binary, tmp_path: Path) -> None:
    """Two percent of offset, and noise at -60 dBFS RMS between louder parts."""
    source = _made(tmp_path, "0.02+(random(0)-0.5)*0.003464+0.3*sin(2*PI*440*t)*gt(sin(2*PI*0.25*t)\\,0)")
    told = _told(_done(source, binary, tmp_path / "w"))["programme"]
    assert told["channels"][0]["dcOffset"] == pytest.approx(0.02, abs=1e-4)
    # The offset is part of the level: 0.02 is -33.98 dBFS.
    assert told["noiseFloorDbfs"] == pytest.approx(-33.97, abs=0.15)


def test_surround_at_its_own_rate_and_layout(binary: Binary, tmp_path: Path) -> None:
    """Six channels by their names, at 44.1 kHz; nothing is resampled or mixed for a report."""
    tones = "|".join(f"{0.1 * (n + 1)}*sin(2*PI*440*t)" for n in range(6))
    source = _made(tmp_path, tones, layout="5.1", rate=44_100, seconds=3)
    told = _told(_done(source, binary, tmp_path / "w"))["programme"]
    assert (told["sampleRateHz"], told["layout"], told["phase"]) == (44_100, "5.1", None)
    peaks = {channel["name"]: channel["samplePeakDbfs"] for channel in told["channels"]}
    assert peaks == {
        name: pytest.approx(20 * math.log10(0.1 * (n + 1)), abs=0.02)
        for n, name in enumerate(("L", "R", "C", "LFE", "Ls", "Rs"))
    }


@pytest.mark.parametrize("name", ["silence", "blip"])
def test_what_has_no_loudness_is_reported_as_having_none(name: str, binary: Binary, tmp_path: Path) -> None:
    """Digital silence, and less than a loudness block, are null and no number that stands for something else."""
    told = _told(_done(synthesise(name, tmp_path), binary, tmp_path / "w"))["programme"]
    assert told["integratedLufs"] is None
    assert told["peakToLoudnessRatioLu"] is None
    if name == "silence":
        assert told["truePeakDbtp"] is None
        assert told["silence"]["spans"] == [{"startS": 0.0, "endS": 3.0}]
        assert told["phase"]["monoCompatible"]


def test_beside_files_a_report_is_of_the_programme_before_and_of_each_file_after(
    binary: Binary, tmp_path: Path
) -> None:
    """-16 LUFS in both files, whatever it was before, in the order in which outputs were asked for."""
    source = synthesise("speech", tmp_path)
    done = _done(source, binary, tmp_path / "w", "loudness_podcast", ("aac_192", "report", "flac"))
    told = _told(done)
    assert [output["profile"] for output in told["outputs"]] == ["aac_192_v1", "flac_v1"]
    assert [made.name for made in done.plan.outputs] == ["aac_192", "report", "flac"]
    for output in told["outputs"]:
        assert output["file"]["integratedLufs"] == pytest.approx(-16, abs=0.2)
        assert output["targetLufs"] == -16
    assert told["programme"]["integratedLufs"] < -18
    gains = {output["gainDb"] for output in told["outputs"]}
    assert all(gain > 2 for gain in gains)


def test_a_report_of_the_same_file_is_the_same_to_the_byte(binary: Binary, tmp_path: Path) -> None:
    """Nothing of when or where is in it."""
    source = synthesise("loud_music", tmp_path)
    first, second = (_done(source, binary, tmp_path / name).path.read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_long_recording_is_measured_in_little_memory_and_little_room(binary: Binary, tmp_path: Path) -> None:
    """What is written stays below 8 kB a second, and FFmpeg below 200 MB, whatever the length."""
    source = tmp_path / "long.flac"
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "anoisesrc=r=8000:d=900:a=0.1:s=1", "-ac", "2", str(source)]
    subprocess.run(make, check=True, timeout=100)
    done = _done(source, binary, tmp_path / "w")
    written = sum(path.stat().st_size for path in done.workspace.glob("*.txt"))
    assert written < 900 * 8000
    [analysis] = [step for step in done.plan.invocations if step.purpose is Purpose.ANALYZE]
    # By a process between: what a process of its own begins as counts among the most that it had.
    told = subprocess.run(
        [sys.executable, "-c", _PEAK, binary.path, *analysis.argv], cwd=done.workspace, capture_output=True, check=True
    )
    assert int(told.stdout) < 200 * 1024
    assert _told(done)["programme"]["durationS"] == pytest.approx(900, abs=0.01)
