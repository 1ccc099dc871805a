"""``lowpass``: remove hiss and whistles above the programme."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal
from presets.operations.highpass import SECTIONS


class Lowpass(Operation):
    """A Butterworth low-pass: 3 dB down at ``hz`` (hertz), falling by ``slope_db`` per octave above.

    At or above half of the sample rate there is nothing to remove, and nothing is done.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("lowpass",)

    op: Literal["lowpass"] = "lowpass"
    hz: Annotated[float, Field(ge=100, le=96_000)]
    slope_db: Literal[12, 24] = 12

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """One second-order section per 12 dB."""
        signal = signals[0]
        if self.hz >= signal.sample_rate_hz / 2:
            context.decide("nothing", f"at {signal.sample_rate_hz} Hz there is no sound at {self.hz:g} Hz and above")
            return signal
        for quality in SECTIONS[self.slope_db]:
            stream = signal.stream.lowpass(frequency=decimal(self.hz), width_type="q", width=decimal(quality))
            signal = replace(signal, stream=stream)
        return signal
