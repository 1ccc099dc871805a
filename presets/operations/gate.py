"""``gate``: make pauses quieter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal
from presets.operations.compress import channel_level, linear


class Gate(Operation):
    """Lower what is quieter than the threshold, by ``range_db`` at most: a downward expander; 0 does nothing.

    A preset does not know how loud a recording is, so the threshold is ``threshold_lu`` from the programme's own
    integrated loudness. Below it every dB becomes ``ratio``, until ``range_db`` is reached. It opens within
    ``attack_ms`` and closes within ``release_ms``, for all channels alike. 6 to 12 dB hide breath and rooms;
    more is heard as holes.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("agate", "ametadata", "ebur128")
    keeps_level: ClassVar[bool] = True

    op: Literal["gate"] = "gate"
    range_db: Annotated[float, Field(ge=0, le=80)] = 10.0
    threshold_lu: Annotated[float, Field(ge=-60, le=0)] = -25.0
    ratio: Annotated[float, Field(ge=1.1, le=20)] = 3.0
    attack_ms: Annotated[float, Field(ge=0.1, le=2000)] = 5.0
    release_ms: Annotated[float, Field(ge=1, le=9000)] = 200.0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Survey the loudness, then gate."""
        signal = signals[0]
        if not self.range_db:
            return signal
        surveyed = context.surveyed()
        if surveyed is None:
            return self._gated(signal, "{threshold}")
        if surveyed.loudness_lufs is None:
            context.decide("left as it is", "nothing is loud enough to have a loudness")
            return signal
        threshold_dbfs = channel_level(surveyed.loudness_lufs + self.threshold_lu, signal.channels)
        context.decide(
            f"up to {self.range_db:g} dB below {threshold_dbfs:.1f} dBFS RMS",
            f"the programme measures {surveyed.loudness_lufs:.1f} LUFS, and {self.threshold_lu:+g} LU were asked for",
        )
        return self._gated(signal, linear(min(threshold_dbfs, 0.0)))

    def _gated(self, signal: Signal, threshold: str) -> Signal:
        stream = signal.stream.agate(
            threshold=threshold,
            ratio=decimal(self.ratio),
            range=linear(-self.range_db),
            attack=decimal(self.attack_ms),
            release=decimal(self.release_ms),
            knee="1",
            makeup="1",
            detection="rms",
            link="maximum",
        )
        return replace(signal, stream=stream, provisional=signal.provisional or threshold.startswith("{"))
