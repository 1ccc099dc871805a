"""Several recordings made one by the real FFmpeg, beside and behind each other: samples counted, levels taken."""

import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.intent import resolve
from presets.uris import path_to_uri
from tests.fakes.chains import Heard, carry, samples
from tests.fakes.plans import carry_out

_NOISE = "anoisesrc=d={}:c=white:seed={}:r={}:a=0.2"


def _made(graph: str, path: Path) -> Path:
    """A file of float samples."""
    made = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", graph, "-c:a", "pcm_f32le", str(path)]
    subprocess.run(made, check=True, timeout=60)
    return path


def _noise(path: Path, seconds: float, *, rate: int = 48_000, seed: int = 1) -> Path:
    return _made(_NOISE.format(seconds, seed, rate), path)


def _largest_step(channel: Sequence[float]) -> float:
    return max(abs(after - before) for before, after in pairwise(channel))


def _choices(heard: Heard, subject: str) -> list[str]:
    return [d.choice for d in heard.done.plan.decisions if d.subject == subject]


def _joined(parts: Sequence[Path], crossfade_s: float, binary: Binary, workspace: Path) -> Heard:
    inputs = {f"part{number}": part for number, part in enumerate(parts)}
    chain = {"from": list(inputs), "steps": [{"op": "join", "crossfade_s": crossfade_s}]}
    return carry({"chain.out": chain}, inputs, binary, workspace)


def test_parts_are_joined_with_equal_power(binary: Binary, tmp_path: Path) -> None:
    """Steady noise goes on at its level through both crossfades, and lasts as long as the parts less those."""
    lengths = (3, 4, 2.5)
    parts = [_noise(tmp_path / f"{n}.wav", seconds, seed=n + 1) for n, seconds in enumerate(lengths)]
    heard = _joined(parts, 0.8, binary, tmp_path / "w")
    assert len(heard.channels[0]) == round((9.5 - 1.6) * 48_000)
    levels = [heard.rms_db(at / 10, at / 10 + 0.4) for at in range(74)]
    assert all(level == pytest.approx(median(levels), abs=0.5) for level in levels)


def test_parts_without_crossfade_follow_each_other_sample_by_sample(binary: Binary, tmp_path: Path) -> None:
    """Edge to edge: all samples of one, then all of the next."""
    parts = [_noise(tmp_path / f"{n}.wav", 1.5, seed=n + 1) for n in range(3)]
    heard = _joined(parts, 0, binary, tmp_path / "w")
    assert list(heard.channels[0]) == [sample for part in parts for sample in samples(part)[0]]


def test_a_crossfade_longer_than_half_of_a_part_is_shortened_and_said_to_be(binary: Binary, tmp_path: Path) -> None:
    """A jingle of one second between two parts that fade over two."""
    lengths = (5, 1, 5)
    parts = [_noise(tmp_path / f"{n}.wav", seconds, seed=n + 1) for n, seconds in enumerate(lengths)]
    heard = _joined(parts, 2, binary, tmp_path / "w")
    assert len(heard.channels[0]) == 10 * 48_000
    said = _choices(heard, "out: join")
    assert said == ["part0 and part1 crossfaded over 0.50 s", "part1 and part2 crossfaded over 0.50 s"]


def test_parts_of_different_rates_and_layouts_are_joined(binary: Binary, tmp_path: Path) -> None:
    """16 kHz mono, 44.1 kHz in 5.1, 48 kHz stereo: the highest rate, the widest layout, and no part is lost."""
    surround = _made(
        "aevalsrc=exprs=" + "|".join(["0.1*sin(440*2*PI*t)"] * 6) + ":c=5.1:s=44100:d=2", tmp_path / "s.wav"
    )
    stereo = _made("aevalsrc=exprs=0.1*sin(440*2*PI*t)|0.1*sin(440*2*PI*t):s=48000:d=2", tmp_path / "t.wav")
    heard = _joined([_noise(tmp_path / "m.wav", 2, rate=16_000), surround, stereo], 0.5, binary, tmp_path / "w")
    assert len(heard.channels) == 6
    assert heard.length_s == pytest.approx(5, abs=0.001)
    assert heard.rms_db(4.2, 4.8, 0) == pytest.approx(-23, abs=0.2)
    assert heard.rms_db(2, 3, 4) == pytest.approx(-23, abs=0.2)


def test_sources_are_mixed_at_their_gains_and_offsets(binary: Binary, tmp_path: Path) -> None:
    """Each at its own moment and level, however many there are: none is turned down because of the others."""
    inputs = {f"tone{n}": _made(f"sine=f=997:r=48000:d=1,volume={-n}dB", tmp_path / f"{n}.wav") for n in range(6)}
    mix = {
        "op": "mix",
        "gains_db": {"tone1": -6, "tone2": 3},
        "offsets_s": {name: 1.5 * n for n, name in enumerate(inputs)},
    }
    heard = carry({"chain.out": {"from": list(inputs), "steps": [mix]}}, inputs, binary, tmp_path / "w")
    assert len(heard.channels[0]) == round(8.5 * 48_000)
    loud = heard.rms_db(0.2, 0.8)
    assert loud == pytest.approx(-21.07, abs=0.05)
    for number, gain_db in enumerate((0, -6, 3, 0, 0, 0)):
        at = 1.5 * number
        assert heard.rms_db(at + 0.2, at + 0.8) == pytest.approx(loud - number + gain_db, abs=0.02)
        assert number == 5 or heard.rms_db(at + 1.05, at + 1.45) < -120


def test_a_role_that_repeats_gives_several_sources(binary: Binary, tmp_path: Path) -> None:
    """Three recordings of one role, of different rates and layouts, sound together."""
    text = """
name = "several"
version = 1
default_profile = "audio_only_master_v1"
[roles]
voice = { media = "audio", repeat = true }
[chain.out]
from = ["voice"]
steps = [{ op = "mix", gains_db = { voice = -6 } }]
"""
    paths = [
        _made("sine=f=500:r=16000:d=2", tmp_path / "a.wav"),
        _made("sine=f=2000:r=44100:d=3,pan=stereo|c0=c0|c1=c0", tmp_path / "b.wav"),
        _made("sine=f=5000:r=48000:d=4", tmp_path / "c.wav"),
    ]
    catalog = Catalog.shipped().with_documents([text], [])
    given = [("voice", path_to_uri(str(path))) for path in paths]
    intent = resolve(catalog, inputs=given, preset="several", params={}, outputs=[("", "file:///published/x.wav")])
    heard = Heard(samples((done := carry_out(intent, paths, binary, tmp_path / "w")).path), done)
    assert (len(heard.channels), len(heard.channels[0])) == (2, 4 * 48_000)
    last = heard.rms_db(3.2, 3.8)
    assert last == pytest.approx(-21.07 - 6 - 3, abs=0.1)  # mono at -3 dB in each channel
    assert heard.rms_db(2.2, 2.8) == pytest.approx(last + 4.77, abs=0.1)
    assert heard.rms_db(0.5, 1.5) == pytest.approx(last + 6.02, abs=0.1)


def test_a_part_is_brought_to_a_loudness_by_one_gain(binary: Binary, tmp_path: Path) -> None:
    """Every sample is the source's times the same factor."""
    source = _noise(tmp_path / "noise.wav", 3)
    chain = {"from": ["source"], "steps": [{"op": "level", "target_lufs": -30}]}
    heard = carry({"chain.out": chain}, {"source": source}, binary, tmp_path / "w")
    before = samples(source)[0]
    factor = heard.channels[0][1000] / before[1000]
    assert max(abs(a * factor - b) for a, b in zip(before, heard.channels[0], strict=True)) < 1e-6
    pyebur128 = pytest.importorskip("pyebur128", reason="pyebur128 has no wheel for this Python")
    state = pyebur128.R128State(1, 48_000, pyebur128.MeasurementMode.MODE_I)
    state.add_frames(heard.channels[0], len(heard.channels[0]))
    assert pyebur128.get_loudness_global(state) == pytest.approx(-30, abs=0.1)
