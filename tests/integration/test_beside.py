"""Tags, cover art and chapters through the real FFmpeg, as ffprobe finds them in the finished files."""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.intent import resolve
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import path_to_uri
from tests.fakes.crossing import crossed
from tests.fakes.plans import Done, carry_out
from tests.fakes.synth import synthesise

CUT = """
name = "cut"
version = 1
default_profile = "m4a_chapters_v1"
[roles]
source = { media = "audio", default = true }
[chain.part]
from = ["source"]
steps = [{ op = "trim", start_s = 1 }]
"""

CHAPTERS = """;FFMETADATA1
title=A book
[CHAPTER]
TIMEBASE=1/1000
START=0
END=2000
title=Beginning\\; with \\= and \\#
[CHAPTER]
TIMEBASE=1/1000
START=2000
END=5000
title=Der Schluß
"""

CATALOG = Catalog.shipped().with_documents([CUT], [])


def _done(
    inputs: Mapping[str, Path],
    profiles: Sequence[str],
    binary: Binary,
    workspace: Path,
    *,
    preset: str = "convert",
    params: Mapping[str, str] | None = None,
) -> Done:
    intent = resolve(
        CATALOG,
        inputs=[(role, path_to_uri(str(path))) for role, path in inputs.items()],
        preset=preset,
        params=params or {},
        outputs=[(profile, f"file:///published/{profile}") for profile in profiles],
    )
    return carry_out(intent, list(inputs.values()), binary, workspace)


def _seen(path: Path) -> Any:
    show = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", "-show_chapters", str(path)]
    return json.loads(subprocess.run(show, capture_output=True, check=True).stdout)


def _tags(path: Path) -> dict[str, str]:
    document = _seen(path)
    sound = [stream for stream in document["streams"] if stream["codec_type"] == "audio"]
    return {
        key.lower(): value for holder in [document["format"], *sound] for key, value in holder.get("tags", {}).items()
    }


def _picture(folder: Path, name: str, size: str = "300x200") -> Path:
    path = folder / name
    make = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", f"color=red:s={size}:d=0.04", "-frames:v", "1"]
    subprocess.run([*make, *(["-pix_fmt", "yuvj420p"] if name.endswith("jpg") else []), str(path)], check=True)
    return path


def _cover(path: Path) -> bytes:
    read = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v:0", "-c", "copy", "-f", "image2pipe", "-"]
    return subprocess.run(read, capture_output=True, check=True).stdout


def _book(folder: Path) -> Path:
    (folder / "chapters.txt").write_text(CHAPTERS)
    path = folder / "book.m4a"
    inputs = ["-i", str(synthesise("tone", folder)), "-f", "ffmetadata", "-i", str(folder / "chapters.txt")]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, "-map_metadata", "1", "-c:a", "aac", str(path)], check=True)
    return path


SAID = {
    "title": "Ümläute; 'quotes' = \"x\", [a]:b\\c %t $album",
    "artist": "Somebody & Söhne",
    "album": "An album",
    "date": "2024",
    "comment": "filter=anullsrc,-y",
}


@pytest.mark.parametrize("profile", ["aac_192", "mp3_192", "flac", "opus_96", "audio_only_master"])
def test_what_the_caller_says_is_in_the_file_to_the_letter(profile: str, binary: Binary, tmp_path: Path) -> None:
    """Whatever characters it has, in every container; the source's other tags stay."""
    source = synthesise("cover_art", tmp_path)
    params = {f"tag.{name}": value for name, value in SAID.items() if name != "artist"}
    tags = _tags(_done({"": source}, [profile], binary, tmp_path / "w", params=params).path)
    assert {name: tags.get(name) for name in SAID} == {**SAID, "artist": "Somebody"}


def test_the_source_s_tags_are_dropped_on_request(binary: Binary, tmp_path: Path) -> None:
    """All but what is given; and a single one by an empty value."""
    source = synthesise("cover_art", tmp_path)
    given = {"tag.keep": "false", "tag.album": "An album"}
    tags = _tags(_done({"": source}, ["aac_192"], binary, tmp_path / "none", params=given).path)
    assert (tags.get("title"), tags.get("artist"), tags.get("album")) == (None, None, "An album")
    tags = _tags(_done({"": source}, ["flac"], binary, tmp_path / "one", params={"tag.artist": ""}).path)
    assert (tags.get("title"), tags.get("artist")) == ("A title", None)


@pytest.mark.parametrize(("name", "profile"), crossed(["art.jpg", "art.png"], ["aac_192", "mp3_192", "flac"]))
def test_cover_art_that_is_given_is_in_the_file_byte_for_byte(
    name: str, profile: str, binary: Binary, tmp_path: Path
) -> None:
    """In the place of the recording's own, as the front cover; the sound is not touched by it."""
    art, source = _picture(tmp_path, name), synthesise("cover_art", tmp_path)
    done = _done({"source": source, "cover": art}, [profile], binary, tmp_path / "w")
    [cover] = [stream for stream in _seen(done.path)["streams"] if stream["codec_type"] == "video"]
    assert (cover["width"], cover["height"], cover["disposition"]["attached_pic"]) == (300, 200, 1)
    assert _cover(done.path) == art.read_bytes()
    if profile != "aac_192":  # MP4 has no word for it
        assert cover["tags"]["comment"] == "Cover (front)"
    plain = _done({"": source}, [profile], binary, tmp_path / "plain", params={"profile.cover": "false"})
    hashes = [
        subprocess.run(
            ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a", "-f", "md5", "-"], capture_output=True, check=True
        ).stdout
        for path in (done.path, plain.path)
    ]
    assert hashes[0] == hashes[1]


def test_the_recording_s_own_cover_is_kept_where_the_container_has_a_place(binary: Binary, tmp_path: Path) -> None:
    """From M4A to M4A, MP3 and FLAC; WAV and Opus have none, and the plan says so."""
    source = synthesise("cover_art", tmp_path)
    profiles = ["aac_192", "mp3_192", "flac", "opus_96", "audio_only_master"]
    done = _done({"": source}, profiles, binary, tmp_path / "w")
    own = _cover(source)
    for made in done.plan.outputs:
        path = done.workspace / made.path
        pictures = [stream for stream in _seen(path)["streams"] if stream["codec_type"] == "video"]
        [told] = [d for d in done.plan.decisions if d.subject == f"{made.name}: cover"]
        if made.name in ("aac_192", "mp3_192", "flac"):
            assert _cover(path) == own
            assert told.choice == "mjpeg 64x64, unchanged"
        else:
            assert pictures == []
            assert told.choice.startswith("left out")


def test_levelled_files_have_covers_and_tags_too(binary: Binary, tmp_path: Path) -> None:
    """Where the file is encoded several times, each time."""
    art, source = _picture(tmp_path, "art.png"), synthesise("speech", tmp_path)
    params = {"tag.title": "Episode 1"}
    inputs = {"programme": source, "cover": art}
    done = _done(inputs, ["mp3_192"], binary, tmp_path / "w", preset="loudness_podcast", params=params)
    assert _cover(done.path) == art.read_bytes()
    assert _tags(done.path)["title"] == "Episode 1"


@pytest.mark.parametrize("text", ["#EXTM3U\nart.png\n", "GIF89a", "<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_cover_art_is_a_jpeg_or_a_png_and_nothing_else(text: str, binary: Binary, tmp_path: Path) -> None:
    """Nothing else is opened in that role, whatever it is called: no playlist, no script, no recording."""
    for number, content in enumerate((text.encode(), synthesise("tone", tmp_path).read_bytes())):
        art = tmp_path / "art.png"
        art.write_bytes(content)
        with pytest.raises(MediaFailure) as caught:
            _done({"source": synthesise("tone", tmp_path), "cover": art}, ["flac"], binary, tmp_path / f"w{number}")
        assert caught.value.reason is Reason.INPUT_CORRUPT


def test_cover_art_beyond_measure_is_refused(binary: Binary, tmp_path: Path) -> None:
    """With its size, what is taken, and what to do."""
    art = _picture(tmp_path, "art.png", "9000x16")
    with pytest.raises(MediaFailure, match=r"9000x16 .* at most 8192 a side .* scale it down") as caught:
        _done({"source": synthesise("tone", tmp_path), "cover": art}, ["flac"], binary, tmp_path / "w")
    assert caught.value.reason is Reason.UNSUPPORTED_COMBINATION


def _listed(path: Path) -> list[tuple[float, str]]:
    return [(float(c["start_time"]), c["tags"]["title"]) for c in _seen(path)["chapters"]]


def test_chapters_are_kept_where_the_profile_has_them(binary: Binary, tmp_path: Path) -> None:
    """With their titles to the letter, beside tags and a cover; without the profile's word they are left out."""
    book, art = _book(tmp_path), _picture(tmp_path, "art.jpg")
    done = _done({"source": book, "cover": art}, ["m4a_chapters", "aac_192"], binary, tmp_path / "w")
    with_chapters, without = (done.workspace / made.path for made in done.plan.outputs)
    begins, titles = zip(*_listed(with_chapters), strict=True)
    assert begins == pytest.approx((0, 2), abs=0.03)
    assert titles == ("Beginning; with = and #", "Der Schluß")
    assert _tags(with_chapters)["title"] == "A book"
    assert _cover(with_chapters) == art.read_bytes()
    assert _listed(without) == []
    told = {d.subject: (d.choice, d.because) for d in done.plan.decisions if d.subject.endswith("chapters")}
    assert told == {
        "m4a_chapters: chapters": ("2 kept", "the timeline is the recording's"),
        "aac_192: chapters": ("2 left out", "the profile has none"),
    }


def _chaptered(folder: Path, *spans_ms: tuple[int, int]) -> Path:
    """Five seconds in Matroska, which keeps any list of chapters as it is given."""
    text = ";FFMETADATA1\n" + "".join(
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle=from {start}\n" for start, end in spans_ms
    )
    (folder / "spans.txt").write_text(text)
    inputs = ["-i", str(synthesise("tone", folder)), "-f", "ffmetadata", "-i", str(folder / "spans.txt")]
    path = folder / "spans.mka"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", *inputs, "-map_chapters", "1", "-c:a", "flac", str(path)], check=True
    )
    return path


@pytest.mark.parametrize("profile", ["m4a_chapters", "mp3_192", "opus_96"])
def test_chapters_behind_the_end_do_not_make_a_file_longer(profile: str, binary: Binary, tmp_path: Path) -> None:
    """What begins there is left out and the plan says so; what ends there ends with the programme."""
    source = _chaptered(tmp_path, (0, 2000), (2000, 30_000), (60_000, 90_000))
    done = _done({"": source}, [profile], binary, tmp_path / "w", params={"profile.chapters": "true"})
    assert _listed(done.path) == [(0, "from 0"), (pytest.approx(2, abs=0.03), "from 2000")]
    told = [(d.choice, d.because) for d in done.plan.decisions if d.subject.endswith("chapters")]
    assert told == [
        ("2 kept", "the timeline is the recording's"),
        ("1 left out", "they begin behind the programme's end"),
    ]


@pytest.mark.parametrize("profile", ["m4a_chapters", "mp3_192", "opus_96", "vorbis"])
def test_a_first_chapter_that_begins_later_stays_where_it_is(profile: str, binary: Binary, tmp_path: Path) -> None:
    """In MP4, whose list begins with the programme, behind one without a title."""
    source = _chaptered(tmp_path, (1500, 2500), (3700, 5000))
    done = _done({"": source}, [profile], binary, tmp_path / "w", params={"profile.chapters": "true"})
    before = [(0, "")] if profile == "m4a_chapters" else []
    assert [(round(at, 1), title) for at, title in _listed(done.path)] == [
        *before,
        (1.5, "from 1500"),
        (3.7, "from 3700"),
    ]


@pytest.mark.parametrize("profile", ["mp3_192", "opus_96"])
def test_other_containers_take_chapters_too(profile: str, binary: Binary, tmp_path: Path) -> None:
    """Where the caller asks for them."""
    done = _done({"": _book(tmp_path)}, [profile], binary, tmp_path / "w", params={"profile.chapters": "true"})
    assert [title for _, title in _listed(done.path)] == ["Beginning; with = and #", "Der Schluß"]


def test_chapters_are_dropped_where_the_timeline_is_another(binary: Binary, tmp_path: Path) -> None:
    """A second cut off the beginning would move every chapter, and the plan says why there are none."""
    done = _done({"": _book(tmp_path)}, ["m4a_chapters"], binary, tmp_path / "w", preset="cut")
    assert _listed(done.path) == []
    assert ("2 left out", "the steps change the timeline") in [(d.choice, d.because) for d in done.plan.decisions]


@pytest.mark.parametrize("profile", ["m4a_chapters", "mp3_192", "flac"])
def test_with_all_of_it_the_same_plan_gives_the_same_bytes(profile: str, binary: Binary, tmp_path: Path) -> None:
    """Tags, cover and chapters bring no date and no random number."""
    book, art = _book(tmp_path), _picture(tmp_path, "art.png")
    params = {"tag.title": "Twice", "profile.chapters": "false" if profile == "flac" else "true"}
    digests = {
        hashlib.sha256(
            _done({"source": book, "cover": art}, [profile], binary, tmp_path / name, params=params).path.read_bytes()
        ).hexdigest()
        for name in ("first", "second")
    }
    assert len(digests) == 1
