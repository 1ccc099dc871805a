"""When the scratch volume counts as low."""

import pytest

from agent.core.reserve import Reserve, default_reserve
from agent.core.sizes import GIB


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(0, 0), (GIB, GIB / 10), (10 * GIB, GIB), (15 * GIB, GIB), (50 * GIB, 2.5 * GIB), (10_000 * GIB, 10 * GIB)],
)
def test_the_default_is_a_share_within_bounds(total: int, reserve: float) -> None:
    """5 %, at least 1 GiB or a tenth, at the most 10 GiB."""
    assert default_reserve(total) == pytest.approx(reserve, abs=1)


def test_low_is_told_once_and_ends_with_some_to_spare() -> None:
    """The words stay the same while it is low, though the figures don't: they are news only when it becomes so."""
    reserve = Reserve()
    assert reserve.measure(3 * GIB, 50 * GIB) == ""
    low = reserve.measure(2 * GIB, 50 * GIB)
    assert low == "scratch is low: 2.0 GiB of 50.0 GiB free, less than 2.5 GiB"
    assert reserve.measure(GIB, 50 * GIB) == low
    assert reserve.measure(3 * GIB, 50 * GIB) == low
    assert reserve.measure(int(3.125 * GIB), 50 * GIB) == ""
    assert reserve.measure(int(2.6 * GIB), 50 * GIB) == ""


def test_it_can_be_given_and_switched_off() -> None:
    """0 is never low, on a full volume either."""
    assert (
        Reserve(100 << 20).measure((100 << 20) - 1, GIB) == "scratch is low: 100 MiB of 1.0 GiB free, less than 100 MiB"
    )
    assert Reserve(100 << 20).measure(100 << 20, GIB) == ""
    assert Reserve(0).measure(0, GIB) == ""


def test_what_is_missing_is_known() -> None:
    """Up to the brink from above, up to some to spare from below it."""
    reserve = Reserve(100)
    assert [reserve.missing(free, 1000) for free in (100, 90)] == [0, 10]
    reserve.measure(90, 1000)
    assert [reserve.missing(free, 1000) for free in (125, 100)] == [0, 25]
