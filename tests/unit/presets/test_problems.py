"""How presets refuse."""

import os

from presets.problems import MediaFailure
from presets.reasons import Reason


def test_a_name_that_is_no_text_can_be_told() -> None:
    """Whatever a file is called, its failure fits into a log and a message on the wire."""
    name = os.fsdecode(b"/media/caf\xe9 \xf0\x9f\x8e\x99.wav")
    failure = MediaFailure(Reason.INPUT_NOT_FOUND, f"{name}: there is no such file")
    assert failure.message == "/media/caf\ufffd \U0001f399.wav: there is no such file"
    assert str(failure) == f"INPUT_NOT_FOUND: {failure.message}"
