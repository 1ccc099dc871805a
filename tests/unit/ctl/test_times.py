"""Spans and moments as people write them."""

from datetime import UTC, datetime, timedelta

import click
import pytest

from ctl.times import Duration, Moment


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("250ms", 0.25), ("10m", 600), ("2h", 7200), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    """A number with a unit, seconds without one."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "+1s", "1w", "s", "1 h", "1e3s", "inf", "99999d"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused, and so is what exceeds ten years."""
    with pytest.raises(click.BadParameter, match="expected a duration"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-05-01T06:00:00Z", datetime(2030, 5, 1, 6, tzinfo=UTC)),
        ("2030-05-01T06:00:00+02:00", datetime(2030, 5, 1, 4, tzinfo=UTC)),
        ("2030-05-01T06:00:00.25-00:30", datetime(2030, 5, 1, 6, 30, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    """RFC 3339 with its zone, in UTC."""
    assert Moment().convert(text, None, None) == moment


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("+2h", 7200), ("2h", 7200)])
def test_moments_from_now(text: str, seconds: float) -> None:
    """A duration is counted from now."""
    before = datetime.now(UTC)
    found = Moment().convert(text, None, None)
    assert before <= found - timedelta(seconds=seconds) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2030-05-01T06:00:00", "lacks its zone"),
        ("2030-05-01", "lacks its zone"),
        ("tomorrow", "expected a moment"),
        ("-2h", "expected a moment"),
        ("0001-01-01T00:00:00+10:00", "out of range"),
    ],
)
def test_what_is_no_moment(text: str, says: str) -> None:
    """A moment without a zone would mean another one elsewhere."""
    with pytest.raises(click.BadParameter, match=says):
        Moment().convert(text, None, None)
