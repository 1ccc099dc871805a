"""``highpass``: remove rumble below the programme."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal

#: Quality factors of the second-order sections that make a Butterworth filter of that slope.
SECTIONS: dict[int, tuple[float, ...]] = {12: (0.707107,), 24: (0.541196, 1.306563)}


class Highpass(Operation):
    """A Butterworth high-pass: 3 dB down at ``hz`` (hertz), falling by ``slope_db`` per octave below."""

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("highpass",)

    op: Literal["highpass"] = "highpass"
    hz: Annotated[float, Field(ge=10, le=2000)]
    slope_db: Literal[12, 24] = 12

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """One second-order section per 12 dB."""
        signal = signals[0]
        for quality in SECTIONS[self.slope_db]:
            stream = signal.stream.highpass(frequency=decimal(self.hz), width_type="q", width=decimal(quality))
            signal = replace(signal, stream=stream)
        return signal
