"""Filters, dynamics and cleaning through the real FFmpeg: figures told from samples, on every FFmpeg there is."""

import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from presets.capabilities import Binary
from tests.fakes.chains import Heard, process, samples
from tests.fakes.crossing import crossed
from tests.fakes.voices import voice_changes

HIGHPASS = {"op": "highpass", "hz": 80, "slope_db": 24}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a float WAV at 48 kHz of an FFmpeg filter graph, and of files that it takes in."""
    folder = tmp_path_factory.mktemp("made")

    def make(graph: str, *files: Path) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.wav"
        inputs = [argument for file in files for argument in ("-i", str(file))]
        end = ["-ar", "48000", "-c:a", "pcm_f32le", "-bitexact", str(path)]
        command = ["ffmpeg", "-v", "error", "-nostdin", *inputs, "-filter_complex", graph, *end]
        subprocess.run(command, check=True, timeout=60)
        return path

    return make


def tones(*parts: tuple[float, float, float], channels: int = 1) -> str:
    """Tones one after the other: each of hertz, dBFS (RMS) and seconds."""
    graphs = []
    for number, (hz, level_db, length_s) in enumerate(parts):
        peak = 10 ** (level_db / 20) * math.sqrt(2)
        sound = "|".join([f"{peak}*sin(2*PI*{hz}*t)"] * channels)
        graphs.append(f"aevalsrc='{sound}':s=48000:d={length_s}[{number}]")
    joined = "".join(f"[{number}]" for number in range(len(parts)))
    return ";".join(graphs) + f";{joined}concat=n={len(parts)}:v=0:a=1"


def choices(heard: Heard) -> list[str]:
    """What the step chose."""
    return [decision.choice for decision in heard.done.plan.decisions if decision.subject.startswith("out: ")]


@pytest.mark.parametrize(("slope_db", "octave_db"), [(12, -12.59), (24, -24.69)])
def test_a_lowpass_is_3_db_down_at_its_frequency_and_falls_as_it_says(
    slope_db: int, octave_db: float, binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """Of tones at a tenth of 2 kHz, there, and an octave above, where half the sample rate is felt by 0.6 dB."""
    source = made(tones((200, -20, 1), (2000, -20, 1), (4000, -20, 1)))
    heard = process([{"op": "lowpass", "hz": 2000, "slope_db": slope_db}], source, binary, tmp_path / "w")
    assert heard.rms_db(0.2, 0.9) == pytest.approx(-20, abs=0.05)
    assert heard.rms_db(1.2, 1.9) == pytest.approx(-23.01, abs=0.05)
    assert heard.rms_db(2.2, 2.9) == pytest.approx(-20 + octave_db, abs=0.1)


def test_a_lowpass_above_all_there_is_does_nothing_and_says_so(
    binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """At 48 kHz nothing lies above 30 kHz."""
    source = made(tones((200, -20, 1)))
    heard = process([{"op": "lowpass", "hz": 30_000}], source, binary, tmp_path / "w")
    assert choices(heard) == ["nothing"]
    assert heard.rms_db(0.2, 0.9) == pytest.approx(-20, abs=0.01)


def test_an_equalizer_does_what_its_bands_say(binary: Binary, made: Callable[..., Path], tmp_path: Path) -> None:
    """A shelf below, a bell and a shelf above, each at its full gain where it works and at none where it does not."""
    bands = [
        {"shape": "low_shelf", "hz": 150, "gain_db": -6},
        {"hz": 1000, "gain_db": 4, "q": 2},
        {"shape": "high_shelf", "hz": 6000, "gain_db": 3},
        {"hz": 30_000, "gain_db": 9},
    ]
    source = made(tones((20, -20, 1), (150, -20, 1), (1000, -20, 1), (2500, -20, 1), (16_000, -20, 1)))
    heard = process([{"op": "equalize", "bands": bands}], source, binary, tmp_path / "w")
    measured = [heard.rms_db(start + 0.2, start + 0.9) for start in range(5)]
    assert measured == pytest.approx([-26, -23, -16, -19.6, -17], abs=0.35)
    assert choices(heard) == ["nothing at 30000 Hz"]


@pytest.mark.parametrize("level_db", [-40, -20])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_compressor_keeps_its_ratio_however_loud_the_recording_is(
    level_db: float, channels: int, binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """12 dB between two passages become 6 at 2:1 where both are above the threshold; nothing is made up for."""
    source = made(tones((997, level_db, 4), (997, level_db - 12, 4), channels=channels))
    step = {"op": "compress", "ratio": 2, "threshold_lu": -15, "knee_db": 0}
    heard = process([step], source, binary, tmp_path / "w")
    loud, soft = heard.rms_db(2, 3.9), heard.rms_db(6, 7.9)
    assert loud - soft == pytest.approx(6, abs=0.1)
    # The programme is 2.7 dB below its louder half; of 17.7 dB above the threshold half is left, and 1.2 less as the
    # detector reads a sine 2.4 dB above its mean.
    assert loud == pytest.approx(level_db - 8.85 - 1.2, abs=0.3)


def test_a_compressor_leaves_what_is_below_its_threshold(
    binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """Loud passages fall, soft ones stay where they are."""
    source = made(tones((997, -20, 4), (997, -40, 4)))
    heard = process([{"op": "compress", "ratio": 4, "threshold_lu": -6}], source, binary, tmp_path / "w")
    assert heard.rms_db(2, 3.9) < -23
    assert heard.rms_db(6, 7.9) == pytest.approx(-40, abs=0.02)


@pytest.mark.parametrize("level_db", [-40, -20])
def test_a_gate_lowers_pauses_by_its_range_and_nothing_else(
    level_db: float, binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """What is 45 dB below the programme falls by 10 dB, what is 6 below stays."""
    source = made(tones((997, level_db, 3), (997, level_db - 6, 3), (997, level_db - 45, 3)))
    heard = process([{"op": "gate", "range_db": 10}], source, binary, tmp_path / "w")
    assert heard.rms_db(1, 2.9) == pytest.approx(level_db, abs=0.02)
    assert heard.rms_db(4, 5.9) == pytest.approx(level_db - 6, abs=0.02)
    assert heard.rms_db(8, 8.9) == pytest.approx(level_db - 55, abs=0.3)


@pytest.mark.parametrize("amount_db", [3, 6, 10])
def test_a_deesser_lowers_sibilants_by_its_amount_and_leaves_the_rest(
    amount_db: float, binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """A hiss at 7 kHz as loud as a vowel falls by the amount; vowel and soft treble stay, on the crossover too."""
    vowel = "0.1*sin(2*PI*200*t)+0.05*sin(2*PI*600*t)"
    source = made(
        f"aevalsrc='{vowel}':s=48000:d=3[a];aevalsrc='0.1*sin(2*PI*7000*t)':s=48000:d=1[b];"
        f"aevalsrc='{vowel}+0.004*sin(2*PI*7000*t)':s=48000:d=3[c];"
        "aevalsrc='0.004*sin(2*PI*5000*t)':s=48000:d=1[d];[a][b][c][d]concat=n=4:v=0:a=1"
    )
    heard = process([{"op": "deess", "amount_db": amount_db}], source, binary, tmp_path / "w")
    dry = process([], source, binary, tmp_path / "dry")

    def change(start_s: float, end_s: float) -> float:
        return heard.rms_db(start_s, end_s) - dry.rms_db(start_s, end_s)

    assert change(0.5, 2.9) == pytest.approx(0, abs=0.1)
    assert change(3.1, 3.9) == pytest.approx(-amount_db, abs=0.3)
    assert change(4.5, 6.9) == pytest.approx(0, abs=0.1)
    assert change(7.2, 7.9) == pytest.approx(0, abs=0.1)


def test_a_deesser_on_real_speech_lowers_sibilants_alone(
    binary: Binary, media_corpus: Path, made: Callable[..., Path], tmp_path: Path
) -> None:
    """In read speech the loudest treble falls by nearly the amount, what is below 3 kHz by less than 0.2 dB."""
    source = made("anull", media_corpus / "speech-austen.ogg")
    heard = process([{"op": "deess", "amount_db": 6}], source, binary, tmp_path / "w")

    def bands(path: Path) -> tuple[Sequence[float], Sequence[float]]:
        low = made("lowpass=f=3000:p=2,lowpass=f=3000:p=2", path)
        high = made("highpass=f=5500:p=2,highpass=f=5500:p=2", path)
        return samples(low)[0], samples(high)[0]

    (low, high), (low_after, high_after) = bands(source), bands(heard.done.path)
    assert abs(voice_changes(low, low_after).voice_db) < 0.2
    # Of that band's power sibilants are nearly all.
    assert -6.1 < voice_changes(high, high_after).voice_db < -3.2


NOISES = {
    "white": "anoisesrc=c=white:a=1:r=48000:d=15:seed=7",
    "pink": "anoisesrc=c=pink:a=1:r=48000:d=15:seed=7",
    "hum": "aevalsrc='sin(2*PI*60*t)+0.5*sin(2*PI*120*t)+0.4*sin(2*PI*180*t)+0.3*sin(2*PI*240*t)+0.2*sin(2*PI*300*t)"
    "+0.1*sin(2*PI*420*t)':s=48000:d=15",
}


@pytest.mark.parametrize(("noise", "clip"), crossed([*NOISES], ["speech-austen.ogg", "speech-2.ogg"]))
def test_steady_noise_beneath_real_speech_falls_by_10_db_and_the_voice_keeps_its_level(
    noise: str, clip: str, binary: Binary, media_corpus: Path, made: Callable[..., Path], tmp_path: Path
) -> None:
    """At 15 dB below the speech; pauses are where the speech without noise has them."""
    clean = made("anull", media_corpus / clip)
    wanted_db = _rms_db(samples(clean)[0]) - 15 - _rms_db(samples(made(NOISES[noise]))[0])
    noisy = made(f"{NOISES[noise]},volume={wanted_db}dB[n];[0:a][n]amix=duration=first:normalize=0", clean)
    dry = process([HIGHPASS], noisy, binary, tmp_path / "dry")
    speech = process([HIGHPASS], clean, binary, tmp_path / "speech")
    heard = process([HIGHPASS, {"op": "dehum"}, {"op": "denoise"}], noisy, binary, tmp_path / "w")
    assert heard.length_s == dry.length_s
    changed = voice_changes(dry.channels[0], heard.channels[0], told_by=speech.channels[0])
    assert changed.noise_reduction_db >= 10
    assert abs(changed.voice_db) <= 1


@pytest.mark.parametrize("clip", ["speech-austen.ogg", "speech-2.ogg"])
def test_a_clean_recording_is_not_harmed(
    clip: str, binary: Binary, media_corpus: Path, made: Callable[..., Path], tmp_path: Path
) -> None:
    """The voice keeps its level to 0.1 dB, and what is taken off is 30 dB below it: no delay, no hole."""
    clean = made("anull", media_corpus / clip)
    dry = process([HIGHPASS], clean, binary, tmp_path / "dry")
    heard = process([HIGHPASS, {"op": "dehum"}, {"op": "denoise"}], clean, binary, tmp_path / "w")
    assert abs(voice_changes(dry.channels[0], heard.channels[0]).voice_db) < 0.1
    taken = [before - after for before, after in zip(dry.channels[0], heard.channels[0], strict=True)]
    assert _rms_db(taken) < _rms_db(dry.channels[0]) - 30


@pytest.mark.parametrize(
    "graph",
    [
        "anullsrc=r=48000:cl=mono:d=3",
        "anoisesrc=c=white:a=0.00003:r=48000:d=3",
        "anoisesrc=c=pink:a=0.1:r=48000:d=5",
        "sine=f=997:r=48000:d=0.3",
    ],
    ids=["silence", "next to silence", "noise alone", "shorter than a block"],
)
def test_what_has_no_voice_or_no_pause_is_left_as_it_is(
    graph: str, binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """Every cleaning step says so and changes not a sample."""
    source = made(graph)
    steps: list[dict[str, Any]] = [{"op": "dehum"}, {"op": "denoise"}, {"op": "trim_silence"}]
    if "0.1" not in graph and "sine" not in graph:  # which have a loudness
        steps += [{"op": "gate"}, {"op": "deess"}, {"op": "compress"}]
    heard = process(steps, source, binary, tmp_path / "w")
    assert set(choices(heard)) <= {"left as it is", "nothing is cut"}
    assert len(choices(heard)) == len(steps)
    assert heard.channels == process([], source, binary, tmp_path / "dry").channels


@pytest.mark.parametrize(
    ("rate", "layout", "sounds"), [(8000, "mono", 1), (44_100, "stereo", 2), (192_000, "stereo", 2), (48_000, "5.1", 6)]
)
def test_every_rate_and_layout_is_cleaned(rate: int, layout: str, sounds: int, binary: Binary, tmp_path: Path) -> None:
    """Noise falls in every channel, timing and layout stay."""
    voice = "0.2*sin(2*PI*300*t)*lt(mod(t,3),2)+0.004*(random(0)-0.5)"
    source = tmp_path / "source.wav"
    spoken = f"aevalsrc='{'|'.join([voice] * sounds)}':c={layout}:s={rate}:d=8"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", spoken, "-c:a", "pcm_f32le", str(source)]
    subprocess.run(command, check=True, timeout=60)
    steps: list[dict[str, Any]] = [
        {"op": "dehum"},
        {"op": "denoise"},
        {"op": "gate"},
        {"op": "deess", "hz": 2500},
        {"op": "compress"},
    ]
    heard = process(steps, source, binary, tmp_path / "w")
    dry = process([], source, binary, tmp_path / "dry")
    assert len(heard.channels) == sounds
    assert heard.length_s == dry.length_s == pytest.approx(8, abs=0.001)
    assert "noise lowered by 12 dB" in choices(heard)
    for channel in range(sounds):
        assert heard.rms_db(5.3, 5.8, channel) < dry.rms_db(5.3, 5.8, channel) - 15
        assert heard.rms_db(3.2, 4.8, channel) > dry.rms_db(3.2, 4.8, channel) - 6


#: A second of silence, then tones with pauses of 2 and 0.5 s, 1.5 s of silence; under all a soft noise.
SPOKEN = (
    "aevalsrc='0.1*sin(2*PI*500*t)*(between(t,1,2)+between(t,4,5)+between(t,5.5,6.5))':s=48000:d=8[v];"
    "anoisesrc=c=white:a=0.0001:r=48000:d=8:seed=3[n];[v][n]amix=normalize=0"
)


def test_silence_is_cut_off_both_ends_and_told(binary: Binary, made: Callable[..., Path], tmp_path: Path) -> None:
    """0.2 s before and 0.5 s behind are kept, pauses stay as they are."""
    heard = process([{"op": "trim_silence"}], made(SPOKEN), binary, tmp_path / "w")
    assert heard.length_s == pytest.approx(0.2 + 5.5 + 0.5, abs=0.01)
    assert choices(heard) == ["0.80 s off the start, 1.00 s off the end cut"]
    assert heard.rms_db(0, 0.19) < -70
    assert heard.rms_db(0.21, 1.19) == pytest.approx(-23, abs=0.1)


def test_long_pauses_are_shortened_and_told(binary: Binary, made: Callable[..., Path], tmp_path: Path) -> None:
    """Two seconds become 0.6, half a second stays, and every tone is as long as it was."""
    step = {"op": "trim_silence", "longest_pause_s": 1, "pause_s": 0.6}
    heard = process([step], made(SPOKEN), binary, tmp_path / "w")
    assert heard.length_s == pytest.approx(0.2 + 1 + 0.6 + 1 + 0.5 + 1 + 0.5, abs=0.02)
    assert choices(heard) == ["0.80 s off the start, 1.40 s out of 1 pause, 1.00 s off the end cut"]
    for start_s in (0.2, 1.8, 3.3):
        assert heard.rms_db(start_s + 0.02, start_s + 0.98) == pytest.approx(-23, abs=0.1)
    for start_s, end_s in ((1.22, 1.78), (2.82, 3.28)):
        assert heard.rms_db(start_s, end_s) < -70


def test_hundreds_of_pauses_are_shortened(binary: Binary, made: Callable[..., Path], tmp_path: Path) -> None:
    """240 words of half a second a second apart come out a quarter of a second apart, every one whole."""
    source = made("aevalsrc='0.1*sin(2*PI*500*t)*lt(mod(t,1.5),0.5)':s=48000:d=360")
    step = {"op": "trim_silence", "longest_pause_s": 0.5, "pause_s": 0.25}
    heard = process([step], source, binary, tmp_path / "w")
    # Of half a millisecond in 239 pauses versions differ.
    assert "out of 239 pauses, 0.50 s off the end cut" in choices(heard)[0]
    assert heard.length_s == pytest.approx(360 - 179.25 - 0.5, abs=0.1)
    for word in (0, 50, 100, 238):
        assert heard.rms_db(word * 0.75 + 0.01, word * 0.75 + 0.49) == pytest.approx(-23, abs=0.3)
        assert heard.rms_db(word * 0.75 + 0.52, word * 0.75 + 0.73) < -90


def test_one_survey_serves_all_steps_that_keep_the_level(
    binary: Binary, made: Callable[..., Path], tmp_path: Path
) -> None:
    """Gate, de-esser and compressor go by one measurement; a compressor behind another one by a new one."""
    steps = [{"op": "gate"}, {"op": "deess"}, {"op": "compress"}, {"op": "compress"}]
    heard = process(steps, made(SPOKEN), binary, tmp_path / "w")
    surveys = [i.id for i in heard.done.plan.invocations if i.purpose == "survey"]
    assert len(surveys) == 2


def _rms_db(part: Sequence[float]) -> float:
    return 10 * math.log10(max(math.fsum(sample * sample for sample in part) / len(part), 1e-20))
