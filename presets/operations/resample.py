"""``resample``: change the sample rate."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, reshape


class Resample(Operation):
    """Change the sample rate to ``rate_hz`` (hertz), with a band limit below half of the lower rate."""

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat")

    op: Literal["resample"] = "resample"
    rate_hz: Annotated[int, Field(ge=8000, le=192_000)]

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Resample, unless the rate is there already."""
        return reshape(signals[0], sample_rate_hz=self.rate_hz)
