"""``level``: bring a part to a loudness."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, gain


class Level(Operation):
    """Bring the signal to ``target_lufs`` (integrated, EBU R128) by one gain, and nothing else.

    For parts of a programme that must not differ in loudness before they are mixed or joined; peaks may go above full
    scale in between, which loses nothing. What has no loudness (silence, or less than 0.4 s) stays as it is, and the
    gain is at most ``max_gain_db``, so that what is all but silent is not blown up.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("volume",)

    op: Literal["level"] = "level"
    target_lufs: Annotated[float, Field(ge=-50, le=-5)]
    max_gain_db: Annotated[float, Field(ge=0, le=60)] = 30.0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """The gain follows from a measurement before."""
        signal = signals[0]
        heard = context.measured(signal)
        if heard is None:
            return replace(gain(signal, "{gain_db}"), provisional=True)
        measured = replace(signal, length_s=heard.out_time_s or signal.length_s)
        before = heard.loudness.integrated_lufs if heard.loudness else None
        if before is None:
            context.decide("left as it is", "it is silent, or shorter than 0.4 s, and has no loudness")
            return measured
        needed_db = self.target_lufs - before
        gain_db = min(needed_db, self.max_gain_db)
        bound = f", and a gain of {self.max_gain_db:g} dB is the most" if gain_db < needed_db else ""
        context.decide(f"{gain_db:+.2f} dB", f"from {before:.1f} to {self.target_lufs:g} LUFS{bound}")
        return gain(measured, gain_db)
