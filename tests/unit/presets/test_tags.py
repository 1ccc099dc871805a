"""Tags among the parameters of a request."""

import pytest

from presets.intent import Intent
from presets.problems import InvalidRequest
from presets.reasons import Reason
from presets.tags import MAX_LENGTH
from tests.unit.presets.samples import intent


def _problem(params: dict[str, str]) -> tuple[Reason, str, str]:
    with pytest.raises(InvalidRequest) as caught:
        intent(params=params)
    [problem] = caught.value.problems
    return problem.reason, problem.field, problem.message


def test_any_preset_takes_tags() -> None:
    """They are no parameters of it, and survive the way to the agent; without any the source's are kept."""
    asked = intent(params={"tag.title": "A $title", "tag.comment": "", "tag.keep": "no"})
    assert (asked.tags.keep, asked.tags.values) == (False, {"title": "A $title", "comment": ""})
    assert "tag.title" not in asked.parameters
    assert Intent.from_json(asked.to_json(), asked.texts()) == asked
    assert intent().tags.keep
    old = {key: value for key, value in asked.to_json().items() if key != "tags"}
    assert Intent.from_json(old, asked.texts()).tags == intent().tags


@pytest.mark.parametrize("text", ["two\nlines", "a\0b", "\x1b[2J", "half \ud800", "par\u2029agraph", "x\x85"])
def test_a_tag_is_one_line_of_text(text: str) -> None:
    """What controls a terminal, breaks a line or cannot be written is refused, with the character that it is about."""
    reason, field, message = _problem({"tag.title": text})
    assert (reason, field) == (Reason.PARAMETER_OUT_OF_RANGE, "params.tag.title")
    assert message.isascii()


def test_what_is_not_a_tag_is_refused_with_those_there_are() -> None:
    """Also a tag too long, and a switch that is neither on nor off."""
    reason, field, message = _problem({"tag.titel": "x"})
    assert (reason, field) == (Reason.PARAMETER_UNKNOWN, "params.tag.titel")
    assert "title, artist" in message
    assert _problem({"tag.album": "x" * (MAX_LENGTH + 1)})[0] is Reason.PARAMETER_OUT_OF_RANGE
    assert _problem({"tag.keep": "maybe"})[2] == "'maybe' is not true or false"
    assert intent(params={"tag.album": "\N{GRINNING FACE}" * MAX_LENGTH}).tags.values["album"]
