"""The digest of all that a result depends on."""

from dataclasses import replace

import pytest

from presets.recipe import recipe
from tests.unit.presets.samples import BINARY, intent

CONTENTS = ("ab" * 32,)


def test_names_are_no_part_of_it() -> None:
    """The same content under other names, made into other names of the same folder, is the same."""
    one = intent()
    other = replace(
        one,
        inputs=tuple(replace(ref, uri="file:///elsewhere/x.wav") for ref in one.inputs),
        outputs=tuple(replace(out, uri=out.uri.rpartition("/")[0] + "/other.m4a") for out in one.outputs),
        overwrite=True,
    )
    assert recipe(one, CONTENTS, BINARY) == recipe(other, CONTENTS, BINARY)


@pytest.mark.parametrize(
    "changed",
    [
        intent(params={"target_lufs": "-17"}),
        intent(params={"profile.bitrate_kbps": "128"}),
        intent(params={"tag.title": "Another"}),
        intent(profiles=("aac_192", "flac")),
        intent("loudness_streaming"),
        replace(intent(), outputs=tuple(replace(one, uri=f"file:///other/{one.name}") for one in intent().outputs)),
    ],
    ids=["parameter", "override", "tag", "another output", "preset", "folder"],
)
def test_whatever_changes_the_result_is(changed: object) -> None:
    """Parameters, overrides, tags, profiles, preset and folder."""
    assert recipe(changed, CONTENTS, BINARY) != recipe(intent(), CONTENTS, BINARY)  # type: ignore[arg-type] # pytest's


def test_content_and_ffmpeg_are() -> None:
    """By its version: the same one of another machine makes the same."""
    known = recipe(intent(), CONTENTS, BINARY)
    assert recipe(intent(), ("cd" * 32,), BINARY) != known
    assert recipe(intent(), CONTENTS, replace(BINARY, version="9.9")) != known
    assert recipe(intent(), CONTENTS, replace(BINARY, path="/elsewhere/ffmpeg", digest="other")) == known
