"""Pictures: which stream is taken, what size and timing it gets, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.catalog import Catalog
from presets.document import VideoSpec
from presets.facts import MediaFacts, VideoStream
from presets.picture import choose, decisions, require_convertible, size, time_base
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.unit.presets.samples import audio, media, picture, video


def _spec() -> VideoSpec:
    spec = Catalog.shipped().profile("h264_mp4").document.video
    assert spec is not None
    return spec


@pytest.mark.parametrize(
    ("stream", "max_height", "expected"),
    [
        (picture(size=(1920, 1080)), None, (1920, 1080)),
        (picture(size=(1920, 1080)), 1080, (1920, 1080)),
        (picture(size=(3840, 2160)), 1080, (1920, 1080)),
        (picture(size=(1280, 720)), 1080, (1280, 720)),
        (picture(size=(1920, 800)), 720, (1728, 720)),
        (picture(size=(2160, 3840)), 1080, (1080, 1920)),
        (picture(size=(3840, 2160), rotation_deg=-90), 1080, (1080, 1920)),
        (picture(size=(3840, 2160), rotation_deg=180), 1080, (1920, 1080)),
        (picture(size=(800, 640), pixel_aspect=64 / 45), None, (1138, 640)),
        (picture(size=(720, 576), pixel_aspect=16 / 15), None, (768, 576)),
        (picture(size=(720, 576), pixel_aspect=16 / 15, rotation_deg=90), None, (576, 768)),
        (picture(size=(720, 480), pixel_aspect=8 / 9), None, (640, 480)),
        (picture(size=(321, 181)), None, (320, 180)),
        (picture(size=(161, 121), rotation_deg=270), None, (120, 160)),
        (picture(size=(1, 1)), None, (2, 2)),
    ],
)
def test_the_size_is_upright_square_bounded_and_even(
    stream: VideoStream, max_height: int | None, expected: tuple[int, int]
) -> None:
    """The shorter side is bounded, so that a portrait picture counts as its landscape one does."""
    assert size(stream, max_height) == expected


@given(
    width=st.integers(2, 8000),
    height=st.integers(2, 8000),
    aspect=st.floats(0.5, 2),
    rotation=st.sampled_from([0, 90, -90, 180]),
    max_height=st.none() | st.integers(72, 2160).map(lambda half: half // 2 * 2),
)
def test_no_picture_grows_or_is_distorted(
    width: int, height: int, aspect: float, rotation: int, max_height: int | None
) -> None:
    """Both sides are even, the bound holds, and the shape stays but for the pixel that evenness takes."""
    stream = picture(size=(width, height), pixel_aspect=aspect, rotation_deg=rotation)
    made = size(stream, max_height)
    shown = (width * aspect, height) if rotation % 180 == 0 else (height, width * aspect)
    assert all(side % 2 == 0 and side >= 2 for side in made)
    assert all(side <= max(2.0, was + 0.5) for side, was in zip(made, shown, strict=True))
    assert max_height is None or min(made) <= max_height
    factor = min(1.0, max_height / min(shown)) if max_height else 1.0
    assert all(abs(side - max(2.0, was * factor)) <= 1.5 for side, was in zip(made, shown, strict=True))


def test_the_picture_is_no_cover_and_no_still_where_there_is_another() -> None:
    """Then the one marked as default, then the first."""
    cover, still = video(0, attached_pic=True), picture(1, codec="mjpeg")
    plain, default = picture(2, default=False), picture(3)
    assert choose(media(cover, still, plain, default)) is default
    assert choose(media(cover, still, plain)) is plain
    assert choose(media(cover, still)) is still


@pytest.mark.parametrize(
    ("facts", "reason", "said"),
    [
        (media(audio()), Reason.INPUT_NO_VIDEO, "no video stream"),
        (media(audio(), video(attached_pic=True)), Reason.INPUT_NO_VIDEO, "only a cover picture"),
        (media(picture(size=(0, 0))), Reason.INPUT_CORRUPT, "no readable header"),
    ],
)
def test_what_has_no_picture_is_refused(facts: MediaFacts, reason: Reason, said: str) -> None:
    """A cover is no video, and a size of zero is none that could be scaled."""
    with pytest.raises(MediaFailure, match=said) as caught:
        choose(facts)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("stream", "reason", "said"),
    [
        (picture(color_transfer="smpte2084"), Reason.UNSUPPORTED_COMBINATION, "HDR \\(PQ"),
        (picture(color_transfer="arib-std-b67"), Reason.UNSUPPORTED_COMBINATION, "HDR \\(HLG"),
        (picture(dolby_vision=5), Reason.UNSUPPORTED_COMBINATION, "Dolby Vision"),
        (
            picture(rotation_deg=90, field_order="tt"),
            Reason.UNSUPPORTED_COMBINATION,
            "interlaced and to be shown turned",
        ),
        (picture(rotation_deg=45), Reason.UNSUPPORTED_COMBINATION, "turned by 45"),
        (picture(pixel_aspect=64.0), Reason.INPUT_CORRUPT, "64 times as wide"),
    ],
)
def test_what_would_come_out_wrong_is_refused(stream: VideoStream, reason: Reason, said: str) -> None:
    """Never a silently wrong picture."""
    with pytest.raises(MediaFailure, match=said) as caught:
        require_convertible(stream)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (picture(fps=30.0, base_fps="30/1"), "1:810"),
        (picture(fps=29.97003, base_fps="30000/1001"), "1001:810000"),
        (picture(fps=27.7, base_fps="30000/1001", time_base="1/90000"), "1:90000"),
        (picture(fps=1000.0, base_fps="1000/1", time_base="1/1000"), "1:1000"),
        (picture(fps=None, base_fps=None, time_base=None), "1:90000"),
        (picture(fps=None, base_fps=None, time_base="1/1000000000"), "1:90000"),
    ],
)
def test_timing_is_that_of_the_source(stream: VideoStream, expected: str) -> None:
    """Some 1.2 milliseconds that make whole frames at a constant rate, the source's own unit otherwise."""
    assert time_base(stream) == expected


def test_every_change_of_a_picture_is_explained() -> None:
    """Size, timing, fields and colours, each with its reason."""
    stream = picture(
        size=(1440, 1081), pixel_aspect=4 / 3, rotation_deg=90, field_order="tt", fps=25.0, base_fps="50/1",
        color_space=None,
    )  # fmt: skip
    told = {d.subject: (d.choice, d.because) for d in decisions("h264_mp4", stream, _spec())}
    assert told["h264_mp4: size"][0] == "1080x1918"
    for words in ("1440x1081", "1.333 times as wide", "turned by 90°", "max_height is 1080"):
        assert words in told["h264_mp4: size"][1]
    assert told["h264_mp4: timing"][0] == "every frame at its own time"
    assert told["h264_mp4: deinterlacing"][0].startswith("bwdif")
    assert told["h264_mp4: colour matrix"][0] == "bt709"
    plain = {d.subject for d in decisions("h264_mp4", picture(), _spec())}
    assert plain == {"h264_mp4: size", "h264_mp4: timing"}
