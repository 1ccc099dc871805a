"""Spans and moments as people write them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_UNITS_S: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")
# Enough for a person; beyond the range of a timestamp nothing could be said about it anyway.
_LONGEST_S: Final = 3650 * 86400.0


def _seconds(text: str) -> float | None:
    match = _SPAN.fullmatch(text)
    if match is None:
        return None
    seconds = float(match[1]) * _UNITS_S[match[2]]
    return seconds if seconds <= _LONGEST_S else None


class Duration(click.ParamType[float]):
    """Seconds, from e.g. `90`, `1.5s`, `10m`, `2h`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        seconds = _seconds(str(value))
        if seconds is None:
            self.fail(f"expected a duration such as 90s, 10m or 2h, not {value!r}", param, ctx)
        return seconds


class Moment(click.ParamType[datetime]):
    """A moment, from RFC 3339 with its zone (`2026-05-01T06:00:00+02:00`) or a duration from now (`90s`, `+2h`)."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """In UTC."""
        if isinstance(value, datetime):
            return value
        text = str(value)
        seconds = _seconds(text.removeprefix("+"))
        if seconds is not None:
            return datetime.now(UTC) + timedelta(seconds=seconds)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"expected a moment such as 2026-05-01T06:00:00Z, or a duration from now such as 2h, not {value!r}",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            self.fail(f"{value!r} lacks its zone: add Z for UTC, or an offset such as +02:00", param, ctx)
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            self.fail(f"{value!r} is out of range", param, ctx)
