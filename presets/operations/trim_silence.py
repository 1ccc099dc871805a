"""``trim_silence``: silence off both ends, and long pauses shorter."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal

#: Silences shorter than this, in seconds, are part of speech.
_SHORTEST_S = 0.1

#: Pauses are cut to this, in seconds: finer than is heard.
_GRAIN_S = 0.005

#: At most so many pauses are shortened, the longest: a filter's expression has to fit an argument.
_MOST = 2000


class TrimSilence(Operation):
    """Cut silence off the start and the end, but ``lead_s`` and ``tail_s`` of it; and shorten long pauses.

    Silent is what stays ``threshold_lu`` or more below the programme's own integrated loudness, in every channel. A
    pause that lasts longer than ``longest_pause_s`` is shortened to ``pause_s``; 0 leaves pauses as they are. What was
    cut is told in the plan. A recording without any loudness is left as it is.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = (
        *("ametadata", "aselect", "asetnsamples", "asetpts", "atrim", "ebur128", "silencedetect"),
    )

    op: Literal["trim_silence"] = "trim_silence"
    threshold_lu: Annotated[float, Field(ge=-70, le=-10)] = -35.0
    lead_s: Annotated[float, Field(ge=0, le=60)] = 0.2
    tail_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    longest_pause_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    pause_s: Annotated[float, Field(ge=0, le=600)] = 0.7

    @property
    def keeps_length(self) -> bool:
        """Not where it finds anything."""
        return False

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Survey the loudness, listen for silences below it, cut them out."""
        signal = signals[0]
        surveyed = context.surveyed()
        if surveyed is None:
            return _unknown(signal)
        if surveyed.loudness_lufs is None:
            context.decide("left as it is", "nothing is loud enough to have a loudness")
            return signal
        threshold_db = surveyed.loudness_lufs + self.threshold_lu
        detected = signal.stream.silencedetect(n=f"{decimal(threshold_db)}dB", d=decimal(_SHORTEST_S))
        heard = context.heard(replace(signal, stream=detected))
        if heard is None or heard.length_s is None:
            return _unknown(signal)
        cuts = self._cuts(heard.silences_s, heard.length_s)
        because = f"below {threshold_db:.1f} dBFS, {-self.threshold_lu:g} LU below the programme, is silence"
        if not cuts:
            context.decide("nothing is cut", because)
            return signal
        context.decide(_told(cuts, heard.length_s), because)
        return _without(signal, cuts, heard.length_s)

    def _cuts(self, silences_s: Sequence[tuple[float, float | None]], length_s: float) -> list[tuple[float, float]]:
        """From where to where nothing is kept, in order; what lies between cuts is not silent."""
        spans = [(start, length_s if end is None else min(end, length_s)) for start, end in silences_s]
        inner = [s for s in spans if s[0] > 0 and s[1] < length_s and 0 < self.longest_pause_s < s[1] - s[0]]
        inner = sorted(sorted(inner, key=lambda s: s[0] - s[1])[:_MOST])
        kept_s = min(self.pause_s, self.longest_pause_s)
        cuts = [(start + kept_s / 2, end - kept_s / 2) for start, end in inner]
        if spans and spans[0][0] == 0 and spans[0][1] < length_s:
            cuts.insert(0, (0.0, spans[0][1] - self.lead_s))
        if spans and spans[-1][1] >= length_s and spans[-1][0] > 0:
            cuts.append((spans[-1][0] + self.tail_s, length_s))
        return [(start, end) for start, end in cuts if end - start > _GRAIN_S]


def _told(cuts: Sequence[tuple[float, float]], length_s: float) -> str:
    """What is cut, in words."""
    return ", ".join(_parts(cuts, length_s)) + " cut"


def _parts(cuts: Sequence[tuple[float, float]], length_s: float) -> Iterator[str]:
    inner = [end - start for start, end in cuts if start > 0 and end < length_s]
    if cuts[0][0] == 0:
        yield f"{cuts[0][1]:.2f} s off the start"
    if inner:
        yield f"{sum(inner):.2f} s out of {len(inner)} pause{'s' if len(inner) > 1 else ''}"
    if cuts[-1][1] == length_s:
        yield f"{cuts[-1][1] - cuts[-1][0]:.2f} s off the end"


def _without(signal: Signal, cuts: Sequence[tuple[float, float]], length_s: float) -> Signal:
    """The signal, ``length_s`` long, without those passages: the ends to the sample, pauses to the grain."""
    start_s = cuts[0][1] if cuts[0][0] == 0 else 0.0
    end_s = cuts[-1][0] if cuts[-1][1] == length_s else length_s
    stream = signal.stream.atrim(start=decimal(start_s), end=decimal(end_s)).asetpts(expr="PTS-STARTPTS")
    grain = round(signal.sample_rate_hz * _GRAIN_S)
    grain_s = grain / signal.sample_rate_hz
    inner = [(start - start_s, end - start_s) for start, end in cuts if start > 0 and end < length_s]
    dropped = [(round(start / grain_s), round(end / grain_s)) for start, end in inner]
    if dropped:
        kept = "not(" + "+".join(f"between(n,{first},{end - 1})" for first, end in dropped) + ")"
        stream = stream.asetnsamples(nb_out_samples=grain, pad=False).aselect(expr=kept).audio(0)
        stream = stream.asetpts(expr="N/SR/TB")
    gone_s = sum(end - first for first, end in dropped) * grain_s
    return replace(signal, stream=stream, length_s=end_s - start_s - gone_s)


def _unknown(signal: Signal) -> Signal:
    """The signal with placeholders for where it begins and ends."""
    stream = signal.stream.atrim(start="{start_s}", end="{end_s}").asetpts(expr="PTS-STARTPTS")
    return replace(signal, stream=stream, provisional=True)
