"""``channels``: mix to another channel layout, or take one channel."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.formats import LAYOUTS
from presets.mixdown import Policy
from presets.operations.base import Context, Operation, Signal, panned, reshape
from presets.plan import StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason

#: Names of channels as people say them -> as FFmpeg does.
_CHANNELS = {"left": "FL", "right": "FR", "centre": "FC", "lfe": "LFE"}

#: How much louder the difference of two sides must be than their sum, in LU, for them to be taken for one recording of
#: which a side is wired the wrong way round: a correlation below -0.6. Wide stereo stays within a few LU of 0.
_ANTIPHASE_LU = 6.0

#: What is taken for the loudness of what has none.
_SILENT_LUFS = -100.0


class Channels(Operation):
    """Mix to ``layout``: ITU-R BS.775 proportions, scaled so that a downmix cannot clip.

    ``take`` picks one channel instead of mixing: "left", "right", "centre", "lfe", or its number in the file counted
    from 1. ``centre_db`` and ``surround_db`` are what a downmix to two channels takes of them (-3 is one over root two,
    -6 a half); ``lfe`` is "drop"ped, or "mix"ed into both fronts at -3 dB, without the 10 dB that a cinema adds. Mono
    goes to both sides at -3 dB, or to the centre where there is one; stereo in 5.1 stays in the fronts.

    Where stereo becomes mono, ``antiphase`` = "invert" measures sum and difference first: where the sides cancel out,
    one is inverted, so that the voice does not vanish. "keep" mixes them as they are.
    """

    revision: ClassVar[int] = 2
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat", "pan")

    op: Literal["channels"] = "channels"
    layout: Literal["mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"]
    take: Annotated[str, Field(pattern=r"^(all|left|right|centre|lfe|[1-9][0-9]?)$")] = "all"
    centre_db: Annotated[float, Field(ge=-90, le=0)] = -3.0
    surround_db: Annotated[float, Field(ge=-90, le=0)] = -3.0
    lfe: Literal["drop", "mix"] = "drop"
    antiphase: Literal["invert", "keep"] = "invert"

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Pick or mix, unless the layout is there already.

        :raises MediaFailure: UNSUPPORTED_COMBINATION where the signal lacks the channel to take.
        """
        signal = signals[0]
        if self.take != "all":
            signal = panned(signal, "mono", [{self._taken(signal): 1.0}])
        elif signal.layout == "stereo" and self.layout == "mono" and self.antiphase == "invert":
            return _safe_mono(signal, context)
        return reshape(signal, layout=self.layout, policy=Policy(self.centre_db, self.surround_db, self.lfe == "mix"))

    def _taken(self, signal: Signal) -> int:
        order = LAYOUTS.get(signal.layout or "", ())
        if self.take.isdigit():
            index = int(self.take) - 1
        else:
            wanted = _CHANNELS[self.take]
            index = order.index(wanted) if wanted in order else signal.channels
        if index < signal.channels:
            return index
        has = f"{signal.channels} channel{'s' if signal.channels > 1 else ''} ({signal.layout or 'no usual layout'})"
        told = f"channel {self.take} was asked for, and {signal.name} has {has}"
        raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)


def _safe_mono(signal: Signal, context: Context) -> Signal:
    """The mean of two sides, or half of their difference where they cancel out."""
    halves: tuple[Mapping[int, float], ...] = ({0: 0.5, 1: 0.5}, {0: 0.5, 1: -0.5})
    added, subtracted = (panned(signal, "mono", [gains]) for gains in halves)
    heard = context.measured(added), context.measured(subtracted)
    if heard[0] is None or heard[1] is None:
        return replace(added, provisional=True)
    sum_, difference = _lufs(heard[0]), _lufs(heard[1])
    if difference - sum_ < _ANTIPHASE_LU:
        return added
    context.decide(
        "the right side inverted before both are mixed to mono",
        f"the sides are out of phase: their sum measures {_words(sum_)}, their difference {_words(difference)}",
    )
    return subtracted


def _lufs(measured: StepResult) -> float:
    loudness = measured.loudness
    return _SILENT_LUFS if loudness is None or loudness.integrated_lufs is None else loudness.integrated_lufs


def _words(lufs: float) -> str:
    return "nothing" if lufs == _SILENT_LUFS else f"{lufs:.1f} LUFS"
