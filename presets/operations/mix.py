"""``mix``: add several signals."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import ffmpeg
from pydantic import Field

from presets.operations.base import Context, Operation, Signal, gain, longest, reshape


class Mix(Operation):
    """Add the chain's sources that are present, each at its gain in ``gains_db`` (0 dB where not named).

    Sources are brought to the highest rate and the widest layout among them; none is attenuated because of the
    others. The sum is as long as the longest.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat", "volume", "amix")
    joins: ClassVar[bool] = True

    op: Literal["mix"] = "mix"
    gains_db: dict[str, Annotated[float, Field(ge=-90, le=30)]] = Field(default_factory=dict)

    def unknown_sources(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Gains for something that is no source of the chain."""
        return tuple(name for name in self.gains_db if name not in sources)

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Gains, equal rates and layouts, one sum."""
        rate = max(s.sample_rate_hz for s in signals)
        widest = max(signals, key=lambda s: s.channels)
        level = [
            gain(s, self.gains_db[s.name]) if self.gains_db.get(s.name) else s  # 0 dB needs no filter
            for s in (reshape(s, sample_rate_hz=rate, layout=widest.layout) for s in signals)
        ]
        if len(level) == 1:
            return level[0]
        stream = ffmpeg.filters.amix(*(s.stream for s in level), duration="longest", normalize=False)
        return replace(
            widest,
            name="mix",
            stream=stream,
            sample_rate_hz=rate,
            length_s=longest(signals),
            provisional=any(s.provisional for s in signals),
        )
