"""`mediactl presets page`: a page and a picture of a real run, from outside."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home

HOUSE = """\
name = "{name}"
version = 1
title = "House sound"
default_profile = "flac_v1"
[roles]
voice = {{ media = "audio" }}
music = {{ media = "audio", optional = true }}
[parameters]
bed_db = {{ type = "number", unit = "dB", default = -6, min = -60, max = 0 }}
[chain.out]
from = ["voice", "music"]
steps = [{{ op = "mix", gains_db = {{ music = "$bed_db" }} }}]
"""


def _described(picture: Path) -> str:
    """What the picture says of the sounds in it."""
    found = ET.parse(picture).getroot().findtext("{http://www.w3.org/2000/svg}desc")  # noqa: S314 - our own
    assert found is not None
    return found


def test_a_page_shows_what_a_run_did(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Both files and nothing else; the result in the picture has the loudness that was asked for."""
    folder = tmp_path / "pages"
    ran = box.run(
        *("presets", "page", "dialogue_clean", recordings.synth("speech_with_rumble")),
        *("-p", "target_lufs=-19", "--profile", "flac", "--output", folder),
    )
    page, picture = folder / "dialogue_clean_v1.md", folder / "dialogue_clean_v1.svg"
    assert sorted(folder.iterdir()) == [page, picture]
    assert ran.stdout.splitlines() == [str(picture), str(page)]
    assert "(dialogue_clean_v1.svg)" in page.read_text()
    before, after = re.findall(r"(−[\d.]+) LUFS", _described(picture))
    assert (before, after) == ("−25.4", "−19.0")
    assert "result: flac_v1" in _described(picture)
    assert "target −19 LUFS" in picture.read_text()


def test_every_role_is_in_the_picture_of_a_preset_of_ones_own(
    box: Home, recordings: Recordings, tmp_path: Path
) -> None:
    """A preset that was added has its page as a shipped one; as data the files are named."""
    name = f"house_{tmp_path.name}".replace("-", "_")[:60].rstrip("_")
    document = tmp_path / "house.toml"
    document.write_text(HOUSE.format(name=name))
    box.run("presets", "add", document)
    inputs = (f"voice={recordings.synth('speech')}", f"music={recordings.synth('loud_music')}")
    files = box.job("presets", "page", name, *inputs, "--output", tmp_path / "pages")["files"]
    picture, page = map(Path, files)
    assert "# House sound" in page.read_text()
    for told in ("voice: speech.ogg", "music: loud_music.wav", "result: flac_v1"):
        assert told in _described(picture)
    assert "target" not in picture.read_text().partition("</style>")[2]


def test_pages_of_all_presets_keep_their_pictures(box: Home, tmp_path: Path) -> None:
    """Without a preset: a page about each and an index; nothing is run."""
    picture = tmp_path / "convert_v1.svg"
    picture.write_text("<svg/>")
    box.run("presets", "page", "--output", tmp_path)
    assert picture.read_text() == "<svg/>"
    assert "(convert_v1.svg)" in (tmp_path / "convert_v1.md").read_text()
    assert ".svg" not in (tmp_path / "dialogue_clean_v1.md").read_text()
    assert "(dialogue_clean_v1.md)" in (tmp_path / "README.md").read_text()
    assert "`mp3_192_v1`" in (tmp_path / "README.md").read_text()


def test_what_can_t_be_pictured_is_told(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A file without sound is no error where a preset takes one; a run that fails is, and so is a wrong call."""
    folder = tmp_path / "pages"
    silent = recordings.synth("video_only")
    ran = box.run("presets", "page", "video_convert", silent, "--output", folder)
    assert "nothing has sound" in ran.stderr
    assert [path.name for path in folder.iterdir()] == ["video_convert_v1.md"]
    ran = box.run("presets", "page", "convert", silent, "--output", folder, code=1)
    assert "INPUT_NO_AUDIO" in ran.stderr
    ran = box.run("presets", "page", "nothing", "--output", folder, code=None)
    assert "PRESET_NOT_FOUND" in ran.stderr
    ran = box.run("presets", "page", "convert", silent, "-p", "loud=1", "--output", folder, code=2)
    assert "loud" in ran.stderr
    ran = box.run("presets", "page", "convert", silent, silent, "--output", folder, code=2)
    assert "one run" in ran.stderr
    ran = box.run("presets", "page", "convert", "--profile", "flac", "--output", folder, code=2)
    assert "needs an INPUT" in ran.stderr
    assert [path.name for path in folder.iterdir()] == ["video_convert_v1.md"]
