"""``limiter``: hold true peaks below a ceiling."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal

#: Four times 48 kHz: ITU-R BS.1770-4 annex 2 estimates true peaks at this rate, so limiting samples there limits them.
_OVERSAMPLED_HZ = 192_000

#: Towards it with few taps and up to half the rate, as true-peak meters do: with a steep filter the limiter would not
#: see peaks that they see in bright noise. At 48 kHz this costs 0.2 dB at 20 kHz.
_TOWARDS: Mapping[str, str] = MappingProxyType(
    {"filter_size": "16", "cutoff": "1", "filter_type": "kaiser", "kaiser_beta": "5.4"}
)

#: And back steeply and up to half the rate: what is cut off there would make new peaks.
_BACK: Mapping[str, str] = MappingProxyType({"filter_size": "64", "cutoff": "1"})

#: The lowest ceiling FFmpeg's alimiter can be set to, in dBFS.
LOWEST_CEILING_DBTP = -24.0


class Limiter(Operation):
    """Hold true peaks (ITU-R BS.1770-4) at or below ``ceiling_dbtp``, without shifting the programme in time.

    A look-ahead of ``attack_ms`` bends the gain down before a peak, ``release_ms`` lets it return.
    """

    revision: ClassVar[int] = 2
    filters: ClassVar[tuple[str, ...]] = ("aresample", "aformat", "alimiter")

    op: Literal["limiter"] = "limiter"
    ceiling_dbtp: Annotated[float, Field(ge=-20, le=0)] = -1.0
    attack_ms: Annotated[float, Field(ge=0.1, le=80)] = 5.0
    release_ms: Annotated[float, Field(ge=1, le=8000)] = 80.0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Limit at four times the rate of 48 kHz and return to the signal's rate."""
        return limit(signals[0], self.ceiling_dbtp, attack=decimal(self.attack_ms), release=decimal(self.release_ms))


def limit(signal: Signal, ceiling_dbtp: float | str, *, attack: str = "5", release: str = "80") -> Signal:
    """The signal with true peaks limited to ``ceiling_dbtp``; a string is a placeholder in braces.

    Look-ahead delay is compensated and the end flushed, so that length and timing stay; the output is not levelled.
    """
    ceiling = (
        ceiling_dbtp if isinstance(ceiling_dbtp, str) else decimal(10 ** (max(ceiling_dbtp, LOWEST_CEILING_DBTP) / 20))
    )
    stream = signal.stream.aresample(sample_rate=_OVERSAMPLED_HZ, extra_options=dict(_TOWARDS)).alimiter(
        limit=ceiling, attack=attack, release=release, level=False, latency=True
    )
    stream = stream.aresample(sample_rate=signal.sample_rate_hz, extra_options=dict(_BACK)).aformat(
        sample_fmts="fltp", sample_rates=signal.sample_rate_hz
    )
    return replace(signal, stream=stream)
