"""The pages about presets: what stands in them, and that those in docs/presets are the ones of today's presets."""

import re
from pathlib import Path

import pytest

from ctl import manual
from presets.catalog import Catalog, Preset, Profile

SHIPPED = Catalog.shipped()
PAGES = Path(__file__).parents[3] / "docs" / "presets"
STALE = "run `make pages`"

EVERYTHING = """
name = "everything"
version = 3
title = "Voice *over* <music>"
description = "First [line](http://elsewhere).\\n# no heading\\n- no list"
default_profile = "flac_v1"
[roles]
voice = { media = "audio", default = true, description = "who speaks" }
music = { media = "audio", optional = true, repeat = true }
film = { media = "video", optional = true }
[parameters]
target_lufs = { type = "number", unit = "LUFS", default = -16, min = -31, max = -9, description = "a | b" }
track = { type = "integer", default = 1, min = 0, max = 9 }
warm = { type = "boolean", default = true }
layout = { type = "choice", choices = ["mono", "stereo"], default = "mono" }
language = { type = "text", max_length = 9 }
[chain.speech]
from = ["voice"]
steps = [{ op = "extract", track = "$track", language = "$language" }, { op = "channels", layout = "$layout" }]
[chain.bed]
from = ["music"]
when = { given = "music" }
steps = [{ op = "mix" }, { op = "limiter", attack_ms = 7 }, { op = "channels", layout = "stereo" }]
[chain.picture]
media = "video"
from = ["film"]
when = { given = "film" }
[chain.programme]
from = ["speech", "bed"]
steps = [{ op = "mix", gains_db = { bed = -6 } }, { op = "loudness", target_lufs = "$target_lufs" }]
[[check]]
inputs = { voice = "synth:speech", music = "synth:loud_music" }
parameters = { warm = false }
profile = "opus_96_v1"
expect = { true_peak_dbtp = [-20, -0.95], channels = [2, 2] }
"""


def _page(text: str = EVERYTHING, *, pictured: bool = False) -> str:
    preset = Preset.from_text(text)
    return manual.page(preset, SHIPPED.profile(preset.document.default_profile), pictured=pictured)


def _section(page: str, title: str) -> str:
    return re.split(r"(?m)^## ", page.split(f"## {title}\n", 1)[1])[0]


@pytest.mark.parametrize("preset", SHIPPED.presets, ids=lambda preset: str(preset.full_name))
def test_the_page_of_every_shipped_preset_is_fresh(preset: Preset) -> None:
    """docs/presets holds what would be written today, pictures aside; those that a page shows are there."""
    pictured = (PAGES / manual.picture_name(preset)).exists()
    path = PAGES / manual.page_name(preset)
    assert path.exists(), STALE
    written = manual.page(preset, SHIPPED.profile(preset.document.default_profile), pictured=pictured)
    assert path.read_text(encoding="utf-8") == written, STALE
    # What a check runs on has sound in every shipped preset, so its page without a picture is an omission.
    assert pictured == bool(preset.document.check), STALE


def test_the_index_is_fresh_and_nothing_else_is_there() -> None:
    """Every preset and profile that there is, and no page of one that has gone."""
    assert (PAGES / manual.INDEX).read_text(encoding="utf-8") == manual.index(SHIPPED), STALE
    expected = {manual.INDEX}
    for preset in SHIPPED.presets:
        expected |= {manual.page_name(preset), manual.picture_name(preset)}
    assert {path.name for path in PAGES.iterdir()} <= expected, STALE


def test_roles_say_what_they_take() -> None:
    """Medium, description, and how many inputs may play the part."""
    told = _section(_page(), "What goes in")
    assert "| `voice` | audio | who speaks; takes inputs given without a role |" in told
    assert "| `music` | audio | optional; may be given several times |" in told
    assert "| `film` | video | optional |" in told


def test_parameters_say_what_they_allow() -> None:
    """Default and range with their unit, choices, and a description that can't break the table."""
    told = _section(_page(), "What can be set")
    assert "| `target_lufs` | -16 LUFS | -31 to -9 LUFS | a \\| b |" in told
    assert "| `track` | 1 | whole numbers, 0 to 9 |" in told
    assert "| `warm` | true | true, false |" in told
    assert "| `layout` | mono | mono, stereo |" in told
    assert "| `language` | empty | text of at most 9 characters |" in told
    assert "no parameters" in _section(_page(SHIPPED.preset("convert").text), "What can be set")


def test_chains_say_what_is_done() -> None:
    """Sources, conditions, each step's settings, the defaults of its operation, and what the operation says."""
    told = _section(_page(), "What is done")
    assert "**`bed`** is the sound of `music`, where `music` is given:" in told
    assert "**`programme`** is the sound of `speech` and `bed`:" in told
    assert "- `track`: parameter `track`, by default 1" in told
    assert "- `language`: parameter `language`, by default empty" in told
    assert "- `attack_ms`: 7 ms\n" in told
    assert "- `release_ms`: 80 ms (the operation's own default)" in told
    assert "- `gains_db`: `bed` -6 dB" in told
    assert "**`picture`** is the picture of `film`, where `film` is given, as it is." in told
    assert "1. **`mix`**: Add the chain's sources that are present" in told
    # An operation is explained once.
    assert told.count("ITU-R BS.775") == 1
    assert "``" not in told


def test_the_profile_s_ceiling_is_promised_only_where_a_loudness_step_keeps_it() -> None:
    """A preset that changes no levels keeps none."""
    assert "[`flac_v1`](README.md#profiles)" in _page()
    assert "true peaks at or below -1 dBTP" in _section(_page(), "What is done")
    assert "true peaks" not in _section(_page(SHIPPED.preset("convert").text), "What is done")


def test_checks_are_promises() -> None:
    """What goes in, and the ranges that the output is tested against."""
    told = _section(_page(), "What is promised")
    assert (
        "- `voice` speech, `music` loud music, `warm=false`, `opus_96_v1`: "
        "true peak -20 to -0.95 dBTP; channels 2\n" in told
    )
    unchecked = EVERYTHING.partition("[[check]]")[0]
    assert "What is promised" not in _page(unchecked)


def test_calls_can_be_copied() -> None:
    """The least there is to say, every role, and every parameter at its default."""
    called = _section(_page(), "How to call it")
    assert "mediactl run voice.wav --preset everything_v3 --output out/\n" in called
    assert "mediactl run voice=voice.wav music=music.wav film=film.mp4 --preset everything_v3 --output out/" in called
    assert "-p target_lufs=-16 -p track=1 -p warm=true -p layout=mono -p language='' --profile flac_v1" in called


def test_what_people_wrote_stays_text() -> None:
    """Markup in titles and descriptions is shown, not obeyed, and a document can't leave its block of code."""
    page = _page()
    assert page.startswith("# Voice \\*over\\* \\<music>: `everything_v3`\n")
    assert "First \\[line\\](http://elsewhere).\n\\# no heading\n\\- no list" in page
    fenced = _page(EVERYTHING + '\n# """ ```` """\n')
    assert fenced.rstrip().endswith("`````")
    assert _section(fenced, "The document").count("`````") == 2


def test_a_picture_is_shown_where_there_is_one() -> None:
    """By its name, as it stands beside the page."""
    assert "(everything_v3.svg)" in _page(pictured=True)
    assert ".svg" not in _page()


def test_the_index_tells_how_profiles_pack() -> None:
    """A line for each preset with the way to its page, and for each profile."""
    house = Profile.from_text(SHIPPED.profile("flac").text.replace('name = "flac"', 'name = "house"'))
    told = manual.index(Catalog({}, {}).with_documents([EVERYTHING], [house.text, SHIPPED.profile("flac").text]))
    assert "| [`everything_v3`](everything_v3.md) | Voice \\*over\\* \\<music> | `voice`, `music` (optional)" in told
    packed = "flac, bits 24, sample rate 48000 Hz, mono / stereo"
    assert f"| `house_v1` | FLAC 48 kHz, 24 bit | .flac |  | {packed} | -1 dBTP |" in told
