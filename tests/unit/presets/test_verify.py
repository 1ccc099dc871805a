"""Judging finished outputs."""

from dataclasses import replace

import pytest

from presets.facts import Chapter, MediaFacts, OtherStream, VideoStream
from presets.plan import Expectation, ExpectedCover, ExpectedPicture, ExpectedStream
from presets.verify import check
from tests.unit.presets.samples import audio, media, picture, video

EXPECTED = Expectation(
    name="aac_192",
    path="out/aac_192.m4a",
    uri="file:///o",
    container="mp4",
    streams=(ExpectedStream("aac", 48_000, 2),),
    duration_s=60.0,
    verified_by="verify.aac_192.1",
    decoded_s=60.02,
)
GOOD = media(audio(codec="aac"), format_name="mov,mp4,m4a,3gp,3g2,mj2")


def test_what_was_planned_passes() -> None:
    """Within a tenth of a second and with the planned stream nothing is wrong."""
    assert check(EXPECTED, GOOD, EXPECTED.decoded_s) == ()


@pytest.mark.parametrize(
    ("facts", "decoded_s", "said"),
    [
        (replace(GOOD, format_name="wav"), 60.0, "container"),
        (media(audio(codec="mp3"), format_name="mp4"), 60.0, "codec is mp3, not aac"),
        (media(audio(codec="aac", rate=44_100), format_name="mp4"), 60.0, "sample rate is 44100, not 48000"),
        (media(audio(codec="aac", channels=1), format_name="mp4"), 60.0, "channel count is 1, not 2"),
        (media(audio(codec="aac"), video(), format_name="mp4"), 60.0, "2 streams with 1 of audio"),
        (media(video(0), format_name="mp4"), 60.0, "0 of audio"),
        (GOOD, 59.85, "decodes to 59.850 s, not 60.000 s"),
        (GOOD, None, "nothing of it could be decoded"),
        (replace(GOOD, duration_s=61.0), 60.0, "declares 61.000 s"),
    ],
)
def test_each_difference_is_said(facts: MediaFacts, decoded_s: float | None, said: str) -> None:
    """A wrong container, stream, property or duration keeps an output from being published."""
    assert any(said in problem for problem in check(EXPECTED, facts, decoded_s))


FILM = replace(
    EXPECTED,
    picture=ExpectedPicture("h264", 1280, 720, "yuv420p", frames=1800, decoded_frames=1800),
    duration_s=60.02,
)
SHOWN = media(picture(size=(1280, 720)), audio(1, codec="aac"), format_name="mov,mp4,m4a,3gp,3g2,mj2")


def test_a_planned_picture_passes() -> None:
    """With its sound, or without where none was planned."""
    assert check(FILM, SHOWN, FILM.decoded_s) == ()
    silent = replace(FILM, streams=())
    assert check(silent, media(picture(size=(1280, 720)), format_name="mov,mp4"), 60.0) == ()


@pytest.mark.parametrize(
    ("facts", "changed", "said"),
    [
        (media(audio(codec="aac"), format_name="mp4"), {}, "1 streams with 1 of audio, not 1 of audio and 1 of video"),
        (media(picture(size=(1280, 720)), format_name="mp4"), {}, "1 streams with 0 of audio"),
        (media(picture(size=(1280, 720), codec="hevc"), audio(1, codec="aac")), {}, "the codec is hevc, not h264"),
        (media(picture(size=(1280, 722)), audio(1, codec="aac")), {}, "the size is 1280x722, not 1280x720"),
        (media(picture(size=(1280, 720), pixel_format="yuv444p")), {}, "the pixel format is yuv444p, not yuv420p"),
        (media(picture(size=(1280, 720), pixel_aspect=1.5)), {}, "the pixel aspect is 1.5, not 1.0"),
        (media(picture(size=(1280, 720), rotation_deg=90)), {}, "the rotation is 90, not 0"),
        (SHOWN, {"decoded_frames": 1799}, "1799 frames decode, 1800 were encoded"),
        (SHOWN, {"decoded_frames": None}, "0 frames decode, 1800 were encoded"),
    ],
)
def test_each_difference_of_a_picture_is_said(facts: MediaFacts, changed: dict[str, int | None], said: str) -> None:
    """Streams, codec, size, pixels and the number of frames."""
    assert FILM.picture is not None
    expected = replace(FILM, picture=replace(FILM.picture, **changed))  # type: ignore[arg-type]  # the tests vary fields
    assert any(said in problem for problem in check(expected, facts, 60.0)), check(expected, facts, 60.0)


@pytest.mark.parametrize(
    ("stream", "declared_s", "wrong"),
    [
        (picture(size=(1280, 720)), 59.95, False),
        (picture(size=(1280, 720)), 59.8, True),
        (picture(size=(1280, 720)), 60.2, True),
        (picture(size=(1280, 720), fps=2.0, base_fps="2/1"), 59.4, False),
        (picture(size=(1280, 720), fps=2.0, base_fps="2/1"), 59.0, True),
        (picture(size=(1280, 720), fps=20.0), 55.0, False),
        (picture(size=(1280, 720), fps=20.0), 60.2, True),
    ],
)
def test_a_picture_lasts_as_long_as_it_decodes_give_or_take_a_frame(
    stream: VideoStream, declared_s: float, wrong: bool
) -> None:
    """At a varying rate the end of the last frame is not known exactly; more than was decoded is never right."""
    facts = replace(media(stream, audio(1, codec="aac"), format_name="mp4"), duration_s=declared_s)
    told = check(replace(FILM, duration_s=60.0), facts, 60.0)
    assert any("declares" in problem for problem in told) is wrong, told


_COVER = VideoStream(1, "png", None, None, False, True, 600, 600, None)
_LIST = OtherStream(2, "data", "bin_data", None)
_WITH = replace(EXPECTED, cover=ExpectedCover("png", 600, 600), chapters_s=(0.0, 20.0))
_BOOK = replace(
    media(audio(codec="aac"), _COVER, _LIST, format_name="mp4"),
    chapters=(Chapter(0, 20, "One"), Chapter(20.02, 60, "Two")),
)


def test_cover_art_and_chapters_as_planned_pass() -> None:
    """MP4's list of chapters is a track that counts for nothing else."""
    assert check(_WITH, _BOOK, 60.0) == ()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (replace(_BOOK, streams=(audio(codec="aac"), _LIST)), "0 pictures of cover art"),
        (replace(_BOOK, streams=(audio(codec="aac"), _COVER, _COVER)), "2 pictures of cover art"),
        (replace(_BOOK, streams=(audio(codec="aac"), replace(_COVER, width=300))), "cover: the size is 300x600"),
        (replace(_BOOK, streams=(audio(codec="aac"), replace(_COVER, codec="mjpeg"))), "codec is mjpeg, not png"),
        (replace(_BOOK, streams=(audio(codec="aac"), _COVER, _LIST, _LIST)), "4 streams with 1 of audio"),
        (replace(_BOOK, chapters=_BOOK.chapters[:1]), "1 chapters, not 2"),
        (replace(_BOOK, chapters=(Chapter(0, 21, ""), Chapter(21, 60, ""))), "a chapter begins 1.000 s off"),
    ],
)
def test_each_difference_of_cover_and_chapters_is_said(facts: MediaFacts, said: str) -> None:
    """A cover that is another, missing or twice, chapters that are lost or moved."""
    assert any(said in problem for problem in check(_WITH, facts, 60.0))


def test_cover_art_and_chapters_that_nobody_planned_are_refused() -> None:
    """Also where sound and container are right."""
    assert check(EXPECTED, _BOOK, 60.0) == (
        "3 streams with 1 of audio, not 1 of audio",
        "1 pictures of cover art",
        "2 chapters, not 0",
    )
