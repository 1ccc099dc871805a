"""``duck``: turn a signal down while another one sounds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal, decimal
from presets.plan import Loudness, StepResult

#: The key is listened to up to half of this rate, which is where speech ends.
_HEARD_HZ = 16_000

#: The gain is computed this many times a second, and interpolated between.
_CONTROL_HZ = 1000

#: Below this is rumble and hum, which open no gate.
_RUMBLE_HZ = 120

#: How fast the detector follows a rise and a fall of the key's power: time constants in seconds.
_RISE_S, _FALL_S = 0.003, 0.012

#: How much earlier than it is heard the key is listened to: syllables begin below the threshold.
_AHEAD_S = 0.04

#: How far peaks of speech are above its loudness, in dB, for what is too short to have one.
_CREST_DB = 15.0

#: A key with peaks below this is silence, in dBTP.
_SILENT_DBTP = -70.0


class Duck(Operation):
    """Turn the signal down by ``depth_db`` while the chain ``key`` sounds: music under voice.

    While the key sounds the gain is exactly ``-depth_db``, however loud it is; it goes there within ``attack_ms``,
    stays until the key has been quiet for ``hold_ms``, and returns within ``release_ms``, at an even pace in decibels.
    The key sounds where its level is above its own integrated loudness less ``sensitivity_db``. Without a key, or with
    a silent one, the signal stays as it is.

    A compressor's side chain (FFmpeg's sidechaincompress) has no depth: it follows every syllable's level. Here a
    detector with hold drives a gain of its own, computed at a thousand steps a second from the key's power between
    120 Hz and 8 kHz, and interpolated.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = (
        *("aeval", "aformat", "amultiply", "apad", "aresample", "asetpts", "atrim", "highpass", "pan"),
    )

    op: Literal["duck"] = "duck"
    key: str
    depth_db: Annotated[float, Field(ge=0, le=60)] = 12.0
    attack_ms: Annotated[float, Field(ge=10, le=5000)] = 150.0
    hold_ms: Annotated[float, Field(ge=0, le=10_000)] = 400.0
    release_ms: Annotated[float, Field(ge=10, le=10_000)] = 800.0
    sensitivity_db: Annotated[float, Field(ge=0, le=40)] = 18.0

    def hears(self) -> tuple[str, ...]:
        """The key."""
        return (self.key,)

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Multiply by the gain; how loud the key is, which says when it sounds, is measured before."""
        signal, key = signals[0], context.of(self.key)
        if key is None:
            context.decide("left as it is", f"there is no {self.key} to make room for")
            return signal
        if not self.depth_db:
            return signal
        heard = context.measured(key)
        if heard is None:
            return self._ducked(signal, key, "{threshold}")
        loudness_lufs = _loudness(heard)
        if loudness_lufs is None:
            context.decide("left as it is", f"{self.key} is silent")
            return signal
        threshold_db = loudness_lufs - self.sensitivity_db
        context.decide(
            f"{self.depth_db:g} dB down where {self.key} is above {threshold_db:.1f} LUFS",
            f"{self.key} is at {loudness_lufs:.1f} LUFS as a whole, less {self.sensitivity_db:g} dB of sensitivity",
        )
        return self._ducked(signal, key, decimal(threshold_db / 10))

    def _ducked(self, signal: Signal, key: Signal, threshold: str) -> Signal:
        # Powers are added, not samples: what is in opposite phase on two channels sounds all the same.
        power = "+".join(f"val({channel})*val({channel})" for channel in range(key.channels))
        stream = (
            key.stream.aresample(sample_rate=_HEARD_HZ)
            .highpass(frequency=decimal(_RUMBLE_HZ))
            .aeval(exprs=power, channel_layout="mono")
            .aresample(sample_rate=_CONTROL_HZ)
            .atrim(start=decimal(_AHEAD_S))
            .asetpts(expr="PTS-STARTPTS")
            .apad()
            .aeval(exprs=self._gain(threshold), channel_layout="mono")
            .aresample(sample_rate=signal.sample_rate_hz)
        )
        every = "|".join(f"c{channel}=c0" for channel in range(signal.channels))
        stream = stream.pan(args=f"{signal.layout or f'{signal.channels}c'}|{every}")
        stream = stream.aformat(sample_fmts="fltp", sample_rates=signal.sample_rate_hz)
        made = signal.stream.amultiply(stream)
        return replace(signal, stream=made, provisional=signal.provisional or key.provisional or "{" in threshold)

    def _gain(self, threshold: str) -> str:
        """The gain's factor, step by step: smoothed power, steps left to hold, gain in dB."""
        rise, fall = (decimal(1 / (seconds * _CONTROL_HZ + 1)) for seconds in (_RISE_S, _FALL_S))
        down, up = (decimal(self.depth_db / (ms / 1000 * _CONTROL_HZ)) for ms in (self.attack_ms, self.release_ms))
        # The end of the key is heard ahead too, and must not be acted upon as early.
        hold = round((self.hold_ms / 1000 + _AHEAD_S) * _CONTROL_HZ)
        depth = decimal(self.depth_db)
        return ";".join(
            (
                f"st(0,ld(0)+(max(val(0),0)-ld(0))*if(gt(val(0),ld(0)),{rise},{fall}))",
                f"st(1,if(gt(ld(0),pow(10,{threshold})),{hold},max(ld(1)-1,0)))",
                f"st(2,if(gt(ld(1),0),max(ld(2)-{down},-{depth}),min(ld(2)+{up},0)))",
                "pow(10,ld(2)/20)",
            )
        )


def _loudness(heard: StepResult) -> float | None:
    """The key's loudness in LUFS, estimated from its peak where it is too short; None for silence."""
    told = heard.loudness or Loudness(None, None, None)
    if told.integrated_lufs is not None:
        return told.integrated_lufs
    peak_dbtp = told.true_peak_dbtp
    return None if peak_dbtp is None or peak_dbtp < _SILENT_DBTP else peak_dbtp - _CREST_DB
