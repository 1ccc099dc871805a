"""Which tags, cover and chapters an output gets, and why."""

from dataclasses import replace

import pytest

from presets.beside import ffmetadata
from presets.compile import compile as compile_plan
from presets.facts import Chapter, MediaFacts, VideoStream, from_ffprobe
from presets.parse import InvalidDocument, parse_preset, parse_profile
from presets.plan import Plan, Purpose
from tests.unit.presets.samples import BINARY, audio, golden, intent, media
from tests.unit.presets.test_parse import PRESET, PROFILE

CHAPTERS = (Chapter(0, 20, "One"), Chapter(20, 60, "Two"))
BOOK = replace(media(audio(0), format_name="mov,mp4,m4a,3gp,3g2,mj2"), chapters=CHAPTERS)
ART_STREAM = VideoStream(0, "png", None, None, False, False, 600, 600, 25.0, pixel_format="rgb24")
ART = MediaFacts("png_pipe", None, 0, 5000, None, (ART_STREAM,))


def _attached(index: int, codec: str, pixel_format: str | None = "yuvj420p") -> VideoStream:
    return VideoStream(index, codec, None, None, False, True, 64, 64, None, pixel_format=pixel_format)


def _plan(*facts: MediaFacts, profile: str = "m4a_chapters", params: dict[str, str] | None = None) -> Plan:
    inputs = [("source", "file:///media/book.m4a"), ("cover", "file:///media/art.png")][: len(facts)]
    return compile_plan(
        intent("convert", profiles=(profile,), inputs=inputs, params=params or {}), list(facts), BINARY, {}
    )


def _told(plan: Plan, what: str) -> list[tuple[str, str]]:
    return [(d.choice, d.because) for d in plan.decisions if d.subject.endswith(f": {what}")]


def test_the_encode_takes_picture_and_chapters_in() -> None:
    """The picture by a demuxer that reads that file alone, chapters from a text that is written before."""
    plan = _plan(BOOK, ART, params={"tag.title": "A 'book'", "tag.keep": "false"})
    golden("beside", plan)
    assert plan.documents == {"work/m4a_chapters.chapters.txt": ffmetadata(CHAPTERS)}
    [expected] = plan.outputs
    assert expected.cover is not None
    assert (expected.cover.codec, expected.chapters_s) == ("png", (0, 20))


def test_a_recording_s_own_cover_is_the_first_that_can_be_kept() -> None:
    """A bitmap is no cover art anywhere; the JPEG behind it is, by its number among the pictures."""
    plan = _plan(media(audio(0), _attached(1, "bmp"), _attached(2, "mjpeg")), profile="flac")
    [argv] = [i.argv for i in plan.invocations if i.purpose is Purpose.ENCODE]
    assert argv[argv.index("-map") :].count("-map") == 2
    assert "0:v:1" in argv
    only = _plan(media(audio(0), _attached(1, "bmp")), profile="flac")
    assert _told(only, "cover") == [
        ("left out (bmp 64x64, of the recording itself)", "cover art is mjpeg or png"),
    ]
    assert only.outputs[0].cover is None


def test_a_damaged_cover_is_left_out() -> None:
    """FLAC tells a picture's size beside it, whatever became of the picture: a file with that does not verify."""
    plan = _plan(media(audio(0), _attached(1, "mjpeg", None)), profile="flac")
    assert plan.outputs[0].cover is None
    damaged = ("left out (mjpeg 64x64, of the recording itself)", "it is damaged: its head cannot be read")
    assert _told(plan, "cover") == [damaged]
    plan = _plan(media(audio(0), _attached(1, "mjpeg", None), _attached(2, "png")), profile="flac")
    assert _told(plan, "cover") == [("png 64x64, unchanged", "of the recording itself")]


def test_no_cover_and_no_chapters_are_no_decision() -> None:
    """A plan speaks of what is there."""
    plan = _plan(media())
    assert _told(plan, "cover") == _told(plan, "chapters") == _told(plan, "tags") == []
    assert plan.documents == {}


def test_a_container_without_a_place_for_chapters_takes_no_such_flag() -> None:
    """The profile is refused, rather than the chapters lost."""
    text = PROFILE.replace("[delivery]", "[delivery]\nchapters = true")
    assert parse_profile(text).delivery.chapters
    flac = 'name = "x"\nversion = 1\ncontainer = "flac"\nextension = "flac"\n[[stream]]\nkind = "audio"\n'
    flac += 'codec = "flac"\nencoders = ["flac"]\nlayouts = ["mono"]\n[delivery]\nchapters = true\n'
    with pytest.raises(InvalidDocument, match=r"a flac file has no place for chapters"):
        parse_profile(flac)


def test_more_chapters_than_a_recording_has_are_the_first_of_them() -> None:
    """What is read of a file is bounded, and the plan says that it may have been more."""
    many = tuple(Chapter(n / 100, (n + 1) / 100, "") for n in range(1000))
    assert _told(_plan(replace(BOOK, chapters=many)), "chapters") == [
        ("the first 1000 kept", "the timeline is the recording's")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('art = { media = "picture", default = true }', "cannot be that"),
        ('art = { media = "picture", repeat = true }', "cannot be that"),
        ('art = { media = "picture" }\nmore = { media = "picture" }', "only one role may be a picture"),
    ],
)
def test_a_role_for_a_picture_is_one_beside_what_is_processed(line: str, message: str) -> None:
    """It is neither the default, nor repeated, nor one of two."""
    with pytest.raises(InvalidDocument, match=message):
        parse_preset(PRESET.replace("[roles]\n", f"[roles]\n{line}\n"))


def test_no_chain_takes_a_picture() -> None:
    """It is used as it is."""
    text = PRESET.replace("[roles]\n", '[roles]\nart = { media = "picture" }\n').replace('["voice"]', '["art"]')
    with pytest.raises(InvalidDocument, match="the role art is a picture, which no chain takes"):
        parse_preset(text)


def test_titles_of_chapters_are_one_line_each() -> None:
    """What has a meaning in FFmpeg's format is escaped, what breaks lines is taken out, what is too long is cut."""
    text = ffmetadata([Chapter(0.5, 1.25, "a=b;c#d\\e\n[CHAPTER]"), Chapter(1.25, 1, "ü" * 200)])
    lines = text.splitlines()
    assert lines[:5] == [";FFMETADATA1", "[CHAPTER]", "TIMEBASE=1/1000", "START=500", "END=1250"]
    assert lines[5] == r"title=a\=b\;c\#d\\e[CHAPTER]"
    assert lines[9:] == ["END=1250", "title=" + "ü" * 127]


def test_chapters_are_read_from_the_recording_s_own_beginning() -> None:
    """In order, in seconds; one that ends before it begins is none, and there is an end to how many."""
    raw = [
        {"start_time": "12.0", "end_time": "15.0", "tags": {"TITLE": "Two"}},
        {"start_time": "10.5", "end_time": "12.0"},
        {"start_time": "9.0", "end_time": "8.0"},
        {"start_time": "x", "end_time": "8.0"},
    ]
    document = {
        "format": {"format_name": "matroska", "start_time": "10.0"},
        "streams": [{"codec_type": "audio"}],
        "chapters": raw,
    }
    facts = from_ffprobe(document)
    assert facts.chapters == (Chapter(0.5, 2, ""), Chapter(2, 5, "Two"))
    assert MediaFacts.from_json(facts.to_json()) == facts
    assert len(from_ffprobe({**document, "chapters": raw[:1] * 5000}).chapters) == 1000
