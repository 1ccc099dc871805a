"""Plans run by the real FFmpeg, every one that this machine has, and judged by libebur128, ffprobe and hashes."""

import array
import json
import math
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import imageio_ffmpeg
import pytest

from presets.capabilities import Binary
from presets.catalog import Catalog, Preset
from presets.compile import compile as compile_plan
from presets.diagnosis import diagnose
from presets.document import Check, Measure
from presets.intent import Intent, resolve
from presets.problems import MediaFailure
from presets.reasons import TABLE, Reason
from presets.uris import path_to_uri
from tests.fakes.chains import samples as channels_of
from tests.fakes.clips import DEFECTIVE
from tests.fakes.ducking import duck_db
from tests.fakes.plans import carry_out, probe
from tests.fakes.synth import cut, synthesise
from tests.fakes.voices import voice_changes

LIMITED = """
name = "limited"
version = 1
default_profile = "audio_only_master_v1"
[roles]
source = { media = "audio" }
[parameters]
ceiling = { type = "number", default = -1, min = -20, max = 0 }
[chain.out]
from = ["source"]
steps = [{ op = "limiter", ceiling_dbtp = "$ceiling" }]
"""

CATALOG = Catalog.shipped().with_documents([LIMITED], [])


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synthetic")


def _intent(
    preset: str, inputs: Mapping[str, Path], profiles: Sequence[str] = ("",), params: Mapping[str, str] | None = None
) -> Intent:
    return resolve(
        CATALOG,
        inputs=[(role, path_to_uri(str(path))) for role, path in inputs.items()],
        preset=preset,
        params=params or {},
        outputs=[(profile, f"file:///published/{n}") for n, profile in enumerate(profiles)],
    )


def _samples(path: Path) -> "array.array[float]":
    # The bundled FFmpeg starts in a fraction of the time.
    decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0"]
    decoded = subprocess.run([*decode, "-f", "f64le", "-"], capture_output=True, check=True)
    return array.array("d", decoded.stdout)


def _measured(path: Path) -> dict[Measure, float]:
    """The published file as libebur128 and ffprobe see it; a report as it says itself."""
    if path.suffix == ".json":
        told = json.loads(path.read_text())["programme"]
        return {
            Measure.INTEGRATED_LUFS: told["integratedLufs"],
            Measure.TRUE_PEAK_DBTP: told["truePeakDbtp"],
            Measure.DURATION_S: told["durationS"],
            Measure.CHANNELS: told["channelCount"],
            Measure.SAMPLE_RATE_HZ: told["sampleRateHz"],
        }
    facts = probe(path)
    seen: dict[Measure, float] = {}
    for picture in facts.video:
        seen |= {Measure.WIDTH: picture.width, Measure.HEIGHT: picture.height}
    if not facts.audio:
        return seen
    stream = facts.audio[0]
    samples = _samples(path)
    frames = len(samples) // stream.channels
    pyebur128 = pytest.importorskip("pyebur128", reason="pyebur128 has no wheel for this Python")
    mode = pyebur128.MeasurementMode.MODE_I | pyebur128.MeasurementMode.MODE_TRUE_PEAK
    state = pyebur128.R128State(stream.channels, stream.sample_rate_hz, mode)
    state.add_frames(samples, frames)
    peak = max(pyebur128.get_true_peak(state, channel) for channel in range(stream.channels))
    return seen | {
        Measure.INTEGRATED_LUFS: pyebur128.get_loudness_global(state),
        Measure.TRUE_PEAK_DBTP: 20 * math.log10(peak) if peak else -200.0,
        Measure.DURATION_S: frames / stream.sample_rate_hz,
        Measure.CHANNELS: stream.channels,
        Measure.SAMPLE_RATE_HZ: stream.sample_rate_hz,
    }


def _all_checks() -> Iterator[tuple[Preset, Check]]:
    for preset in CATALOG.presets:
        for stated in preset.document.check:
            yield preset, stated


@pytest.mark.parametrize(
    ("preset", "stated"), [pytest.param(p, c, id=f"{p.full_name}-{n}") for n, (p, c) in enumerate(_all_checks())]
)
def test_every_check_of_every_preset_holds(
    preset: Preset, stated: Check, binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """What a preset's checks say of its output is so, on each FFmpeg."""
    inputs = {role: synthesise(source, synthetic) for role, source in stated.inputs.items()}
    params = {name: str(value) for name, value in stated.parameters.items()}
    intent = _intent(preset.full_name, inputs, (stated.profile or "",), params)
    done = carry_out(intent, list(inputs.values()), binary, tmp_path / "w")
    measured = _measured(done.path)
    if Measure.DUCK_DB in stated.expect:
        measured[Measure.DUCK_DB] = duck_db(done.path)
    if Measure.NOISE_REDUCTION_DB in stated.expect:
        (source,) = inputs.values()
        before, after = channels_of(source)[0], channels_of(done.path)[0]
        changed = voice_changes(before, after, done.plan.measured[0].gain_db or 0.0)
        measured |= {Measure.NOISE_REDUCTION_DB: changed.noise_reduction_db, Measure.VOICE_LEVEL_DB: changed.voice_db}
    for measure, (low, high) in stated.expect.items():
        assert low <= measured[measure] <= high, measure


@pytest.mark.parametrize("profile", ["aac_192", "mp3_192", "opus_96", "flac", "audio_only_master"])
def test_speech_whose_peaks_have_no_room_reaches_podcast_loudness(
    profile: str, binary: Binary, media_corpus: Path, tmp_path: Path
) -> None:
    """-27.8 LUFS with peaks at -7.4 dBTP becomes -16 LUFS below the ceiling, as long as it was."""
    source = media_corpus / "speech-austen.ogg"
    done = carry_out(_intent("loudness_podcast", {"": source}, (profile,)), [source], binary, tmp_path / "w")
    measured = _measured(done.path)
    assert measured[Measure.INTEGRATED_LUFS] == pytest.approx(-16, abs=0.2)
    assert measured[Measure.TRUE_PEAK_DBTP] <= -0.95
    assert measured[Measure.DURATION_S] == pytest.approx(_measured(source)[Measure.DURATION_S], abs=0.1)


# What `make test` proves of every clip through an agent in tests/corpus, on each FFmpeg.
@pytest.mark.soak
def test_every_clip_gives_a_verified_output_or_a_permanent_failure(
    corpus_clip: Path, binary: Binary, tmp_path: Path
) -> None:
    """No clip hangs or leaves it open what is wrong with it."""
    intent = _intent("loudness_podcast", {"": corpus_clip}, ("aac_192",))
    expected = DEFECTIVE.get(corpus_clip.name)
    if expected is not None:
        with pytest.raises(MediaFailure) as caught:
            carry_out(intent, [corpus_clip], binary, tmp_path / "w")
        assert caught.value.reason is expected
        assert not TABLE[expected].retryable
        return
    done = carry_out(intent, [corpus_clip], binary, tmp_path / "w")
    before = done.plan.measured[0].before
    measured = _measured(done.path)
    if before is not None and before.integrated_lufs is not None:
        assert measured[Measure.INTEGRATED_LUFS] == pytest.approx(-16, abs=0.2)
    assert measured[Measure.TRUE_PEAK_DBTP] <= -0.95


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("video_with_speech", Reason.INPUT_TRUNCATED),
        ("two_tracks", Reason.INPUT_TRUNCATED),
        ("loud_music", Reason.INPUT_TRUNCATED),
        ("video_only", Reason.INPUT_CORRUPT),  # its index is at the end, so nothing is left of it
    ],
)
@pytest.mark.parametrize("preset", ["loudness_podcast", "extract_audio"])
def test_a_file_cut_short_is_refused(
    name: str, reason: Reason, preset: str, binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """60 % of a file is no whole recording, though FFmpeg may end with status 0."""
    source = cut(synthesise(name, synthetic), 0.6)
    with pytest.raises(MediaFailure) as caught:
        carry_out(_intent(preset, {"": source}), [source], binary, tmp_path / "w")
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {path}\n",
        ";FFMETADATA1\ntitle=x\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "just some words\n",
    ],
)
def test_text_named_wav_never_makes_ffmpeg_open_another_file(
    text: str, binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """Playlists and scripts are refused by ffprobe, and by FFmpeg itself where something else probed them."""
    tone = synthesise("tone", synthetic)
    source = tmp_path / "playlist.wav"
    source.write_text(text.format(path=tone))
    intent = _intent("loudness_podcast", {"": source})
    with pytest.raises(MediaFailure) as caught:
        carry_out(intent, [source], binary, tmp_path / "w")
    assert caught.value.reason is Reason.INPUT_CORRUPT
    step = compile_plan(intent, [probe(tone)], binary, {}).next({})
    assert step is not None
    ran = subprocess.run(
        [binary.path, *step.argv], cwd=tmp_path / "w", capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode != 0
    assert diagnose(step, ran.returncode, ran.stderr)[0] is Reason.INPUT_CORRUPT


def test_a_limiter_below_its_ceiling_changes_neither_length_nor_timing(
    binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """Null test: input minus output is inaudible, from the first sample to the last."""
    source = synthesise("tone", synthetic)
    done = carry_out(_intent("limited", {"": source}), [source], binary, tmp_path / "w")
    before, after = _samples(source), _samples(done.path)
    assert len(before) == len(after)
    edge = 256  # the resampler sees silence beyond both ends
    worst = max(abs(a - b) for a, b in zip(before[edge:-edge], after[edge:-edge], strict=True))
    assert worst < 10 ** (-80 / 20)


def test_a_limiter_holds_true_peaks(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Music whose peaks are 10 dB above the ceiling comes out at it, as long as before."""
    source = synthesise("loud_music", synthetic)
    done = carry_out(_intent("limited", {"": source}, params={"ceiling": "-12"}), [source], binary, tmp_path / "w")
    measured = _measured(done.path)
    assert -13 < measured[Measure.TRUE_PEAK_DBTP] <= -11.8
    assert measured[Measure.DURATION_S] == pytest.approx(12, abs=0.001)


def test_gain_that_the_peaks_have_room_for_is_linear(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Every sample of the master is the source's times one factor, to the last of its 24 bits."""
    source = synthesise("speech_with_rumble", synthetic)
    done = carry_out(_intent("loudness_ebu_r128", {"": source}), [source], binary, tmp_path / "w")
    gain_db = done.plan.measured[0].gain_db
    assert gain_db
    assert done.plan.measured[0].limited_by_db == 0
    factor = 10 ** (gain_db / 20)
    worst = max(abs(a * factor - b) for a, b in zip(_samples(source), _samples(done.path), strict=True))
    assert worst < 2**-22


@pytest.mark.parametrize("name", ["silence", "blip"])
def test_what_has_no_loudness_is_left_as_it_is(name: str, binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Silence, and less than a loudness block, are delivered without gain, and the plan says so."""
    source = synthesise(name, synthetic)
    done = carry_out(_intent("loudness_podcast", {"": source}), [source], binary, tmp_path / "w")
    assert done.plan.measured[0].gain_db == 0
    assert any(d.choice == "left as it is" for d in done.plan.decisions)


def test_a_late_audio_track_keeps_step_with_its_picture(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Audio that begins two seconds into a video begins two seconds into the extract."""
    source = synthesise("late_audio", synthetic)
    done = carry_out(_intent("extract_audio", {"": source}), [source], binary, tmp_path / "w")
    samples = _samples(done.path)
    first = next(index for index, sample in enumerate(samples) if abs(sample) > 0.01)
    assert first / 48_000 == pytest.approx(2, abs=0.05)


def test_titles_are_kept_and_noise_is_dropped(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Title and artist reach every container; encoder names and brands do not."""
    source = synthesise("cover_art", synthetic)
    intent = _intent("convert", {"": source}, ("aac_192", "mp3_192", "flac", "opus_96"))
    done = carry_out(intent, [source], binary, tmp_path / "w")
    for output in done.plan.outputs:
        shown = subprocess.run(
            ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", done.workspace / output.path],
            capture_output=True,
            check=True,
        )
        document = json.loads(shown.stdout)
        holders = [document["format"], *document["streams"]]
        tags = {key.lower(): value for holder in holders for key, value in holder.get("tags", {}).items()}
        assert (tags.get("title"), tags.get("artist")) == ("A title", "Somebody")
        if output.container != "mp4":  # which has brands of its own
            assert not {"major_brand", "compatible_brands"} & set(tags)
        assert "Lavf" not in tags.get("encoder", "")


def test_ogg_tags_are_kept_although_they_are_the_stream_s(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """A title in an Ogg file, which FFmpeg sees on the audio stream, reaches an M4A file."""
    source = tmp_path / "tagged.ogg"
    speech = synthesise("speech", synthetic)
    tag = ["-metadata", "title=From Ogg", "-c", "copy", str(source)]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(speech), *tag], check=True)
    done = carry_out(_intent("convert", {"": source}), [source], binary, tmp_path / "w")
    shown = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "format_tags=title", done.path], capture_output=True, check=True
    )
    assert b"From Ogg" in shown.stdout


def test_outputs_of_one_rate_and_layout_share_their_measurement(
    binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """Two profiles take one measuring pass, and each reaches the loudness for itself."""
    source = synthesise("speech", synthetic)
    intent = _intent("loudness_podcast", {"": source}, ("aac_192", "flac"))
    done = carry_out(intent, [source], binary, tmp_path / "w")
    measured_ids = [i.id for i in done.plan.invocations if i.purpose == "measure"]
    assert [id_ for id_ in measured_ids if "limited" not in id_] == ["measure.48000.1ch"]
    for output in done.plan.outputs:
        measured = _measured(done.workspace / output.path)
        assert measured[Measure.INTEGRATED_LUFS] == pytest.approx(-16, abs=0.2)


def test_the_same_plan_run_twice_gives_the_same_bytes(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """No version, date or random number is in a file of any container: replaying is bit-identical."""
    source = synthesise("speech", synthetic)
    profiles = ("audio_only_master", "flac", "aac_192", "mp3_192", "opus_96")
    intent = _intent("dialogue_clean", {"": source}, profiles)
    first, second = (carry_out(intent, [source], binary, tmp_path / name) for name in ("first", "second"))
    assert first.plan == second.plan
    assert len(first.plan.outputs) == len(profiles)
    for output in first.plan.outputs:
        assert (first.workspace / output.path).read_bytes() == (second.workspace / output.path).read_bytes(), output


def test_sixteen_bits_are_asked_for_and_delivered(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """An override of the profile's depth reaches the file."""
    source = synthesise("tone", synthetic)
    intent = _intent("convert", {"": source}, ("flac",), {"profile.bits": "16"})
    done = carry_out(intent, [source], binary, tmp_path / "w")
    assert probe(done.path).audio[0].bits == 16
