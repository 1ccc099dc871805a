"""``compress``: make loud passages less loud."""

from collections.abc import Sequence
from dataclasses import replace
from math import log10
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal

#: FFmpeg's acompressor takes thresholds from 1/1024 to 1.
_LOWEST_DBFS = -60.0


class Compress(Operation):
    """Let every ``ratio`` dB above the threshold become one; 1 does nothing.

    A preset does not know how loud a recording is, so the threshold is ``threshold_lu`` above the programme's own
    integrated loudness: 0 catches what is louder than the average, 6 only the loudest words, -10 nearly all. The bend
    is rounded over ``knee_db``; the gain follows the RMS level within ``attack_ms`` and returns within ``release_ms``,
    for all channels alike. Nothing is made up for: what follows sets the level.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("acompressor", "ametadata", "ebur128")

    op: Literal["compress"] = "compress"
    ratio: Annotated[float, Field(ge=1, le=20)] = 2.0
    threshold_lu: Annotated[float, Field(ge=-40, le=30)] = 0.0
    knee_db: Annotated[float, Field(ge=0, le=18)] = 6.0
    attack_ms: Annotated[float, Field(ge=0.1, le=2000)] = 10.0
    release_ms: Annotated[float, Field(ge=1, le=9000)] = 150.0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Survey the loudness, then compress."""
        signal = signals[0]
        if self.ratio == 1:
            return signal
        surveyed = context.surveyed()
        if surveyed is None:
            return self._compressed(signal, "{threshold}")
        if surveyed.loudness_lufs is None:
            context.decide("left as it is", "nothing is loud enough to have a loudness")
            return signal
        threshold_dbfs = channel_level(surveyed.loudness_lufs + self.threshold_lu, signal.channels)
        context.decide(
            f"{self.ratio:g}:1 above {threshold_dbfs:.1f} dBFS RMS",
            f"the programme measures {surveyed.loudness_lufs:.1f} LUFS, and {self.threshold_lu:+g} LU were asked for",
        )
        return self._compressed(signal, linear(min(max(threshold_dbfs, _LOWEST_DBFS), 0.0)))

    def _compressed(self, signal: Signal, threshold: str) -> Signal:
        stream = signal.stream.acompressor(
            threshold=threshold,
            ratio=decimal(self.ratio),
            attack=decimal(self.attack_ms),
            release=decimal(self.release_ms),
            knee=linear(self.knee_db),
            makeup="1",
            detection="rms",
            link="maximum",
        )
        return replace(signal, stream=stream, provisional=signal.provisional or threshold.startswith("{"))


def channel_level(loudness_lufs: float, channels: int) -> float:
    """The RMS level of each channel of a voice or music of that loudness, in dBFS: loudness adds channels up."""
    return loudness_lufs - 10 * log10(channels)


def linear(decibels: float) -> str:
    """An amplitude ratio as FFmpeg reads it."""
    return decimal(10 ** (decibels / 20))
