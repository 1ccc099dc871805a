"""Plans with a picture: golden argument lists, the encoder of what was granted, and what no input may bring about."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.compile import compile as compile_plan
from presets.facts import AudioStream, MediaFacts, OtherStream, VideoStream
from presets.intent import Intent
from presets.plan import Invocation, Plan, StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.unit.presets.samples import GPU_BINARY, audio, golden, intent, measured, media, picture, video

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
FILM = media(picture(), audio(1, codec="aac"), format_name=MP4)
FILM_URI = (("", "file:///m/film.mov"),)


def _convert(*profiles: str, **overrides: str) -> Intent:
    return intent(
        "video_convert",
        profiles=profiles or ("h264_mp4",),
        inputs=FILM_URI,
        params={f"profile.{key}": value for key, value in overrides.items()},
    )


def _encode(plan: Plan) -> Invocation:
    return next(step for step in plan.invocations if step.purpose == "encode")


def _option(step: Invocation, name: str) -> str:
    return step.argv[step.argv.index(f"-{name}") + 1]


def test_on_the_processor_x264_encodes_with_the_cores_leased() -> None:
    """That the binary has NVENC changes nothing where no GPU was granted."""
    plan = compile_plan(_convert(), [FILM], GPU_BINARY, {}, threads=4)
    golden("video_processor", plan)
    step = _encode(plan)
    assert _option(step, "c:v") == "libx264"
    assert [step.argv[n + 1] for n, word in enumerate(step.argv) if word == "-threads"] == ["4", "4"]
    assert "nvenc" not in " ".join(step.argv)


def test_an_interlaced_picture_is_deinterlaced_before_it_is_scaled() -> None:
    """Scaling first would mix the fields."""
    facts = media(picture(field_order="tt", size=(720, 576), pixel_aspect=64 / 45), format_name=MP4)
    graph = _option(_encode(compile_plan(_convert(), [facts], GPU_BINARY, {})), "filter_complex")
    assert graph.index("bwdif=mode=send_frame") < graph.index("scale=w=1024:h=576")


def test_on_the_gpu_granted_nvenc_encodes_pinned_to_it() -> None:
    """The size is the upright one, and the cover before it moves the number of the stream."""
    facts = media(
        video(0, attached_pic=True),
        picture(
            1, size=(3840, 2160), rotation_deg=-90, pixel_aspect=4 / 3, color_space=None, fps=27.7,
            base_fps="30000/1001", time_base="1/90000",
        ),
        audio(2, codec="aac", channels=6),
        OtherStream(3, "subtitle", "mov_text", "eng"),
        format_name=MP4,
    )  # fmt: skip
    plan = compile_plan(_convert(), [facts], GPU_BINARY, {}, threads=2, gpu=1)
    golden("video_gpu", plan)
    assert (_option(_encode(plan), "c:v"), _option(_encode(plan), "gpu")) == ("h264_nvenc", "1")


def test_hevc_is_named_as_players_of_apple_know_it() -> None:
    """And keeps x265 to the cores leased."""
    plan = compile_plan(_convert("hevc_mp4"), [FILM], GPU_BINARY, {}, threads=2)
    golden("video_hevc", plan)


def test_a_film_without_sound_is_a_file_without_sound() -> None:
    """And the plan says why."""
    facts = media(picture(), format_name=MP4)
    plan = compile_plan(_convert(), [facts], GPU_BINARY, {})
    assert "-an" in _encode(plan).argv
    assert [step.id for step in plan.invocations] == ["encode.h264_mp4.1", "verify.h264_mp4.1"]
    assert plan.outputs[0].streams == ()
    assert any(d.choice == "none" and d.because == "the input has no audio stream" for d in plan.decisions)


def test_a_plan_ends_when_picture_and_sound_are_verified() -> None:
    """The measure is the number of frames that went into the encoder, and the later end of the two."""
    results: dict[str, StepResult] = {}
    answers = {
        "encode.h264_mp4.1": StepResult(59.9, None, 1800),
        "verify.h264_mp4.1": StepResult(60.0, None, 1799),
        "verify.h264_mp4.sound.1": measured(-20, -3, 60.01),
    }
    plan = compile_plan(_convert(), [FILM], GPU_BINARY, results)
    while (step := plan.next(results)) is not None:
        results[step.id] = answers.pop(step.id)
        plan = compile_plan(_convert(), [FILM], GPU_BINARY, results)
    assert plan.finished(results)
    assert not answers
    [output] = plan.outputs
    assert (output.duration_s, output.decoded_s, output.verified_by) == (60.01, 60.01, "verify.h264_mp4.1")
    assert output.picture is not None
    assert (output.picture.width, output.picture.height, output.picture.codec) == (1920, 1080, "h264")
    assert (output.picture.frames, output.picture.decoded_frames) == (1800, 1799)
    assert [step.title for step in plan.invocations] == [
        *("encode h264_mp4", "verify h264_mp4", "verify h264_mp4 (sound)"),
    ]


def test_an_audio_file_may_be_made_beside_the_film() -> None:
    """Each profile takes what it has a stream for."""
    plan = compile_plan(_convert("h264_mp4", "aac_192"), [FILM], GPU_BINARY, {})
    assert [output.picture is None for output in plan.outputs] == [False, True]
    assert "-vn" in next(step for step in plan.invocations if step.id == "encode.aac_192.1").argv


def test_a_film_s_loudness_can_be_brought_to_a_target() -> None:
    """A preset's steps work on the sound of a video as on any other."""
    text = """
name = "film_r128"
version = 1
default_profile = "h264_mp4_v1"
[roles]
film = { media = "video" }
[chain.picture]
media = "video"
from = ["film"]
[chain.sound]
from = ["film"]
steps = [{ op = "loudness", target_lufs = -23 }]
"""
    catalog = Catalog.shipped().with_documents([text], [])
    made = intent("film_r128", profiles=("h264_mp4",), inputs=FILM_URI, catalog=catalog)
    results = {"measure.48000.2ch": measured(-30.0, -20.0)}
    planned = compile_plan(made, [FILM], GPU_BINARY, {})
    assert [step.id for step in planned.invocations if not step.provisional] == ["measure.48000.2ch"]
    step = _encode(compile_plan(made, [FILM], GPU_BINARY, results))
    assert "volume=volume=7dB" in " ".join(step.argv)
    assert _option(step, "c:v") == "libx264"
    silent = compile_plan(made, [media(picture(), format_name=MP4)], GPU_BINARY, {})
    assert silent.next({}) == _encode(silent)


@pytest.mark.parametrize(
    ("facts", "profile", "reason"),
    [
        (media(audio()), "h264_mp4", Reason.INPUT_NO_VIDEO),
        (media(audio()), "aac_192", Reason.INPUT_NO_VIDEO),
        (media(audio(), video(attached_pic=True)), "h264_mp4", Reason.INPUT_NO_VIDEO),
        (media(picture(size=(0, 0)), audio(1)), "h264_mp4", Reason.INPUT_CORRUPT),
        (media(picture()), "aac_192", Reason.INPUT_NO_AUDIO),
        (media(picture(color_transfer="smpte2084")), "h264_mp4", Reason.UNSUPPORTED_COMBINATION),
    ],
)
def test_media_that_cannot_be_that_film_are_refused(facts: MediaFacts, profile: str, reason: Reason) -> None:
    """Before anything is run, with a reason that no retry mends."""
    with pytest.raises(MediaFailure) as caught:
        compile_plan(_convert(profile), [facts], GPU_BINARY, {})
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("results", "reason", "said"),
    [
        ({"encode.h264_mp4.1": StepResult(60.0, None, 0)}, Reason.INPUT_TRUNCATED, "video and ends after 0.0 s"),
        ({"verify.h264_mp4.1": StepResult(30.0, None, 900)}, Reason.INPUT_TRUNCATED, "60.0 s of video .* 30.0 s"),
        ({"verify.h264_mp4.1": StepResult(59.2, None, 900)}, None, ""),
        ({"verify.h264_mp4.sound.1": measured(-20, -3, 30.0)}, Reason.INPUT_TRUNCATED, "60.0 s of audio .* 30.0 s"),
    ],
)
def test_a_film_of_which_a_part_is_missing_is_refused(
    results: dict[str, StepResult], reason: Reason | None, said: str
) -> None:
    """Picture and sound each against its own header: neither hides that the other ends early."""
    if reason is None:
        compile_plan(_convert(), [FILM], GPU_BINARY, results)
        return
    with pytest.raises(MediaFailure, match=said) as caught:
        compile_plan(_convert(), [FILM], GPU_BINARY, results)
    assert caught.value.reason is reason


def test_a_stream_of_which_not_one_frame_decodes_is_corrupt() -> None:
    """Where no header tells how long it should be."""
    facts = media(picture(duration_s=2.0), format_name="mpegts")
    with pytest.raises(MediaFailure, match="not one frame of the video") as caught:
        compile_plan(_convert(), [facts], GPU_BINARY, {"encode.h264_mp4.1": StepResult(None, None, 0)})
    assert caught.value.reason is Reason.INPUT_CORRUPT


@pytest.mark.parametrize("size", [(160, 120), (4100, 600)])
def test_a_picture_whose_size_the_gpu_does_not_take_is_encoded_by_the_processor_where_that_may(
    size: tuple[int, int],
) -> None:
    """NVENC takes sides from 146 to 4096 pixels, which nobody knew when the GPU was granted."""
    facts = media(picture(size=size), format_name=MP4)
    plan = compile_plan(_convert(), [facts], GPU_BINARY, {}, gpu=3)
    assert _option(_encode(plan), "c:v") == "libx264"
    assert any(
        "the encoder of GPU 3, which was granted, takes no picture of this size" in d.because for d in plan.decisions
    )
    with pytest.raises(MediaFailure, match="and h264_nvenc takes sides from 146 to 4096"):
        compile_plan(_convert(hardware="require"), [facts], GPU_BINARY, {}, gpu=3)
    bare = replace(GPU_BINARY, capabilities=GPU_BINARY.capabilities - {"encoder:libx264"})
    with pytest.raises(MediaFailure, match="needs one of the encoders libx264"):
        compile_plan(_convert(), [facts], bare, {}, gpu=3)


def test_a_picture_that_no_encoder_takes_is_refused() -> None:
    """Sixteen thousand pixels are the most."""
    facts = media(picture(size=(20_000, 100)), format_name=MP4)
    with pytest.raises(MediaFailure, match="20000x100, and libx264 takes sides from 2 to 16384") as caught:
        compile_plan(_convert(), [facts], GPU_BINARY, {})
    assert caught.value.reason is Reason.UNSUPPORTED_COMBINATION


def test_a_binary_without_the_encoder_of_the_grant_is_refused() -> None:
    """A GPU was granted, and the other encoder that the binary has is not taken instead."""
    bare = replace(GPU_BINARY, capabilities=GPU_BINARY.capabilities - {"encoder:h264_nvenc"})
    with pytest.raises(MediaFailure, match="needs one of the encoders h264_nvenc, and FFmpeg"):
        compile_plan(_convert(), [FILM], bare, {}, gpu=0)


_COLOURS = st.none() | st.sampled_from(["bt709", "smpte170m", "gbr", "smpte2084"])
_SECONDS = st.none() | st.floats(0, 1e9)
_PICTURES = st.builds(
    VideoStream,
    index=st.integers(0, 9),
    codec=st.sampled_from(["h264", "mjpeg", "x"]),
    duration_s=_SECONDS,
    language=st.none(),
    default=st.booleans(),
    attached_pic=st.booleans(),
    width=st.integers(0, 40_000),
    height=st.integers(0, 40_000),
    fps=st.none() | st.floats(0.001, 1e6),
    base_fps=st.none() | st.builds("{}/{}".format, st.integers(1, 10**9), st.integers(1, 10**9)),
    time_base=st.none() | st.builds("1/{}".format, st.integers(1, 10**9)),
    pixel_aspect=st.floats(1e-6, 1e6),
    rotation_deg=st.integers(-360, 360) | st.sampled_from([0, 90, 180, -90]),
    pixel_format=st.none() | st.sampled_from(["yuv420p", "gbrp", "pal8", "gray"]),
    field_order=st.none() | st.sampled_from(["progressive", "tt", "bt"]),
    color_space=_COLOURS,
    color_transfer=_COLOURS,
    dolby_vision=st.none() | st.integers(0, 9),
)
_SOUNDS = st.builds(
    audio, st.integers(0, 9), duration_s=_SECONDS, rate=st.integers(0, 10**6), channels=st.integers(0, 9)
)


@given(
    pictures=st.lists(_PICTURES, max_size=3),
    sounds=st.lists(_SOUNDS, max_size=2),
    format_name=st.sampled_from([MP4, "mpegts", "ogg"]),
    binary=st.just(GPU_BINARY),
    gpu=st.none() | st.integers(0, 7),
    answers=st.lists(st.tuples(_SECONDS, st.none() | st.integers(0, 10**6)), min_size=6, max_size=6),
)
def test_whatever_a_film_s_header_says_ends_in_a_finished_plan_or_a_media_failure(
    pictures: list[VideoStream],
    sounds: list[AudioStream],
    format_name: str,
    binary: Binary,
    gpu: int | None,
    answers: list[tuple[float | None, int | None]],
) -> None:
    """No header and no result raises anything else, and what is granted decides about the encoder."""
    facts = media(*pictures, *sounds, format_name=format_name) if pictures or sounds else media()
    results: dict[str, StepResult] = {}
    try:
        plan = compile_plan(_convert(), [facts], binary, results, gpu=gpu)
        for seconds, frames in answers:
            step = plan.next(results)
            if step is None:
                break
            assert "{" not in " ".join(step.argv)
            results[step.id] = measured(-20, -3, seconds or 0.0) if step.measure else StepResult(seconds, None, frames)
            plan = compile_plan(_convert(), [facts], binary, results, gpu=gpu)
        assert plan.finished(results)
        shown = plan.outputs[0].picture
        assert shown is not None
        assert shown.width % 2 == shown.height % 2 == 0
        taken = shown.width >= 146 <= shown.height and max(shown.width, shown.height) <= 4096
        assert _option(_encode(plan), "c:v") == ("h264_nvenc" if gpu is not None and taken else "libx264")
    except MediaFailure:
        pass
