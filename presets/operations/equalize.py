"""``equalize``: raise or lower parts of the spectrum."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, assert_never

from ffmpeg.streams.audio import AudioStream as Filtered
from pydantic import Field

from presets.document import Table
from presets.operations.base import Context, Operation, Signal, decimal

Shape = Literal["bell", "low_shelf", "high_shelf"]


class Band(Table):
    """One band of an equalizer.

    A "bell" changes the spectrum around ``hz`` (hertz) by ``gain_db``, over ``q`` as sharply: its width is ``hz/q``.
    A "low_shelf" changes all below by ``gain_db``, a "high_shelf" all above, by half as much at ``hz``; 0.7 is the
    steepest ``q`` that does not overshoot.
    """

    hz: Annotated[float, Field(ge=10, le=40_000)]
    gain_db: Annotated[float, Field(ge=-36, le=24)]
    q: Annotated[float, Field(ge=0.1, le=20)] = 0.7
    shape: Shape = "bell"


class Equalize(Operation):
    """Apply ``bands`` one after the other: second-order filters after R. Bristow-Johnson's "Audio EQ Cookbook".

    A band without gain, or at or above half of the sample rate, does nothing.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("equalizer", "lowshelf", "highshelf")

    op: Literal["equalize"] = "equalize"
    bands: Annotated[tuple[Band, ...], Field(min_length=1, max_length=16, strict=False)]

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """One second-order section per band."""
        signal = signals[0]
        for band in self.bands:
            if band.hz >= signal.sample_rate_hz / 2:
                context.decide(f"nothing at {band.hz:g} Hz", f"the sample rate is {signal.sample_rate_hz} Hz")
            elif band.gain_db:
                signal = replace(signal, stream=_changed(signal.stream, band))
        return signal


def _changed(stream: Filtered, band: Band) -> Filtered:
    hz, quality, gain_db = decimal(band.hz), decimal(band.q), decimal(band.gain_db)
    match band.shape:
        case "bell":
            return stream.equalizer(frequency=hz, width_type="q", width=quality, gain=gain_db, precision="f64")
        case "low_shelf":
            return stream.lowshelf(frequency=hz, width_type="q", width=quality, gain=gain_db, precision="f64")
        case "high_shelf":
            return stream.highshelf(frequency=hz, width_type="q", width=quality, gain=gain_db, precision="f64")
        case _:
            assert_never(band.shape)
