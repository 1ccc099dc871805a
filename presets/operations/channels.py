"""``channels``: mix to another channel layout."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from presets.operations.base import Context, Operation, Signal, reshape


class Channels(Operation):
    """Mix to ``layout``: ITU-R BS.775 proportions, scaled so that a downmix cannot clip."""

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat")

    op: Literal["channels"] = "channels"
    layout: Literal["mono", "stereo", "5.1", "7.1"]

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Mix, unless the layout is there already."""
        return reshape(signals[0], layout=self.layout)
