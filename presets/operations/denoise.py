"""``denoise``: steady noise out of a voice."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import log10
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations import meters
from presets.operations.base import Context, Operation, Signal, decimal, split_at
from presets.plan import Survey

#: The centres, in hertz, of the bands in which FFmpeg's afftdn knows a noise: half an octave and a bit apart.
_CENTRES_HZ = (80, 120, 180, 270, 410, 620, 930, 1400, 2100, 3150, 4750, 7100, 10700, 16000, 24000)
_EDGES_HZ = tuple(round((low * high) ** 0.5, 1) for low, high in pairwise(_CENTRES_HZ))

#: How far the noise is taken to be above what was measured in one pause, in dB: there it fluctuates, and what sticks
#: out of the profile is heard as chirping ("musical noise"). With real speech at 15 dB above pink and white noise, 0
#: leaves a residue of twice the kurtosis of the noise, 4 leaves the noise's own; the voice loses 0.1 dB by that.
_ABOVE_DB = 4.0

#: By how much less than it is told afftdn lowers noise in pauses, in dB.
_FALLS_SHORT_DB = 1.0

#: What afftdn takes: the noise's density as the level of white noise, and how far a band may be from the mean.
_FLOOR_DB, _HIGHEST_DB, _SPREAD_DB = -80.0, -20.0, 24.0

#: Noise that is quieter than the programme by this, in LU, is not heard; closer than the other it is none, but music.
_INAUDIBLE_LU, _INSEPARABLE_LU = 60.0, 6.0


class Denoise(Operation):
    """Lower steady noise (hiss, hum of machines, air conditioning) by about ``reduction_db``; 0 leaves it.

    What the noise is like is measured in the quietest pause of the recording, in 15 bands, and taken off in the
    spectrum wherever nothing louder is (Ephraim and Malah's estimator, as in FFmpeg's afftdn). Neither the voice's
    level nor its timing changes. A recording without a pause, or whose pauses are quieter than it by 60 LU, is left
    as it is. 12 dB sounds natural; beyond 18 a voice begins to sound as if under water. The result is kept in a file,
    so that this is done once.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = ("acrossover", "afftdn", *meters.PAUSE_FILTERS)
    keeps_level: ClassVar[bool] = True

    op: Literal["denoise"] = "denoise"
    reduction_db: Annotated[float, Field(ge=0, le=40)] = 12.0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Survey, analyse the pause, reduce and keep the result."""
        signal = signals[0]
        if not self.reduction_db:
            return signal
        surveyed = context.surveyed()
        if surveyed is None:
            return _reduced(signal, self.reduction_db, None, context)
        left = _left_alone(surveyed)
        if left is not None or surveyed.pause_s is None:
            context.decide("left as it is", left or "")
            return signal
        start_s, end_s = surveyed.pause_s
        pause, samples = meters.pause(signal, surveyed.pause_s)
        heard = context.heard(meters.levels(split_at(pause, _EDGES_HZ, order="8th"), samples))
        if heard is None:
            return _reduced(signal, self.reduction_db, None, context)
        if len(heard.levels_db) != len(_CENTRES_HZ):
            context.decide("left as it is", f"nothing could be heard of the pause at {start_s:.1f} s")
            return signal
        profile = _profile(heard.levels_db, signal.sample_rate_hz)
        if sum(profile) / len(profile) <= _FLOOR_DB:
            context.decide("left as it is", f"the noise in the pause at {start_s:.1f} s is below what can be heard")
            return signal
        context.decide(
            f"noise lowered by {self.reduction_db:g} dB",
            f"the quietest pause, from {start_s:.1f} to {end_s:.1f} s, is at {surveyed.pause_lufs:.1f} LUFS, the "
            f"programme at {surveyed.loudness_lufs:.1f}",
        )
        return _reduced(signal, self.reduction_db, profile, context)


def _left_alone(surveyed: Survey) -> str | None:
    """Why nothing is to be done; None where there is."""
    if surveyed.loudness_lufs is None:
        return "nothing is loud enough to have noise beneath it"
    if surveyed.pause_s is None or surveyed.pause_lufs is None:
        return "the recording is too short to have a pause in which noise could be measured"
    below = surveyed.loudness_lufs - surveyed.pause_lufs
    if below >= _INAUDIBLE_LU:
        return f"the quietest pause is {below:.0f} LU below the programme"
    if below <= _INSEPARABLE_LU:
        return f"there is no pause: the quietest moment is {below:.1f} LU below the programme"
    return None


def _profile(levels_db: Sequence[float], sample_rate_hz: int) -> tuple[float, ...]:
    """The noise's density in each band, as the level of white noise that is as dense, in dBFS."""
    nyquist = sample_rate_hz / 2
    profile: list[float] = []
    for level, low, high in zip(levels_db, (0.0, *_EDGES_HZ), (*_EDGES_HZ, meters.ANALYSED_HZ / 2), strict=True):
        if profile and high > nyquist:  # which holds a part of the band, or nothing
            profile.append(profile[-1])
        else:
            profile.append(level + 10 * log10(nyquist / (high - low)))
    middle = sorted(profile)[len(profile) // 2]
    return tuple(min(max(density, middle - _SPREAD_DB), middle + _SPREAD_DB) for density in profile)


def _reduced(signal: Signal, reduction_db: float, profile: Sequence[float] | None, context: Context) -> Signal:
    """The signal with noise of that profile lowered, from a file; placeholders in braces where it is not known yet."""
    if profile is None:
        floor, bands = "{noise_floor_db}", "{noise_bands_db}"
    else:
        mean = sum(profile) / len(profile)
        floor = decimal(min(max(mean + _ABOVE_DB, _FLOOR_DB), _HIGHEST_DB))
        bands = " ".join(f"{density - mean:.1f}" for density in profile)
    reduction = decimal(reduction_db + _FALLS_SHORT_DB)
    # It puts out what it takes in two steps of an 80th of a second later, in every version.
    delay = 2 * (signal.sample_rate_hz // 80)
    stream = (
        signal.stream.afftdn(noise_reduction=reduction, noise_floor=floor, noise_type="c", band_noise=bands)
        .apad(pad_len=delay)
        .atrim(start_sample=delay)
        .asetpts(expr="PTS-STARTPTS")
    )
    return context.rendered(replace(signal, stream=stream, provisional=signal.provisional or profile is None))
