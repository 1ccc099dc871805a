"""What is delivered at a loudness, by the real FFmpeg: every named programme, measured by libebur128."""

import array
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.intent import Intent, resolve
from presets.uris import path_to_uri
from tests.fakes.crossing import crossed
from tests.fakes.media_measure import measured
from tests.fakes.plans import carry_out, listed
from tests.fakes.programmes import PROGRAMMES, available, programme

TALK = """
name = "talk"
version = 1
default_profile = "audio_only_master_v1"
[roles]
talk = { media = "audio", default = true }
[parameters]
offset_lu = { type = "number", unit = "LU", default = 0, min = -6, max = 0 }
[chain.out]
from = ["talk"]
steps = [{ op = "loudness", target_lufs = -20, mono_offset_lu = "$offset_lu" }]
"""

ONLY_MEASURED = """
name = "only_measured"
version = 1
default_profile = "audio_only_master_v1"
[roles]
talk = { media = "audio", default = true }
[chain.out]
from = ["talk"]
steps = [{ op = "loudness" }]
"""

#: Profiles and parameters.
DELIVERIES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "aac 96 -16": ("aac_192", {"target_lufs": "-16", "profile.bitrate_kbps": "96"}),
    "opus 96 -23": ("opus_96", {"target_lufs": "-23"}),
    "wav -14": ("audio_only_master", {"target_lufs": "-14"}),
}

#: What AAC at 96 kbit/s makes of strokes of white noise. They need 19 dB of limiting, although gain alone puts their
#: peaks 7.6 dB above the ceiling, and come out over a LU less loud, with peaks 2 dB above the ceiling. Three encodes
#: keep the ceiling and miss the loudness by so much, which the report says.
_MISSED = {("sparse percussion", "aac 96 -16"): 2.0}

CATALOG = Catalog.shipped().with_documents([TALK, ONLY_MEASURED], [])


@pytest.fixture(scope="session")
def programmes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programmes")


def _source(name: str, folder: Path) -> Path:
    if name not in available():
        pytest.skip(f"no recordings of {PROGRAMMES[name].clips}: set MEDIA_CORPUS")
    return programme(name, folder)


def _intent(preset: str, source: Path, profile: str = "", params: Mapping[str, str] | None = None) -> Intent:
    return resolve(
        CATALOG,
        inputs=[("", path_to_uri(str(source)))],
        preset=preset,
        params=params or {},
        outputs=[(profile, "file:///published")],
    )


def _samples(path: Path) -> "array.array[float]":
    decoded = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a:0", "-f", "f64le", "-"], capture_output=True, check=True
    )
    return array.array("d", decoded.stdout)


@pytest.mark.parametrize(
    ("name", "delivery"),
    # Of the music's two minutes the benchmark takes care.
    crossed([name for name in PROGRAMMES if name != "music"], [*DELIVERIES], also=_MISSED),
)
def test_a_programme_is_delivered_at_its_loudness(name: str, delivery: str, programmes: Path, tmp_path: Path) -> None:
    """Within 0.2 LU over 10 s and 0.5 under, wherever gain would put the peaks 8 dB above the ceiling at most; below
    the ceiling always; and the report says what libebur128 says."""
    source = _source(name, programmes)
    intent = _intent("loudness_podcast", source, *DELIVERIES[delivery])
    done = carry_out(intent, [source], listed("ffmpeg"), tmp_path / "w")
    [report] = done.plan.measured
    assert report.before is not None
    assert report.before.integrated_lufs is not None
    assert report.before.true_peak_dbtp is not None
    assert report.after is not None
    assert report.target_lufs is not None
    heard = measured(done.path)
    assert report.after.integrated_lufs == pytest.approx(heard.integrated_lufs, abs=0.03)
    assert report.after.true_peak_dbtp == pytest.approx(heard.true_peak_dbtp, abs=0.3)
    assert heard.true_peak_dbtp <= -0.95
    assert report.missed_by_lu == pytest.approx(heard.integrated_lufs - report.target_lufs, abs=0.03)
    if report.before.true_peak_dbtp + report.target_lufs - report.before.integrated_lufs + 1 <= 8:
        tolerance = _MISSED.get((name, delivery), 0.2 if heard.duration_s > 10 else 0.5)
        assert heard.integrated_lufs == pytest.approx(report.target_lufs, abs=tolerance)


@pytest.mark.parametrize("profile", ["audio_only_master", "flac"])
def test_linear_gain_changes_nothing_else(profile: str, binary: Binary, programmes: Path, tmp_path: Path) -> None:
    """Null test with the reported gain: at most 1.5 of the last of 24 bits are left; the loudness range stays."""
    source = _source("wide range", programmes)
    done = carry_out(_intent("loudness_ebu_r128", source, profile), [source], binary, tmp_path / "w")
    [report] = done.plan.measured
    assert report.gain_db
    assert report.limited_by_db == 0
    factor = 10 ** (report.gain_db / 20)
    before, after = _samples(source), _samples(done.path)
    assert len(before) == len(after)
    assert max(abs(a * factor - b) for a, b in zip(before, after, strict=True)) <= 1.5 * 2**-23
    assert measured(done.path).range_lu == pytest.approx(measured(source).range_lu, abs=0.2)


@pytest.mark.parametrize("bits", ["16", "24"])
def test_what_is_reported_of_a_lossless_file_without_measuring_it_is_so(
    bits: str, binary: Binary, programmes: Path, tmp_path: Path
) -> None:
    """Peaks far below what the meter's digits show are as right as the loudness, at any depth."""
    source = _source("near silence", programmes)
    params = {"target_lufs": "-20", "profile.bits": bits}
    done = carry_out(_intent("loudness_podcast", source, "flac", params), [source], binary, tmp_path / "w")
    [report] = done.plan.measured
    assert not any(step.measure for step in done.plan.invocations if step.purpose == "verify")
    heard = measured(done.path)
    assert report.after is not None
    assert report.after.integrated_lufs == pytest.approx(heard.integrated_lufs, abs=0.02)
    assert report.after.true_peak_dbtp == pytest.approx(heard.true_peak_dbtp, abs=0.1)


def test_what_is_louder_than_the_meter_goes(binary: Binary, tmp_path: Path) -> None:
    """Float samples as large as 16-bit numbers, a slip of many programs: the loudness asked for all the same."""
    source, graph = tmp_path / "raw.wav", "sine=f=300:r=48000:d=12,tremolo=f=0.5:d=0.8,volume=32768,aformat=flt"
    ffmpeg = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", graph, "-c:a", "pcm_f32le", str(source)]
    subprocess.run(ffmpeg, check=True)
    done = carry_out(_intent("loudness_podcast", source, "flac"), [source], binary, tmp_path / "w")
    [report] = done.plan.measured
    heard = measured(done.path)
    assert heard.integrated_lufs == pytest.approx(-16, abs=0.1)
    assert heard.true_peak_dbtp <= -0.95
    assert report.before is not None
    assert report.before.integrated_lufs == pytest.approx(measured(source).integrated_lufs, abs=0.1)


@pytest.mark.parametrize(("offset_lu", "lufs"), [("0", -20), ("-3", -23)])
def test_one_channel_is_brought_lower_where_that_is_asked_for(
    offset_lu: str, lufs: float, binary: Binary, programmes: Path, tmp_path: Path
) -> None:
    """A mono file 3 LU lower is, on two speakers, as loud as a stereo file; a stereo file is not touched by it."""
    for name, expected in (("sine sweep", lufs), ("pink noise", -20)):
        source = _source(name, programmes)
        intent = _intent("talk", source, params={"offset_lu": offset_lu})
        done = carry_out(intent, [source], binary, tmp_path / name)
        assert measured(done.path).integrated_lufs == pytest.approx(expected, abs=0.1)
        assert done.plan.measured[0].target_lufs == expected


def test_two_speakers_play_a_mono_file_three_lu_louder(programmes: Path, tmp_path: Path) -> None:
    """Why there is an offset: the same samples in both channels measure 3 LU more than in one."""
    source = _source("sine sweep", programmes)
    both = tmp_path / "both.wav"
    pan = ["-af", "pan=stereo|c0=c0|c1=c0", "-c:a", "pcm_s24le", str(both)]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), *pan], check=True)
    more = measured(both).integrated_lufs - measured(source).integrated_lufs
    assert more == pytest.approx(10 * math.log10(2), abs=0.01)


def test_what_is_only_measured_is_left_as_it_is(binary: Binary, programmes: Path, tmp_path: Path) -> None:
    """Every sample is the source's, and its loudness is reported."""
    source = _source("pink noise", programmes)
    done = carry_out(_intent("only_measured", source), [source], binary, tmp_path / "w")
    assert _samples(done.path) == _samples(source)
    [report] = done.plan.measured
    assert report.before is not None
    assert report.before.integrated_lufs == pytest.approx(measured(source).integrated_lufs, abs=0.02)
    assert report.gain_db is None
