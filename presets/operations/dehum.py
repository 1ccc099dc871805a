"""``dehum``: the mains' hum out of a recording."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import ClassVar, Literal

from ffmpeg.streams.audio import AudioStream as Filtered

from presets.operations import meters
from presets.operations.base import Context, Operation, Signal, decimal

Mains = Literal[50, 60]
_MAINS: tuple[Mains, ...] = (50, 60)

#: The highest harmonic that is taken out, and those of them by which hum is told from a voice.
_HARMONICS = 10
_TELLING = slice(1, 5)

#: Frequencies at which neither mains has a harmonic, in hertz.
_BETWEEN_HZ = (110, 135, 165, 190, 215, 265)

#: How wide all those are listened to, in hertz, and by how much hum stands out, as a whole and in one harmonic, in dB.
_HEARD_HZ = 4.0
_STANDS_OUT_DB, _STANDS_OUT_EACH_DB = 15.0, 10.0

#: How wide a notch is: narrow enough for a voice to keep its level, wide enough not to ring in pauses, and wider the
#: more a harmonic wanders with the mains' frequency.
_NARROWEST_HZ, _WANDERS = 5.0, 0.015


class Dehum(Operation):
    """Take the mains' hum out, by a notch a few hertz wide at each harmonic up to the tenth that is heard.

    ``mains_hz`` is 50 or 60, whose harmonics are then all taken out; 0 listens for both in the quietest pause and takes
    out those that stand out by 10 dB, and none where the whole does not stand out by 15.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("bandpass", "bandreject", *meters.PAUSE_FILTERS)
    keeps_level: ClassVar[bool] = True

    op: Literal["dehum"] = "dehum"
    mains_hz: Literal[0, 50, 60] = 0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Listen to a pause, unless the frequency is given."""
        signal = signals[0]
        if self.mains_hz:
            return _notched(signal, _harmonics(self.mains_hz))
        surveyed = context.surveyed()
        if surveyed is None:
            return _to_come(signal, context)
        if surveyed.pause_s is None:
            context.decide("left as it is", "the recording is too short to have a pause in which hum could be heard")
            return signal
        listened = sorted({*_harmonics(50), *_harmonics(60), *_BETWEEN_HZ})
        pause, samples = meters.pause(signal, surveyed.pause_s)
        heard = context.heard(meters.levels([_around(pause, hz) for hz in listened], samples))
        if heard is None:
            return _to_come(signal, context)
        if len(heard.levels_db) != len(listened):
            context.decide("left as it is", f"nothing could be heard of the pause at {surveyed.pause_s[0]:.1f} s")
            return signal
        levels = dict(zip(listened, heard.levels_db, strict=True))
        between = median(levels[hz] for hz in _BETWEEN_HZ)
        whole = {mains: median(levels[hz] for hz in _harmonics(mains)[_TELLING]) - between for mains in _MAINS}
        mains = max(_MAINS, key=lambda hz: whole[hz])
        start_s, end_s = surveyed.pause_s
        because = f"from {start_s:.1f} to {end_s:.1f} s harmonics of {mains} Hz stand out by {whole[mains]:.1f} dB"
        if whole[mains] < _STANDS_OUT_DB:
            context.decide("left as it is", f"{because}: no hum")
            return signal
        found = [hz for hz in _harmonics(mains) if hz == mains or levels[hz] - between >= _STANDS_OUT_EACH_DB]
        context.decide(f"hum taken out at {', '.join(map(str, found))} Hz", because)
        return _notched(signal, found)


def _harmonics(mains: Mains) -> range:
    return range(mains, mains * (_HARMONICS + 1), mains)


def _around(pause: Filtered, hz: int) -> Filtered:
    for _ in range(2):
        pause = pause.bandpass(frequency=decimal(hz), width_type="h", width=decimal(_HEARD_HZ), precision="f64")
    return pause


def _to_come(signal: Signal, context: Context) -> Signal:
    """Every notch that there could be, of one of the mains."""
    context.decide("shown at 50 Hz and its harmonics", "whether 50 or 60 Hz is heard, or neither, the survey tells")
    return replace(_notched(signal, _harmonics(50)), provisional=True)


def _notched(signal: Signal, frequencies_hz: Sequence[int]) -> Signal:
    stream = signal.stream
    for hz in frequencies_hz:
        width = max(_NARROWEST_HZ, hz * _WANDERS)
        stream = stream.bandreject(frequency=decimal(hz), width_type="h", width=decimal(width), precision="f64")
    return replace(signal, stream=stream)
