"""``join``: one signal after the other."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import ffmpeg
from ffmpeg.common.schema import StreamType
from pydantic import Field

from presets.operations.base import Context, Operation, Signal
from presets.operations.mix import alike

#: What is said to be this many crossfades long need not be measured before.
_PLENTY = 10.0


class Join(Operation):
    """Put the chain's sources one after the other, in the order of its ``from``; those that are absent are skipped.

    Each is crossfaded with the next at equal power over ``crossfade_s``; 0 puts them edge to edge. No more than half of
    a part is crossfaded at each of its ends. Parts are brought to the highest rate and the widest layout among them.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("acrossfade", "aformat", "aresample", "concat")
    joins: ClassVar[bool] = True

    op: Literal["join"] = "join"
    crossfade_s: Annotated[float, Field(ge=0, le=60)] = 0.0

    @property
    def keeps_length(self) -> bool:
        """Never: lengths add up."""
        return False

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Which parts are too short for their crossfades, measurements before find out."""
        if len(signals) == 1:
            return signals[0]
        parts = [self._measured(signal, context) for signal in alike(signals)]
        joined = parts[0]
        for before, after in pairwise(parts):
            joined = _joined(joined, after, self._overlap_s(before, after, context))
        return replace(joined, name="join")

    def _measured(self, part: Signal, context: Context) -> Signal:
        if not self.crossfade_s or (part.length_s or 0.0) > self.crossfade_s * _PLENTY:
            return part
        heard = context.measured(part)
        if heard is None:
            return replace(part, provisional=True)
        return replace(part, length_s=heard.out_time_s or 0.0)

    def _overlap_s(self, before: Signal, after: Signal, context: Context) -> float:
        if before.provisional or after.provisional:
            return self.crossfade_s
        shortest = min((before, after), key=lambda part: part.length_s or 0.0)
        overlap_s = min(self.crossfade_s, (shortest.length_s or 0.0) / 2)
        if overlap_s < self.crossfade_s:
            context.decide(
                f"{before.name} and {after.name} crossfaded over {overlap_s:.2f} s",
                f"{shortest.name} lasts {shortest.length_s:.2f} s, and {self.crossfade_s:g} s would be over half of it",
            )
        return overlap_s


def _joined(before: Signal, after: Signal, overlap_s: float) -> Signal:
    overlap = int(overlap_s * before.sample_rate_hz)
    if overlap:
        # The library takes this filter's inputs for pictures.
        stream = ffmpeg.afilter(
            before.stream,
            after.stream,
            name="acrossfade",
            input_typings=(StreamType.audio, StreamType.audio),
            nb_samples=overlap,
            curve1="qsin",
            curve2="qsin",
        )
    else:
        stream = ffmpeg.filters.concat(before.stream, after.stream, n=2, v=False, a=True).audio(0)
    known = before.length_s is not None and after.length_s is not None
    length_s = (before.length_s or 0.0) + (after.length_s or 0.0) - overlap_s if known else None
    return replace(before, stream=stream, length_s=length_s, provisional=before.provisional or after.provisional)
