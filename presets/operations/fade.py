"""``fade``: in from silence at the start, out to it at the end."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal

#: How the gain moves: straight, as a quarter of a sine (equal power against another fade), or even in decibels.
Curve = Literal["linear", "equal_power", "exponential"]
_CURVES: dict[Curve, str] = {"linear": "tri", "equal_power": "qsin", "exponential": "exp"}


class Fade(Operation):
    """Fade in over the first ``in_s`` seconds and out over the last ``out_s``; 0 leaves that end as it is.

    ``curve``: "linear" in amplitude, "equal_power" as against another fade, "exponential" even in decibels. Where the
    signal is shorter than both together they are shortened in proportion.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("afade",)

    op: Literal["fade"] = "fade"
    in_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    out_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    curve: Curve = "equal_power"

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """The end is where a measurement before found it: headers may not tell."""
        signal = signals[0]
        if not self.in_s and not self.out_s:
            return signal
        heard = context.measured(signal)
        if heard is None:
            return faded(signal, self.in_s, self.out_s, "{end_s}", self.curve)
        length_s = heard.out_time_s or 0.0
        share = min(1.0, length_s / (self.in_s + self.out_s))
        if share < 1:
            context.decide(
                f"in over {self.in_s * share:.2f} s, out over {self.out_s * share:.2f} s",
                f"the signal lasts {length_s:.2f} s, less than both fades",
            )
        return faded(signal, self.in_s * share, self.out_s * share, length_s, self.curve)


def faded(signal: Signal, in_s: float, out_s: float, end_s: float | str, curve: Curve) -> Signal:
    """The signal with fades; ``end_s`` is where it ends, in seconds, or a placeholder in braces."""
    stream = signal.stream
    if in_s:
        stream = stream.afade(type="in", start_time="0", duration=decimal(in_s), curve=_CURVES[curve])
    if out_s:
        start = end_s if isinstance(end_s, str) else decimal(max(end_s - out_s, 0.0))
        stream = stream.afade(type="out", start_time=start, duration=decimal(out_s), curve=_CURVES[curve])
    return replace(signal, stream=stream, provisional=signal.provisional or isinstance(end_s, str))
