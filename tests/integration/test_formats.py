"""Profiles and resampling through the real FFmpeg: what is in the bits of the delivered file."""

import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from presets.capabilities import Binary
from tests.fakes.chains import samples
from tests.fakes.media_measure import audio_streams, measured
from tests.fakes.plans import by_preset, probe
from tests.fakes.synth import Recipe, synthesise
from tests.fakes.tones import level_db


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def _bsi(path: Path) -> tuple[int, float | None]:
    """Dialnorm in dB and the centre's level in a downmix, read from the first AC-3 frame's bits (ATSC A/52 5.3.2)."""
    bits = "".join(f"{byte:08b}" for byte in path.read_bytes()[:16])
    assert bits[:16] == "0000101101110111"
    at, centre = 16 + 16 + 8 + 5 + 3, None
    acmod = int(bits[at : at + 3], 2)
    at += 3
    if acmod & 1 and acmod != 1:
        centre = (math.sqrt(0.5), 0.595, 0.5)[int(bits[at : at + 2], 2)]
        at += 2
    at += 2 if acmod & 4 else 0
    at += 2 if acmod == 2 else 0
    at += 1
    return -int(bits[at : at + 5], 2), centre


@pytest.mark.parametrize(
    ("preset", "source", "profile"),
    [
        ("loudness_atsc_a85", "surround_side", "ac3_surround_448"),
        ("loudness_atsc_a85", "speech", "ac3_192"),
        ("convert", "tone_stereo", "ac3_192"),
        ("convert", "loud_music", "ac3_192"),
    ],
)
def test_dialnorm_is_the_loudness_of_what_is_delivered(
    preset: str, source: str, profile: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """In whole LKFS, where the level was set and where it was only measured; receivers mix as BS.775 does."""
    done = by_preset(preset, synthesise(source, folder), binary, tmp_path / "w", profile)
    dialnorm, centre = _bsi(done.path)
    assert dialnorm == pytest.approx(measured(done.path).integrated_lufs, abs=0.75)
    assert centre == (pytest.approx(math.sqrt(0.5)) if profile == "ac3_surround_448" else None)
    assert any(d.subject.endswith(": dialnorm") and d.choice == str(dialnorm) for d in done.plan.decisions)


@pytest.mark.parametrize("profile", ["wav_16", "flac", "alac"])
def test_sixteen_bits_stay_what_they_are(profile: str, folder: Path, binary: Binary, tmp_path: Path) -> None:
    """From CD to another lossless 16-bit file: the very samples, without dither on top of them."""
    source = synthesise("loud_music", folder)
    same = {"profile.bits": "16", "profile.sample_rate_hz": "44100"}
    done = by_preset("convert", source, binary, tmp_path / "w", profile, same)
    assert samples(done.path) == samples(source)


def test_more_bits_are_dithered_to_sixteen(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """A tone of half a 16-bit step is still there, in noise as loud as triangular dither; plain rounding loses it."""
    quiet = Recipe(
        ("-f", "lavfi", "-i", "aevalsrc='0.45/32768*sin(2*PI*997*t)':s=44100:d=5", "-c:a", "pcm_f32le"), "wav"
    )
    source = _synthesised(quiet, tmp_path / "quiet.wav")
    [channel] = samples(by_preset("convert", source, binary, tmp_path / "w", "wav_16").path)
    middle = channel[: 44_100 * 4]
    assert level_db(middle, 997, 44_100) == pytest.approx(20 * math.log10(0.45 / 32768), abs=0.5)
    noise = 10 * math.log10(sum(sample * sample for sample in middle) / len(middle))
    # Dither of -96.3 dB, and the tone.
    assert noise == pytest.approx(-94.8, abs=0.5)
    assert set(samples(source)[0]) != set(channel)


def _synthesised(recipe: Recipe, path: Path) -> Path:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *recipe.arguments, str(path)], check=True, timeout=60)
    return path


@pytest.mark.parametrize("profile", ["audio_only_master", "wav_float"])
def test_deeper_samples_are_not_dithered(profile: str, folder: Path, binary: Binary, tmp_path: Path) -> None:
    """24 and 32 bits at the source's rate are the source's own samples."""
    source = synthesise("tone_stereo", folder)
    assert samples(by_preset("convert", source, binary, tmp_path / "w", profile).path) == samples(source)


@pytest.mark.parametrize(
    ("profile", "source", "codec", "rate", "channels"),
    [
        ("wav_16", "tone_stereo", "pcm_s16le", 44_100, 2),
        ("wav_float", "studio_192k", "pcm_f32le", 192_000, 1),
        ("wav_float", "seven_one", "pcm_f32le", 48_000, 8),
        ("alac", "tone", "alac", 48_000, 1),
        ("aac_surround_384", "seven_one", "aac", 48_000, 6),
        ("mp3_vbr", "surround_side", "mp3", 48_000, 2),
        ("opus_surround_256", "seven_one", "opus", 48_000, 8),
        ("vorbis", "telephone", "vorbis", 48_000, 1),
        ("ac3_192", "surround_side", "ac3", 48_000, 2),
        ("eac3_surround_384", "telephone", "eac3", 48_000, 1),
    ],
)
def test_a_profile_makes_what_it_says(
    profile: str, source: str, codec: str, rate: int, channels: int, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """Codec, rate and layout of each, with what it is given kept where it can be and mixed where it cannot."""
    done = by_preset("convert", synthesise(source, folder), binary, tmp_path / "w", profile)
    [stream] = audio_streams(done.path)
    assert stream["codec_name"] == codec
    assert (int(stream["sample_rate"]), stream["channels"]) == (rate, channels)


def test_a_variable_rate_varies(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """A tone takes less of MP3 than noise does, at the same quality; a better quality takes more."""
    noise = _synthesised(
        Recipe(("-f", "lavfi", "-i", "anoisesrc=r=48000:d=5:a=0.1:seed=1", "-c:a", "pcm_s16le"), "wav"),
        tmp_path / "n.wav",
    )
    rates = {
        (name, quality): probe(
            by_preset(
                "convert", path, binary, tmp_path / f"{name}{quality}", "mp3_vbr", {"profile.vbr_quality": quality}
            ).path
        ).bit_rate
        or 0
        for name, path in (("noise", noise), ("tone", synthesise("tone", folder)))
        for quality in ("2", "7")
    }
    assert rates["tone", "2"] < 0.7 * rates["noise", "2"]
    assert rates["noise", "7"] < 0.8 * rates["noise", "2"]


def _tones(folder: Path, rate: int, *frequencies: float) -> Path:
    sum_ = "+".join(f"{0.9 / len(frequencies):.6f}*sin(2*PI*{hz}*t)" for hz in frequencies)
    name = f"tones-{rate}-{'-'.join(f'{hz:g}' for hz in frequencies)}"
    graph = ("-f", "lavfi", "-i", f"aevalsrc='{sum_}':s={rate}:d=4", "-c:a", "pcm_f64le")
    return _synthesised(Recipe(graph, "wav"), folder / f"{name}.wav")


def _middle(path: Path, rate: int) -> Sequence[float]:
    return samples(path)[0][rate : rate * 3]


@pytest.mark.parametrize(("old", "new"), [(96_000, 44_100), (48_000, 44_100), (44_100, 48_000), (16_000, 48_000)])
def test_resampling_passes_the_band_flat(old: int, new: int, folder: Path, binary: Binary, tmp_path: Path) -> None:
    """Up to 95 % of half of the lower rate within 0.002 dB."""
    half = min(old, new) / 2
    tones = [round(half * share) for share in (0.05, 0.5, 0.8, 0.907, 0.95)]
    source = _tones(folder, old, *tones)
    done = by_preset("convert", source, binary, tmp_path / "w", "wav_float", {"profile.sample_rate_hz": str(new)})
    made = _middle(done.path, new)
    for hz in tones:
        assert level_db(made, hz, new) == pytest.approx(20 * math.log10(0.9 / len(tones)), abs=0.002)


@pytest.mark.parametrize(
    ("old", "new", "hz", "ghost"),
    [
        (96_000, 44_100, 22_600, 44_100 - 22_600),  # folds back
        (96_000, 44_100, 30_000, 44_100 - 30_000),
        (192_000, 48_000, 40_000, 8000),
        (44_100, 48_000, 21_000, 44_100 - 21_000),  # is mirrored
        (16_000, 48_000, 7500, 16_000 - 7500),
    ],
)
def test_resampling_leaves_neither_aliases_nor_images(
    old: int, new: int, hz: int, ghost: int, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """120 dB down where they fall into the band."""
    done = by_preset(
        "convert",
        _tones(folder, old, hz),
        binary,
        tmp_path / "w",
        "wav_float",
        {"profile.sample_rate_hz": str(new)},
    )
    assert level_db(_middle(done.path, new), ghost, new) < -120
