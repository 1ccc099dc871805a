"""``conform``: go to the delivery's sample rate and layout."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from presets.operations import base


class Conform(base.Operation):
    """Go to the profile's sample rate and layout here, so that the steps behind work on what is delivered.

    Whatever a preset says, its programme is conformed before loudness is measured and before it is encoded.
    """

    revision: ClassVar[int] = 2
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat", "pan")

    op: Literal["conform"] = "conform"

    def apply(self, signals: Sequence[base.Signal], context: base.Context) -> base.Signal:
        """Resample and mix as the profile says."""
        for choice, because in base.conforming(signals[0], context.delivery):
            context.decide(choice, because)
        return base.conform(signals[0], context.delivery)
