"""Sizes as people write them."""

import click
import pytest

from agent.sizes import Size


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1024", 1024), ("500MB", 500_000_000), ("1.5 GiB", 3 << 29), ("5gib", 5 << 30), (7, 7)],
)
def test_sizes_are_understood(text: object, size: int) -> None:
    """With a decimal or a binary unit, or as plain bytes; a number in a settings file is bytes."""
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "-1", "five", "5 parsecs", "10%", "nan"])
def test_what_is_none_is_refused(text: str) -> None:
    """With an example of what is expected."""
    with pytest.raises(click.BadParameter, match="such as 500MB"):
        Size().convert(text, None, None)
