"""Music under voice by the real FFmpeg: how long it is, how its rounds meet, and how far it goes down.

Seen from outside: samples are counted, levels are taken of a tone that is band-passed out of the mix.
"""

import subprocess
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest

from presets.capabilities import Binary
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.fakes.chains import Heard, carry, samples
from tests.fakes.ducking import ducking
from tests.fakes.synth import synthesise

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


def _fitted(bed: Path, voice: Path, binary: Binary, workspace: Path, **more: Any) -> Heard:
    """The bed alone, as long as the voice: the voice is mixed so low that nobody hears it."""
    chains: dict[str, dict[str, Any]] = {
        "chain.speech": {"from": ["voice"], "steps": []},
        "chain.bed": {"from": ["music"], "steps": [{"op": "fit", "length_of": "speech", **more}]},
        "chain.out": {"from": ["bed", "speech"], "steps": [{"op": "mix", "gains_db": {"speech": -90}}]},
    }
    return carry(chains, {"voice": voice, "music": bed}, binary, workspace)


def test_a_short_bed_is_repeated_without_a_seam(binary: Binary, tmp_path: Path) -> None:
    """Steady noise of 4 s under 15 s: the level stays within half a decibel, and no two samples make a click.

    44.1 kHz under 16 kHz, delivered at 48 kHz: as long as the voice and the tail, to the sample.
    """
    voice = _noise(tmp_path / "voice.wav", 15.0123125, rate=16_000, seed=2)
    bed = _made("aevalsrc=0.2*random(0)-0.1:s=44100:d=4,lowpass=f=800,lowpass=f=800", tmp_path / "bed.wav")
    heard = _fitted(bed, voice, binary, tmp_path / "w", tail_s=1, crossfade_s=0.5)
    assert len(heard.channels[0]) == round(16.0123125 * 48_000)
    levels = [heard.rms_db(at / 2, at / 2 + 1) for at in range(31)]
    assert max(levels) - min(levels) < 1.0
    assert all(level == pytest.approx(median(levels), abs=0.5) for level in levels)
    assert _largest_step(heard.channels[0]) < 1.5 * _largest_step(samples(bed)[0])
    assert _choices(heard, "bed: fit") == ["repeated up to 16.01 s, crossfaded over 0.50 s"]


def test_the_first_round_is_the_bed_as_it_is(binary: Binary, tmp_path: Path) -> None:
    """Nothing but the end of a round is crossfaded, and each later round is the same."""
    voice, bed = _noise(tmp_path / "voice.wav", 11, seed=2), _noise(tmp_path / "bed.wav", 4)
    heard = _fitted(bed, voice, binary, tmp_path / "w", crossfade_s=0.5)
    source = samples(bed)[0]
    first, period = 168_000, 168_000  # 4 s less the half second that two rounds share
    assert max(abs(a - b) for a, b in zip(heard.channels[0][:first], source, strict=False)) < 1e-4
    second, third = heard.channels[0][24_000 + period :], heard.channels[0][24_000 + 2 * period :]
    assert max(abs(a - b) for a, b in zip(second, third, strict=False)) < 1e-4


def test_a_crossfade_is_shortened_for_a_very_short_bed_and_said_to_be(binary: Binary, tmp_path: Path) -> None:
    """A quarter of the bed is the most that fades."""
    voice, bed = _noise(tmp_path / "voice.wav", 7, seed=2), _noise(tmp_path / "bed.wav", 1.2)
    heard = _fitted(bed, voice, binary, tmp_path / "w", crossfade_s=2)
    assert _choices(heard, "bed: fit") == [
        "repeated up to 7.00 s, crossfaded over 0.30 s instead of 2 s, a quarter of it"
    ]
    assert len(heard.channels[0]) == 7 * 48_000
    assert heard.rms_db(5, 6) == pytest.approx(heard.rms_db(0, 1), abs=0.5)


def test_a_bed_too_short_to_repeat_is_refused(binary: Binary, tmp_path: Path) -> None:
    """Half a second again and again is a stutter; what to do instead is said."""
    voice, bed = _noise(tmp_path / "voice.wav", 7, seed=2), _noise(tmp_path / "bed.wav", 0.5)
    with pytest.raises(MediaFailure, match=r'lasts 0\.50 s.*if_short = "pad"') as caught:
        _fitted(bed, voice, binary, tmp_path / "w")
    assert caught.value.reason is Reason.UNSUPPORTED_COMBINATION


def test_a_bed_that_is_not_repeated_ends_with_its_fade_and_silence(binary: Binary, tmp_path: Path) -> None:
    """It fades where it ends, not where the programme does."""
    voice, bed = _noise(tmp_path / "voice.wav", 9, seed=2), _noise(tmp_path / "bed.wav", 4)
    heard = _fitted(bed, voice, binary, tmp_path / "w", if_short="pad", fade_out_s=1)
    assert len(heard.channels[0]) == 9 * 48_000
    assert heard.rms_db(3.9, 4) < heard.rms_db(1, 2) - 15
    assert heard.rms_db(5, 9) < -100


@pytest.mark.parametrize("seconds", [6.5, 30.0])
def test_a_long_bed_is_cut_and_fades(seconds: float, binary: Binary, tmp_path: Path) -> None:
    """A little longer than needed or much: cut to the sample, with its fades in their places."""
    voice, bed = _noise(tmp_path / "voice.wav", 5, seed=2), _noise(tmp_path / "bed.wav", seconds)
    heard = _fitted(bed, voice, binary, tmp_path / "w", tail_s=1, fade_in_s=1, fade_out_s=2)
    assert len(heard.channels[0]) == 6 * 48_000
    middle = heard.rms_db(1.5, 3.5)
    assert heard.rms_db(0.45, 0.55) == pytest.approx(middle - 3, abs=0.4)
    assert heard.rms_db(4.95, 5.05) == pytest.approx(middle - 3, abs=0.4)
    assert heard.rms_db(5.95, 6) < middle - 25


@pytest.fixture(scope="session")
def tone_12k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise("tone_12k", tmp_path_factory.mktemp("tone"))


@pytest.fixture(scope="session")
def voices(media_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Real speech, and both with seconds of silence before, between and behind."""
    austen, other = media_corpus / "speech-austen.ogg", media_corpus / "speech-2.ogg"
    spaced = tmp_path_factory.mktemp("voices") / "spaced.wav"
    graph = (
        "[0]volume=8dB,atrim=0.5:9,asetpts=N,adelay=2000,apad=pad_dur=3[a];[1]atrim=0:9[b];"
        "[a][b]concat=v=0:a=1,apad=pad_dur=3"
    )
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", austen, "-i", other, "-filter_complex", graph, spaced], check=True, timeout=60
    )
    return {"speech-austen": austen, "speech-2": other, "spaced": spaced}


def _mixed(voice: Path, bed: Path, duck: Mapping[str, Any], binary: Binary, workspace: Path) -> Heard:
    chains = {
        "chain.speech": {"from": ["voice"], "steps": [{"op": "highpass", "hz": 80}]},
        "chain.bed": {
            "from": ["music"],
            "steps": [
                {"op": "channels", "layout": "stereo"},
                {"op": "fit", "length_of": "speech", "tail_s": 3},
                {"op": "duck", "key": "speech", **duck},
            ],
        },
        "chain.out": {"from": ["speech", "bed"], "steps": [{"op": "mix"}]},
    }
    return carry(chains, {"voice": voice, "music": bed}, binary, workspace)


@pytest.mark.parametrize(
    ("voice", "depth_db", "attack_ms", "hold_ms", "release_ms"),
    [
        ("speech-austen", 12, 150, 400, 800),
        ("speech-2", 12, 150, 400, 800),
        ("spaced", 12, 150, 400, 800),
        ("spaced", 20, 50, 250, 500),
        ("spaced", 6, 300, 600, 1500),
    ],
)
def test_a_bed_goes_down_by_the_depth_and_stays_there_while_the_voice_sounds(
    voice: str,
    depth_db: float,
    attack_ms: float,
    hold_ms: float,
    release_ms: float,
    binary: Binary,
    voices: Mapping[str, Path],
    tone_12k: Path,
    tmp_path: Path,
) -> None:
    """A tone of 12 kHz under real speech, which ends at 8 kHz.

    Median within 1 dB of the depth and 5 to 95 % within 2; there by 90 % after the attack and 20 ms; pauses shorter
    than the hold lift it by 2 dB at most; and it is all back after the hold and 1.2 times the release.
    """
    duck = {"depth_db": depth_db, "attack_ms": attack_ms, "hold_ms": hold_ms, "release_ms": release_ms}
    heard = _mixed(voices[voice], tone_12k, duck, binary, tmp_path / "w")
    seen = ducking(heard.done.path, voices[voice])
    hold_s, attack_s = hold_ms / 1000, attack_ms / 1000 + 0.02
    under = seen.under_voice(hold_s, attack_s)
    assert len(under) > 500
    assert median(under) == pytest.approx(-depth_db, abs=1)
    low, *_, high = quantiles(under, n=20)
    assert -depth_db - 2 <= low <= high <= -depth_db + 2
    phrases = seen.phrases(hold_s)
    assert all(seen.gain_db[begin + round(attack_s * 100)] <= -0.9 * depth_db for begin, _ in phrases)
    assert max(seen.pauses(hold_s, attack_s)) <= -depth_db + 2
    returns = round(hold_ms / 10 + 1.2 * release_ms / 10)
    next_ones = [*(begin for begin, _ in phrases[1:]), len(seen.gain_db)]
    ends = [(end + returns, begin) for (_, end), begin in zip(phrases, next_ones, strict=True)]
    undisturbed = [frame for frame, begin in ends if frame < begin - 20]
    assert undisturbed
    assert all(seen.gain_db[frame] == pytest.approx(0, abs=0.3) for frame in undisturbed)


@pytest.mark.parametrize("gain_db", [-40, 12])
def test_how_loud_the_voice_is_does_not_matter(
    gain_db: float, binary: Binary, voices: Mapping[str, Path], tone_12k: Path, tmp_path: Path
) -> None:
    """When it sounds is judged by its own loudness: a whisper ducks as far as a shout."""
    voice = tmp_path / "voice.wav"
    levelled = ["-af", f"volume={gain_db}dB", "-c:a", "pcm_f32le", str(voice)]
    subprocess.run(["ffmpeg", "-v", "error", "-i", voices["speech-2"], *levelled], check=True, timeout=60)
    heard = _mixed(voice, tone_12k, {"depth_db": 12}, binary, tmp_path / "w")
    under = ducking(heard.done.path, voices["speech-2"]).under_voice(0.4, 0.17)
    low, *_, high = quantiles(under, n=20)
    assert -12.1 <= low <= high <= -11.9


def test_a_voice_in_opposite_phase_is_heard(
    binary: Binary, voices: Mapping[str, Path], tone_12k: Path, tmp_path: Path
) -> None:
    """Its channels would cancel where they were mixed."""
    voice = tmp_path / "voice.wav"
    turned = ["-af", "pan=stereo|c0=c0|c1=-1*c0", str(voice)]
    subprocess.run(["ffmpeg", "-v", "error", "-i", voices["speech-2"], *turned], check=True, timeout=60)
    heard = _mixed(voice, tone_12k, {"depth_db": 12}, binary, tmp_path / "w")
    assert median(ducking(heard.done.path, voices["speech-2"]).under_voice(0.4, 0.17)) == pytest.approx(-12, abs=0.1)


def test_a_silent_voice_leaves_the_bed_as_it_is(binary: Binary, tone_12k: Path, tmp_path: Path) -> None:
    """There is nothing to make room for, and the plan says so."""
    silence = _made("anullsrc=r=16000:cl=mono:d=4", tmp_path / "silence.wav")
    heard = _mixed(silence, tone_12k, {"depth_db": 12}, binary, tmp_path / "w")
    assert _choices(heard, "bed: duck") == ["left as it is"]
    assert len(heard.channels[0]) == 7 * 48_000
    assert heard.rms_db(1, 2) == pytest.approx(heard.rms_db(5, 6), abs=0.01)


def test_a_word_too_short_to_have_a_loudness_ducks_all_the_same(binary: Binary, tone_12k: Path, tmp_path: Path) -> None:
    """A quarter of a second is judged by its peak."""
    word = _made("sine=f=300:r=16000:d=0.25", tmp_path / "word.wav")
    heard = _mixed(word, tone_12k, {"depth_db": 12, "attack_ms": 50}, binary, tmp_path / "w")
    gains = ducking(heard.done.path).gain_db
    assert min(gains[5:60]) == pytest.approx(-12, abs=0.1)
    assert gains[200] == pytest.approx(0, abs=0.1)
