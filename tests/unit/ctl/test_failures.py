"""What a person is told about an exception."""

import pytest

from ctl.failures import report


def test_bytes_that_are_no_text_are_the_callers_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """As any other invalid request: exit code 2, and what it was."""
    with pytest.raises(UnicodeEncodeError) as caught:
        "show=\udcff".encode()
    assert report(caught.value) == 2
    assert "INVALID_ARGUMENT: 'show=\\udcff' is not UTF-8" in capsys.readouterr().err
