"""``deess``: sharp s sounds softer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import ffmpeg
from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal, split_at
from presets.operations.compress import channel_level, linear

#: How fast the de-esser is: sibilants begin at once and last 50 to 200 ms.
_ATTACK_MS, _RELEASE_MS = 1.0, 60.0

#: How steeply it sets in: within a fifth of a threshold's dB it is all there.
_RATIO = 6.0


class Deess(Operation):
    """Lower sibilants by ``amount_db``, and nothing else; 0 does nothing.

    The spectrum is split at ``hz`` (hertz; 4000 suits low voices, 6500 high ones) by a steep Linkwitz-Riley
    crossover. Where the upper band is louder than the threshold it is lowered by ``amount_db``; anything else comes
    out at its level. The threshold is ``threshold_lu`` from the programme's own loudness: at -14 and 5000 Hz, of
    vowels in read speech not one in a hundred reaches it, and half of the sibilants do.

    FFmpeg's own `deesser` has neither a depth nor a threshold that could be told in such figures.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("acrossover", "agate", "ametadata", "amix", "asplit", "ebur128", "volume")
    keeps_level: ClassVar[bool] = True

    op: Literal["deess"] = "deess"
    amount_db: Annotated[float, Field(ge=0, le=20)] = 6.0
    hz: Annotated[float, Field(ge=2000, le=12_000)] = 5000.0
    threshold_lu: Annotated[float, Field(ge=-40, le=10)] = -14.0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Survey the loudness, then take a share of loud treble away from the treble."""
        signal = signals[0]
        if not self.amount_db:
            return signal
        if self.hz >= 0.45 * signal.sample_rate_hz:
            context.decide("nothing", f"at {signal.sample_rate_hz} Hz there are no sibilants above {self.hz:g} Hz")
            return signal
        surveyed = context.surveyed()
        if surveyed is None:
            return self._softened(signal, "{threshold}")
        if surveyed.loudness_lufs is None:
            context.decide("left as it is", "nothing is loud enough to have a loudness")
            return signal
        threshold_dbfs = channel_level(surveyed.loudness_lufs + self.threshold_lu, signal.channels)
        context.decide(
            f"{self.amount_db:g} dB where the band above {self.hz:g} Hz is above {threshold_dbfs:.1f} dBFS RMS",
            f"the programme measures {surveyed.loudness_lufs:.1f} LUFS, and {self.threshold_lu:+g} LU were asked for",
        )
        return self._softened(signal, linear(min(threshold_dbfs, 0.0)))

    def _softened(self, signal: Signal, threshold: str) -> Signal:
        """What a gate lets through of the treble is taken off by a share: the gate open, that share is missing."""
        low, high = split_at(signal.stream, (self.hz,), order="12th")
        halves = high.asplit(outputs=2)
        sibilants = halves.audio(1).agate(
            threshold=threshold,
            ratio=decimal(_RATIO),
            range=linear(-80),
            attack=decimal(_ATTACK_MS),
            release=decimal(_RELEASE_MS),
            knee="1",
            makeup="1",
            detection="rms",
            link="maximum",
        )
        # Taken off by the volume: amix loses the sign of its weights.
        share = sibilants.volume(volume=decimal(10 ** (-self.amount_db / 20) - 1), precision="double")
        stream = ffmpeg.filters.amix(low, halves.audio(0), share, normalize=False)
        return replace(signal, stream=stream, provisional=signal.provisional or threshold.startswith("{"))
