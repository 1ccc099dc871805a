"""``fit``: make a signal as long as another one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import ffmpeg
from pydantic import Field

from presets.operations.base import Context, Operation, Signal, reshape
from presets.operations.fade import faded
from presets.problems import MediaFailure
from presets.reasons import Reason

#: What is shorter cannot be told from a stutter when it is repeated.
_LEAST_LOOP_S = 1.0

#: A header that states this many times what is needed need not be proved by a measurement.
_PLENTY = 2.0


class Fit(Operation):
    """Make the signal last as long as the chain ``length_of`` and ``tail_s`` more, to the sample: a bed under a voice.

    What is longer is cut. What is shorter is repeated (``if_short = "loop"``), the end of each round crossfaded with
    the beginning of the next at equal power over ``crossfade_s``, or plays once and silence follows ("pad"). It fades
    in over ``fade_in_s`` and out over the last ``fade_out_s`` of what sounds. What is shorter than a second is not
    repeated: the job fails with UNSUPPORTED_COMBINATION. Where the other chain is skipped, the signal stays as it is.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = (
        *("afade", "aformat", "amix", "apad", "aresample", "asetpts", "atrim", "concat"),
    )

    op: Literal["fit"] = "fit"
    length_of: str
    tail_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    fade_in_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    fade_out_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    if_short: Literal["loop", "pad"] = "loop"
    crossfade_s: Annotated[float, Field(ge=0.01, le=30)] = 2.0

    @property
    def keeps_length(self) -> bool:
        """Never: it takes that of the other chain."""
        return False

    def hears(self) -> tuple[str, ...]:
        """What sets the length."""
        return (self.length_of,)

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """How long the other one is, and whether the signal is, measurements before find out: headers may not tell."""
        signal, other = signals[0], context.of(self.length_of)
        if other is None:
            context.decide("left as it is", f"there is no {self.length_of} to fit it to")
            return signal
        # Cut at another rate than the delivery's, it would end between two samples there.
        signal = reshape(signal, sample_rate_hz=context.delivery.sample_rate_hz)
        rate = signal.sample_rate_hz
        heard = context.measured(other)
        if heard is None or not heard.out_time_s:
            return self._undecided(signal, None if other.length_s is None else other.length_s + self.tail_s)
        wanted_s = heard.out_time_s + self.tail_s
        wanted = round(wanted_s * rate)
        why = f"{self.length_of} lasts {heard.out_time_s:.2f} s" + (f", and {self.tail_s:g} s" if self.tail_s else "")
        cut = part(signal, 0, wanted)
        if signal.length_s is None or signal.length_s < wanted_s * _PLENTY:
            # Of a long signal no more is read than is needed.
            own = context.measured(cut)
            if own is None:
                return self._undecided(signal, wanted_s)
            own_s = own.out_time_s or 0.0
            if round(own_s * rate) < wanted:
                return self._prolonged(signal, own_s, wanted_s, why, context)
        context.decide(f"cut to {wanted_s:.2f} s", why)
        return self._faded(cut, wanted_s, wanted_s)

    def _undecided(self, signal: Signal, length_s: float | None) -> Signal:
        cut = part(signal, 0, "{samples}")
        return replace(faded(cut, self.fade_in_s, self.fade_out_s, "{end_s}", "equal_power"), length_s=length_s)

    def _prolonged(self, signal: Signal, own_s: float, wanted_s: float, why: str, context: Context) -> Signal:
        rate = signal.sample_rate_hz
        if self.if_short == "pad":
            context.decide(f"once, then silence up to {wanted_s:.2f} s", f"it lasts {own_s:.2f} s, and {why}")
            once = self._faded(signal, own_s, wanted_s)
            return replace(once, stream=once.stream.apad(whole_len=round(wanted_s * rate)))
        if own_s < _LEAST_LOOP_S:
            told = (
                f"{signal.name} lasts {own_s:.2f} s, and what is repeated to last {wanted_s:.2f} s must last "
                f'{_LEAST_LOOP_S:g} s; give a longer one, or if_short = "pad"'
            )
            raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)
        crossfade_s = min(self.crossfade_s, own_s / 4)
        shortened = "" if crossfade_s == self.crossfade_s else f" instead of {self.crossfade_s:g} s, a quarter of it"
        context.decide(
            f"repeated up to {wanted_s:.2f} s, crossfaded over {crossfade_s:.2f} s{shortened}",
            f"it lasts {own_s:.2f} s, and {why}",
        )
        length, overlap = round(own_s * rate), round(crossfade_s * rate)
        again = context.rendered(_round(signal, length, overlap), endless=True)
        beginning = part(signal, 0, overlap)
        joined = ffmpeg.filters.concat(beginning.stream, again.stream, n=2, v=False, a=True).audio(0)
        looped = replace(signal, stream=joined, provisional=signal.provisional or again.provisional)
        return self._faded(part(looped, 0, round(wanted_s * rate)), wanted_s, wanted_s)

    def _faded(self, signal: Signal, end_s: float, length_s: float) -> Signal:
        share = min(1.0, end_s / ((self.fade_in_s + self.fade_out_s) or 1.0))
        made = faded(signal, self.fade_in_s * share, self.fade_out_s * share, end_s, "equal_power")
        return replace(made, length_s=length_s)


def _round(signal: Signal, length: int, overlap: int) -> Signal:
    """What follows the first ``overlap`` samples of the signal, again and again: its body, and its end that fades into
    its beginning.

    The overlap comes last, so that nothing but the beginning waits in memory for it.
    """
    rate = signal.sample_rate_hz
    seconds = overlap / rate
    beginning = faded(part(signal, 0, overlap), seconds, 0.0, seconds, "equal_power")
    body = part(signal, overlap, length - overlap)
    end = faded(part(signal, length - overlap, length), 0.0, seconds, seconds, "equal_power")
    seam = ffmpeg.filters.amix(end.stream, beginning.stream, duration="longest", normalize=False)
    stream = ffmpeg.filters.concat(body.stream, seam, n=2, v=False, a=True).audio(0)
    return replace(signal, stream=stream, length_s=(length - overlap) / rate)


def part(signal: Signal, start: int, end: int | str) -> Signal:
    """The samples from ``start`` up to ``end``, which they do not include; a string is a placeholder in braces."""
    stream = signal.stream.atrim(start_sample=start, end_sample=end).asetpts(expr="PTS-STARTPTS")
    length_s = (end - start) / signal.sample_rate_hz if isinstance(end, int) else None
    return replace(signal, stream=stream, length_s=length_s, provisional=signal.provisional or isinstance(end, str))
