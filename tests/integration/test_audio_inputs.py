"""Inputs with which audio mastering usually goes wrong: each comes out right, or fails for a reason that is told.

Judged on the delivered file by libebur128, ffprobe and single samples.
"""

import math
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from presets.capabilities import Binary
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.fakes.chains import samples
from tests.fakes.crossing import crossed
from tests.fakes.media_measure import described, measured
from tests.fakes.plans import by_preset
from tests.fakes.synth import cut, synthesise
from tests.fakes.tones import level_db


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


def _ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True, timeout=60)


def _onset_s(channel: Sequence[float], rate: int) -> float:
    return next(index for index, sample in enumerate(channel) if abs(sample) > 0.01) / rate


@pytest.mark.parametrize(("name", "profile"), crossed(["silence", "blip"], ["aac_192", "ac3_192", "wav_16"]))
def test_silence_and_less_than_a_block_are_passed_on_unchanged(
    name: str, profile: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """What has no loudness gets no gain, and the plan says why; its length stays."""
    source = synthesise(name, folder)
    done = by_preset("loudness_podcast", source, binary, tmp_path / "w", profile)
    before, after = measured(source), measured(done.path)
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.1)
    # Of silence nothing but dither is left; a codec adds ringing to what begins at once.
    assert after.true_peak_dbtp == pytest.approx(before.true_peak_dbtp, abs=1) or after.true_peak_dbtp < -80
    [said] = [d for d in done.plan.decisions if d.subject.endswith(": gain")]
    assert said.choice == "left as it is"


@pytest.mark.parametrize(
    ("name", "profile"),
    crossed(
        ["tone", "hard_clipped", "above_full_scale", "telephone"],
        ["audio_only_master", "aac_192", "opus_96", "mp3_vbr"],
    ),
)
def test_a_constant_tone_and_levels_out_of_hand_reach_the_target(
    name: str, profile: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """No loudness range, clipping, peaks 10 dB above full scale, 8 kHz mono."""
    source = synthesise(name, folder)
    done = by_preset("loudness_podcast", source, binary, tmp_path / "w", profile)
    after, before = measured(done.path), measured(source)
    assert after.integrated_lufs == pytest.approx(-16, abs=0.2)
    assert after.true_peak_dbtp <= -0.95
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.1)
    assert after.channels == before.channels
    assert after.sample_rate_hz == 48_000


def test_an_offset_is_removed_with_the_rumble(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """A quarter of full scale of DC leaves the peaks no room, until clean dialogue filters it out."""
    done = by_preset("dialogue_clean", synthesise("dc_offset", folder), binary, tmp_path / "w")
    assert measured(done.path).integrated_lufs == pytest.approx(-16, abs=0.2)
    # The file begins in the middle of the offset: that edge is one sample, and no meter of FFmpeg sees it overshoot.
    inner = tmp_path / "inner.wav"
    _ffmpeg("-ss", "0.1", "-i", done.path, "-c:a", "pcm_f32le", inner)
    assert measured(inner).true_peak_dbtp <= -0.95


def test_an_offset_without_room_fails_where_only_the_level_may_change(
    folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """Loudness cannot be reached by gain; whoever wants no heavy limiting is told so."""
    with pytest.raises(MediaFailure) as caught:
        by_preset(
            "loudness_podcast", synthesise("dc_offset", folder), binary, tmp_path / "w", params={"over_peaks": "fail"}
        )
    assert caught.value.reason is Reason.LOUDNESS_UNREACHABLE


def test_peaks_above_full_scale_are_not_clipped_on_the_way(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """Every sample of a float file that is far too loud comes out times one factor."""
    source = synthesise("above_full_scale", folder)
    done = by_preset("loudness_ebu_r128", source, binary, tmp_path / "w")
    [report] = done.plan.measured
    assert report.gain_db is not None
    assert report.gain_db < -20
    factor = 10 ** (report.gain_db / 20)
    for loud, right in zip(samples(source), samples(done.path), strict=True):
        assert max(map(abs, loud)) > 2
        assert max(abs(a * factor - b) for a, b in zip(loud, right, strict=True)) < 2**-22


def test_a_quarter_megahertz_of_studio_float_is_band_limited(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """192 kHz of 64-bit float at 48 kHz: the tone stays to 0.001 dB, 30 kHz leaves no alias at 18 kHz."""
    source = synthesise("studio_192k", folder)
    done = by_preset("convert", source, binary, tmp_path / "w", "wav_float", {"profile.sample_rate_hz": "48000"})
    [channel] = samples(done.path)
    middle = channel[48_000 : 48_000 * 4]
    assert level_db(middle, 997) == pytest.approx(-20, abs=0.001)
    assert level_db(middle, 18_000) < -140


@pytest.mark.parametrize("preset", ["loudness_podcast", "convert", "audio_analyze"])
@pytest.mark.parametrize("sample", [math.nan, math.inf, 1e300])
def test_what_is_no_number_is_no_sound(preset: str, sample: float, binary: Binary, tmp_path: Path) -> None:
    """Meters pass over it, and codecs make clicks at full scale of it, or crash: it is refused beforehand."""
    source = tmp_path / "failed.wav"
    samples = [0.1 * math.sin(math.tau * 440 * n / 48_000) for n in range(96_000)]
    samples[50_000] = sample
    data = struct.pack(f"<{len(samples)}d", *samples)
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 48_000, 8 * 48_000, 8, 64)
    body = b"WAVE" + kind + struct.pack("<4sI", b"data", len(data)) + data
    source.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)
    with pytest.raises(MediaFailure, match=r"has 1 samples that are infinite or no numbers") as caught:
        by_preset(preset, source, binary, tmp_path / "w")
    assert caught.value.reason is Reason.INPUT_CORRUPT


def test_seven_channels_and_low_frequencies_become_stereo_in_proportion(
    folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """Each side: its front, the centre and its two surrounds at -3 dB of that, nothing of the other side or the LFE."""
    done = by_preset("convert", synthesise("seven_one", folder), binary, tmp_path / "w", "flac")
    left, right = samples(done.path)
    front = level_db(left, 300)
    assert front == pytest.approx(-20 - 20 * math.log10(1 + 3 * math.sqrt(0.5)), abs=0.01)
    for hz in (700, 1100, 1700):
        assert level_db(left, hz) == pytest.approx(front - 3.01, abs=0.01)
    for hz in (500, 40, 1300, 1900):
        assert level_db(left, hz) < -120
    assert level_db(right, 500) == pytest.approx(front, abs=0.01)


@pytest.mark.parametrize(
    "profile",
    ["opus_surround_256", "aac_surround_384", "ac3_surround_448", "eac3_surround_384", "vorbis", "wav_float"],
)
def test_surrounds_named_after_the_sides_stay_in_their_places(
    profile: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """5.1(side), as AC-3 and DTS have it: every codec carries each channel's tone in that channel and no other."""
    done = by_preset("convert", synthesise("surround_tones", folder), binary, tmp_path / "w", profile)
    channels = [channel[48_000 : 48_000 * 4] for channel in samples(done.path)]
    assert len(channels) == 6
    tones = (300, 500, 700, 40, 1100, 1300)
    for number, channel in enumerate(channels):
        levels = [level_db(channel, hz) for hz in tones]
        # libvorbis adds 1.2 dB to a low tone by itself, whatever its quality.
        assert levels[number] == pytest.approx(-20, abs=1.3 if number == 3 else 0.5)
        assert max(level for n, level in enumerate(levels) if n != number) < -55


def test_sides_out_of_phase_do_not_vanish_in_mono(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """One side is inverted before the sum, the plan says so, and loudness is reached without 100 dB of gain."""
    source = synthesise("antiphase", folder)
    done = by_preset("dialogue_clean", source, binary, tmp_path / "w")
    after = measured(done.path)
    assert after.integrated_lufs == pytest.approx(-16, abs=0.2)
    assert after.channels == 1
    assert any("inverted" in d.choice and "out of phase" in d.because for d in done.plan.decisions)
    assert (done.plan.measured[0].gain_db or 0) < 10


def test_sides_out_of_phase_stay_so_in_stereo(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """Nobody asked for a sum, so that nothing is put right."""
    source = synthesise("antiphase", folder)
    left, right = samples(by_preset("loudness_ebu_r128", source, binary, tmp_path / "w").path)
    assert max(abs(a + b) for a, b in zip(left, right, strict=True)) < 2**-22
    assert max(left) > 0.05


def test_mono_in_stereo_is_loud_as_delivered(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """Two equal sides count twice after BS.1770: -16 LUFS is what the delivered layout measures, as one or as two."""
    source = synthesise("tone_stereo", folder)
    for preset, count in (("loudness_podcast", 2), ("dialogue_clean", 1)):
        after = measured(by_preset(preset, source, binary, tmp_path / preset, "flac").path)
        assert after.channels == count
        assert after.integrated_lufs == pytest.approx(-16, abs=0.2)


def test_wide_stereo_is_mixed_as_it_is(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """One side silent: sum and difference are equal, and nothing is inverted."""
    done = by_preset("mono", synthesise("left_only", folder), binary, tmp_path / "w", "wav_float")
    [mono] = samples(done.path)
    left, _ = samples(synthesise("left_only", folder))
    assert max(abs(a / 2 - b) for a, b in zip(left, mono, strict=True)) < 2**-22
    assert not any("inverted" in d.choice for d in done.plan.decisions)


@pytest.mark.parametrize("profile", ["flac", "aac_192", "opus_96", "mp3_192"])
def test_sound_that_begins_late_in_a_video_keeps_its_place(
    profile: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """Two seconds into the picture is two seconds into the extract, whatever its codec puts before."""
    done = by_preset("extract_audio", synthesise("late_audio", folder), binary, tmp_path / "w", profile)
    channel, *_ = samples(done.path)
    assert _onset_s(channel, 48_000) == pytest.approx(2, abs=0.025)


@pytest.mark.parametrize(
    ("extension", "codecs"), [("ts", "mpeg2video mp2"), ("mpg", "mpeg2video mp2"), ("ogv", "libtheora libvorbis")]
)
def test_a_clock_that_may_jump_keeps_the_place_too(
    extension: str, codecs: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """FFmpeg begins such a file's clock with the first stream it reads, which is the sound here and not the picture."""
    source = tmp_path / f"late.{extension}"
    picture, sound = codecs.split()
    _ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=64x64:r=25:d=8", "-itsoffset", "2", "-i", synthesise("tone", folder)),
        *("-c:v", picture, "-c:a", sound, source),
    )
    done = by_preset("extract_audio", source, binary, tmp_path / "w")
    channel, *_ = samples(done.path)
    assert _onset_s(channel, 48_000) == pytest.approx(2, abs=0.025)
    assert len(channel) / 48_000 == pytest.approx(7, abs=0.05)


def _with_priming(source: Path, path: Path, priming: int) -> Path:
    """The AAC file with an edit list that skips ``priming`` samples, as if another encoder had put them there."""
    whole = bytearray(source.read_bytes())
    at = whole.index(b"elst") + 4
    version, _, entries = whole[at], whole[at + 1 : at + 4], struct.unpack_from(">I", whole, at + 4)[0]
    assert (version, entries) == (0, 1)
    _, start = struct.unpack_from(">Ii", whole, at + 8)
    assert start == 1024
    struct.pack_into(">i", whole, at + 12, priming)
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("priming", [0, 1024, 2112, 3136])
def test_whatever_an_aac_encoder_put_first_is_left_out(
    priming: int, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """The edit list says how many samples are the encoder's: the tone begins that much earlier, to the millisecond."""
    plain = tmp_path / "plain.m4a"
    _ffmpeg("-i", synthesise("onset", folder), "-c:a", "aac", plain)
    source = _with_priming(plain, tmp_path / "source.m4a", priming)
    done = by_preset("convert", source, binary, tmp_path / "w", "wav_float")
    [channel] = samples(done.path)
    assert _onset_s(channel, 48_000) == pytest.approx(1 + (1024 - priming) / 48_000, abs=0.002)


@pytest.mark.parametrize(
    ("profile", "late_s"),
    [
        *(("aac_192", 0), ("mp3_192", 0), ("mp3_vbr", 0), ("opus_96", 0), ("vorbis", 0), ("alac", 0), ("wav_16", 0)),
        # AC-3 has nowhere to say that its first 256 samples are the encoder's.
        *(("ac3_192", 256 / 48_000), ("eac3_surround_384", 256 / 48_000)),
    ],
)
def test_what_is_delivered_begins_where_the_source_does(
    profile: str, late_s: float, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """Each codec's own delay is declared in the file, so that players and editors leave it out."""
    done = by_preset("convert", synthesise("onset", folder), binary, tmp_path / "w", profile)
    rate = measured(done.path).sample_rate_hz
    channel, *_ = samples(done.path)
    assert _onset_s(channel, rate) == pytest.approx(1 + late_s, abs=0.003)
    assert len(channel) / rate == pytest.approx(4, abs=0.04)


def test_the_dialogue_is_taken_of_several_tracks(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """A commentary is not the dialogue, though it is the default, first and has more channels."""
    source = tmp_path / "film.mkv"
    speech, tone, stereo = (synthesise(name, folder) for name in ("speech", "tone", "tone_stereo"))
    _ffmpeg(
        *("-i", stereo, "-i", tone, "-i", speech, "-map", "0", "-map", "1", "-map", "2", "-c:a", "flac"),
        *("-metadata:s:a:0", "title=Director's commentary", "-disposition:a:0", "default"),
        *("-metadata:s:a:1", "language=ger", "-disposition:a:1", "0"),
        *("-metadata:s:a:2", "language=eng", "-disposition:a:2", "0", source),
    )
    taken = {
        params: by_preset("extract_audio", source, binary, tmp_path / f"w{n}", "flac", dict(params)).plan.decisions[0]
        for n, params in enumerate([(), (("language", "en"),), (("language", "de-AT"),), (("track", "1"),)])
    }
    assert [d.choice[:18] for d in taken.values()] == [f"audio track {n} of 3" for n in (2, 3, 2, 1)]
    with pytest.raises(MediaFailure, match="the input has eng, ger, unknown") as caught:
        by_preset("extract_audio", source, binary, tmp_path / "none", "flac", {"language": "fr"})
    assert caught.value.reason is Reason.INPUT_NO_AUDIO


@pytest.mark.parametrize("profile", ["aac_192", "mp3_192", "flac", "opus_96"])
def test_a_cover_is_no_video_and_chapters_are_no_track(
    profile: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """An audio book with a picture and chapters: all of its sound, and no stream of pictures or text as video."""
    listing = tmp_path / "chapters.txt"
    listing.write_text(
        ";FFMETADATA1\n"
        + "".join(
            f"[CHAPTER]\nTIMEBASE=1/1\nSTART={start}\nEND={start + 1}\ntitle=Part {start + 1}\n" for start in range(3)
        )
    )
    source = tmp_path / "book.m4b"
    _ffmpeg(
        *("-i", synthesise("cover_art", folder), "-i", listing, "-map", "0", "-map_metadata", "1"),
        *("-map_chapters", "1", "-c", "copy", "-disposition:v:0", "attached_pic", "-f", "mp4", source),
    )
    assert any(stream["codec_type"] == "video" for stream in described(source)["streams"])
    done = by_preset("loudness_podcast", source, binary, tmp_path / "w", profile)
    after = measured(done.path)
    assert after.integrated_lufs == pytest.approx(-16, abs=0.3)
    assert after.duration_s == pytest.approx(3, abs=0.1)
    moving = [s for s in described(done.path)["streams"] if s["codec_type"] == "video"]
    assert all(stream["disposition"]["attached_pic"] for stream in moving)


def test_a_still_picture_that_is_not_marked_as_a_cover_does_no_harm(
    folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """One frame of video before the sound: the sound is taken, as long as it is."""
    source = tmp_path / "still.mkv"
    _ffmpeg(
        *("-f", "lavfi", "-i", "color=red:s=64x64:d=0.04", "-i", synthesise("tone", folder)),
        *("-map", "0", "-map", "1", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "flac", source),
    )
    after = measured(by_preset("loudness_podcast", source, binary, tmp_path / "w").path)
    assert after.duration_s == pytest.approx(5, abs=0.1)
    assert after.integrated_lufs == pytest.approx(-16, abs=0.2)


@pytest.mark.parametrize("arguments", [("-c:a", "libvorbis", "-f", "webm"), ("-c:a", "aac", "-f", "adts")])
def test_no_duration_in_the_header(arguments: tuple[str, ...], folder: Path, binary: Binary, tmp_path: Path) -> None:
    """Written to a pipe, so that nothing states a length: as long and as loud as what decodes."""
    source = tmp_path / "live"
    piped = ["ffmpeg", "-v", "error", "-i", str(synthesise("speech", folder)), *arguments, "-"]
    source.write_bytes(subprocess.run(piped, capture_output=True, check=True).stdout)
    after = measured(by_preset("loudness_podcast", source, binary, tmp_path / "w").path)
    assert after.duration_s == pytest.approx(12, abs=0.15)
    assert after.integrated_lufs == pytest.approx(-16, abs=0.2)


@pytest.mark.parametrize(
    ("extension", "remedy"), [("wav", r"-c copy NEW\.wav"), ("mp3", "give them one by one, or join them")]
)
def test_whole_files_that_cannot_be_told_from_cut_ones(
    extension: str, remedy: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """A WAV out of a pipe, whose last packet is cut for FFmpeg, and MP3s in a row: what to do is in the message."""
    source = tmp_path / f"odd.{extension}"
    piped = ["ffmpeg", "-v", "error", "-i", str(synthesise("speech", folder)), "-f", extension, "-"]
    written = subprocess.run(piped, capture_output=True, check=True).stdout
    if extension == "mp3":
        _ffmpeg("-i", synthesise("speech", folder), source)
        written = 2 * source.read_bytes()
    source.write_bytes(written)
    with pytest.raises(MediaFailure, match=remedy) as caught:
        by_preset("loudness_podcast", source, binary, tmp_path / "w")
    assert caught.value.reason is Reason.INPUT_CORRUPT


@pytest.mark.parametrize(
    "encoder", ["pcm_s24le wav", "pcm_s16le w64", "flac flac", "alac m4a", "aac m4a", "libmp3lame mp3"]
)
def test_a_file_cut_short_is_refused(encoder: str, folder: Path, binary: Binary, tmp_path: Path) -> None:
    """Headers that state a length give a cut away, or a frame of which half is missing."""
    codec, extension = encoder.split()
    source = tmp_path / f"whole.{extension}"
    _ffmpeg("-i", synthesise("speech", folder), "-c:a", codec, "-movflags", "+faststart", source)
    with pytest.raises(MediaFailure) as caught:
        by_preset("loudness_podcast", cut(source, 0.6), binary, tmp_path / "w")
    assert caught.value.reason in {Reason.INPUT_TRUNCATED, Reason.INPUT_CORRUPT if codec == "flac" else None}


@pytest.mark.parametrize("encoder", ["flac flac", "ac3 ac3", "wavpack wv", "tta tta", "flac mka"])
def test_one_flipped_bit_in_a_file_with_checksums_is_refused(
    encoder: str, folder: Path, binary: Binary, tmp_path: Path
) -> None:
    """FLAC, AC-3, WavPack and TTA know that they are damaged, so that no click is published as if it were sound."""
    codec, extension = encoder.split()
    source = tmp_path / f"damaged.{extension}"
    _ffmpeg("-i", synthesise("speech", folder), "-ar", "48000", "-c:a", codec, source)
    bits = bytearray(source.read_bytes())
    bits[len(bits) // 2] ^= 0x10
    source.write_bytes(bits)
    with pytest.raises(MediaFailure) as caught:
        by_preset("loudness_podcast", source, binary, tmp_path / "w")
    assert caught.value.reason is Reason.INPUT_CORRUPT


@pytest.mark.parametrize("encoder", ["aac m4a", "libmp3lame mp3"])
def test_rubbish_in_the_middle_of_a_file_is_refused(encoder: str, folder: Path, binary: Binary, tmp_path: Path) -> None:
    """2000 bytes that no encoder wrote."""
    codec, extension = encoder.split()
    source = tmp_path / f"rubbish.{extension}"
    _ffmpeg("-i", synthesise("speech", folder), "-c:a", codec, "-movflags", "+faststart", source)
    bits = bytearray(source.read_bytes())
    middle = len(bits) // 2
    bits[middle : middle + 2000] = bytes(range(1, 251)) * 8
    source.write_bytes(bits)
    with pytest.raises(MediaFailure) as caught:
        by_preset("loudness_podcast", source, binary, tmp_path / "w")
    assert caught.value.reason in {Reason.INPUT_CORRUPT, Reason.INPUT_TRUNCATED}


@pytest.mark.parametrize(
    "name",
    [
        "Jürgen – «Träume» 🎧 日本語.wav",
        "a:'[b],%20%d;(c)=\\d.wav",
        "-i.wav",
        "concat:x|y.wav",
        "new\nline.wav",
        "quote\"'`$(id).wav",
    ],
)
def test_no_name_of_a_file_means_anything(name: str, folder: Path, binary: Binary, tmp_path: Path) -> None:
    """Names in other scripts, or that look like filters, options, patterns and protocols, are names."""
    source = tmp_path / name
    shutil.copy(synthesise("tone", folder), source)
    after = measured(by_preset("loudness_podcast", source, binary, tmp_path / "w").path)
    assert after.integrated_lufs == pytest.approx(-16, abs=0.2)


def test_sony_wave64_and_rf64_are_read(folder: Path, binary: Binary, tmp_path: Path) -> None:
    """The two formats of recordings beyond 4 GiB give the very samples."""
    original = synthesise("tone", folder)
    for path, options in ((tmp_path / "a.w64", ()), (tmp_path / "b.wav", ("-rf64", "always"))):
        _ffmpeg("-i", original, "-c:a", "pcm_s24le", *options, path)
        done = by_preset("convert", path, binary, tmp_path / path.stem, "audio_only_master")
        assert samples(done.path) == samples(original)
    assert (tmp_path / "b.wav").read_bytes()[:4] == b"RF64"
