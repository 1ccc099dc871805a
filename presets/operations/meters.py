"""Meters at the end of a signal's filters, by which steps find out what they have to do. Read by presets.survey."""

from collections.abc import Sequence
from dataclasses import replace

import ffmpeg
from ffmpeg.streams.audio import AudioStream as Filtered

from presets.operations.base import Signal, decimal

#: The rate at which pauses are analysed, in hertz: it holds all that is heard.
ANALYSED_HZ = 48_000

#: The filters that a survey of a pause needs beside those that split it.
PAUSE_FILTERS = (
    *("ametadata", "apad", "aresample", "asetnsamples", "asetpts", "astats", "atrim", "concat", "ebur128", "pan"),
)


def metered(signal: Signal) -> Signal:
    """The signal through a meter of momentary loudness."""
    return replace(signal, stream=ffmpeg.afilter(signal.stream, name="ebur128", metadata=1, framelog="verbose"))


def pause(signal: Signal, span_s: tuple[float, float]) -> tuple[Filtered, int]:
    """A passage of a signal in one channel at :data:`ANALYSED_HZ`, and its samples; of all channels their power."""
    start_s, end_s = span_s
    power = "+".join(f"{signal.channels**-0.5:.6f}*c{channel}" for channel in range(signal.channels))
    samples = round((end_s - start_s) * ANALYSED_HZ)
    passage = (
        signal.stream.atrim(start=decimal(start_s), end=decimal(end_s))
        .asetpts(expr="PTS-STARTPTS")
        .pan(args=f"mono|c0={power}")
        .aresample(sample_rate=ANALYSED_HZ)
        .apad(whole_len=samples)
        .atrim(end_sample=samples)
    )
    return passage, samples


def levels(parts: Sequence[Filtered], samples: int) -> Signal:
    """Parts of as many samples each, one after the other, through a meter of their levels."""
    joined = ffmpeg.filters.concat(*parts, n=len(parts), v=0, a=1).audio(0).asetnsamples(nb_out_samples=samples)
    metered = joined.astats(metadata=True, reset=1, measure_perchannel="none", measure_overall="RMS_level")
    return Signal("pause", metered, ANALYSED_HZ, 1, "mono", len(parts) * samples / ANALYSED_HZ)
