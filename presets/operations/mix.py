"""``mix``: add several signals."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import ffmpeg
from pydantic import Field

from presets.formats import LAYOUTS
from presets.operations.base import Context, Operation, Signal, gain, longest, reshape


class Mix(Operation):
    """Add the chain's sources that are present: at a gain in ``gains_db``, ``offsets_s`` seconds after the start.

    Both are by source, and 0 where not named; a role that repeats gives several sources with the same of both.
    Sources are brought to the highest rate and the widest layout among them; none is attenuated because of the
    others. The sum is as long as it takes until the last one ends.
    """

    revision: ClassVar[int] = 2
    filters: ClassVar[tuple[str, ...]] = ("adelay", "aresample", "aformat", "volume", "amix")
    joins: ClassVar[bool] = True

    op: Literal["mix"] = "mix"
    gains_db: dict[str, Annotated[float, Field(ge=-90, le=30)]] = Field(default_factory=dict)
    offsets_s: dict[str, Annotated[float, Field(ge=0, le=86_400)]] = Field(default_factory=dict)

    @property
    def keeps_length(self) -> bool:
        """Unless something begins later."""
        return not any(self.offsets_s.values())

    def unknown_sources(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Gains or offsets for something that is no source of the chain."""
        return tuple(name for name in {**self.gains_db, **self.offsets_s} if name not in sources)

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Gains, offsets, equal rates and layouts, one sum."""
        placed = [self._placed(signal) for signal in alike(signals)]
        if len(placed) == 1:
            return placed[0]
        stream = ffmpeg.filters.amix(*(s.stream for s in placed), duration="longest", normalize=False)
        return replace(
            placed[0],
            name="mix",
            stream=stream,
            length_s=longest(placed),
            provisional=any(s.provisional for s in placed),
        )

    def _placed(self, signal: Signal) -> Signal:
        gain_db, offset_s = self.gains_db.get(signal.name, 0.0), self.offsets_s.get(signal.name, 0.0)
        if gain_db:
            signal = gain(signal, gain_db)
        if not offset_s:
            return signal
        samples = round(offset_s * signal.sample_rate_hz)
        ends_s = None if signal.length_s is None else signal.length_s + offset_s
        return replace(signal, stream=signal.stream.adelay(delays=f"{samples}S", all=True), length_s=ends_s)


def alike(signals: Sequence[Signal]) -> list[Signal]:
    """The signals at the highest rate and the widest layout among them, whatever is narrower spread over it."""
    rate = max(s.sample_rate_hz for s in signals)
    if len({(s.layout, s.channels) for s in signals}) == 1:
        return [reshape(s, sample_rate_hz=rate) for s in signals]
    widest = max(s.channels for s in signals)
    # FFmpeg would convert what has a layout of its own by itself, and not say how.
    layout = min(
        (name for name in LAYOUTS if len(LAYOUTS[name]) >= widest), key=lambda name: len(LAYOUTS[name]), default="7.1"
    )
    return [reshape(s, sample_rate_hz=rate, layout=layout) for s in signals]
