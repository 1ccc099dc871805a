"""``conform``: go to the delivery's sample rate and layout."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from presets.operations import base


class Conform(base.Operation):
    """Go to the profile's sample rate and layout here, so that the steps behind work on what is delivered.

    Whatever a preset says, its programme is conformed before loudness is measured and before it is encoded.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat")

    op: Literal["conform"] = "conform"

    def apply(self, signals: Sequence[base.Signal], context: base.Context) -> base.Signal:
        """Resample and mix as the profile says."""
        return base.conform(signals[0], context.delivery)
