"""``join``: one signal after the other."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import ffmpeg
from ffmpeg.common.schema import StreamType
from pydantic import Field

from presets.facts import Chapter
from presets.operations.base import Context, Operation, Signal
from presets.operations.mix import alike

#: What is said to be this many crossfades long need not be measured before.
_PLENTY = 10.0


class Join(Operation):
    """Put the chain's sources one after the other, in the order of its ``from``; those that are absent are skipped.

    Each is crossfaded with the next at equal power over ``crossfade_s``; 0 puts them edge to edge. No more than half of
    a part is crossfaded at each of its ends. Parts are brought to the highest rate and the widest layout among them.
    A part named in ``titles`` begins a chapter with that title, in the middle of its crossfade, for files that take
    chapters.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("acrossfade", "aformat", "aresample", "concat")
    joins: ClassVar[bool] = True

    op: Literal["join"] = "join"
    crossfade_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    titles: dict[str, Annotated[str, Field(min_length=1, max_length=200)]] = Field(default_factory=dict)

    @property
    def keeps_length(self) -> bool:
        """Never: lengths add up."""
        return False

    def unknown_sources(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Titles of something that is no source of the chain."""
        return tuple(name for name in self.titles if name not in sources)

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Which parts are too short for their crossfades, measurements before find out."""
        if len(signals) == 1:
            return replace(signals[0], chapters=self._chapters(signals, ()))
        parts = [self._measured(signal, context) for signal in alike(signals)]
        overlaps = [self._overlap_s(before, after, context) for before, after in pairwise(parts)]
        joined = parts[0]
        for after, overlap_s in zip(parts[1:], overlaps, strict=True):
            joined = _joined(joined, after, overlap_s)
        return replace(joined, name="join", chapters=self._chapters(parts, overlaps))

    def _chapters(self, parts: Sequence[Signal], overlaps: Sequence[float]) -> tuple[Chapter, ...]:
        """None where a part does not tell how long it is: the chapters behind it would be out of place."""
        starts, ends = [0.0], 0.0
        for part, overlap_s in zip(parts, (*overlaps, 0.0), strict=True):
            if part.length_s is None or part.provisional:
                return ()
            ends += part.length_s - overlap_s
            starts.append(ends + overlap_s / 2)
        named = [
            (start_s, self.titles[part.name])
            for start_s, part in zip(starts[:-1], parts, strict=True)
            if part.name in self.titles
        ]
        bounds = [*(start_s for start_s, _ in named), ends]
        return tuple(Chapter(start_s, bounds[n + 1], title) for n, (start_s, title) in enumerate(named))

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
