"""``resample``: change the sample rate."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, reshape


class Resample(Operation):
    """Change the sample rate to ``rate_hz`` (hertz).

    Of half of the lower rate, 95 % passes within 0.001 dB; aliases and images are 120 dB down from 102 % on.
    """

    revision: ClassVar[int] = 2
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat")

    op: Literal["resample"] = "resample"
    rate_hz: Annotated[int, Field(ge=8000, le=192_000)]

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Resample, unless the rate is there already."""
        return reshape(signals[0], sample_rate_hz=self.rate_hz)
