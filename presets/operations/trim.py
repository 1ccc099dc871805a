"""``trim``: keep a part."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal
from presets.problems import MediaFailure
from presets.reasons import Reason


class Trim(Operation):
    """Keep what lies between ``start_s`` and ``end_s``, in seconds from the beginning; an ``end_s`` of 0 is the end.

    To the sample. A part that begins behind the signal's end fails with UNSUPPORTED_COMBINATION, one that ends behind
    it ends there.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("atrim", "asetpts")

    op: Literal["trim"] = "trim"
    start_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    end_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    @property
    def keeps_length(self) -> bool:
        """Only where it does nothing."""
        return not self.start_s and not self.end_s

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Cut, and count time from the new beginning."""
        signal = signals[0]
        if self.keeps_length:
            return signal
        if self.end_s and self.end_s <= self.start_s:
            told = (
                f"a part from {self.start_s:g} s to {self.end_s:g} s has no length; end_s must be above start_s, or 0"
            )
            raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)
        length_s = signal.length_s
        if length_s is not None and length_s <= self.start_s:
            told = f"a part that begins at {self.start_s:g} s was asked for, and the signal lasts {length_s:.2f} s"
            raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)
        ends = [at for at in (length_s, self.end_s or None) if at is not None]
        until: dict[str, Any] = {"end": decimal(self.end_s)} if self.end_s else {}
        stream = signal.stream.atrim(start=decimal(self.start_s), **until).asetpts(expr="PTS-STARTPTS")
        return replace(signal, stream=stream, length_s=min(ends) - self.start_s if ends else None)
