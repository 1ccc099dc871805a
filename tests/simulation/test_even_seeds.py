"""A fleet under faults: the even ones of the seeds that are always played."""

import pytest

from tests.simulation.world import ALWAYS_PLAYED, PIECE, play


@pytest.mark.parametrize("first", range(0, ALWAYS_PLAYED, 2 * PIECE))
def test_every_invariant_holds_whatever_goes_wrong(first: int) -> None:
    """Every job ends once, is published once, by its last attempt; nothing that was acknowledged is lost."""
    play(range(first, min(first + 2 * PIECE, ALWAYS_PLAYED), 2))
