"""The JSON document of a report. Pure.

Names end in their units; a value that does not exist, such as the loudness of silence, is null. Keys may be added under
one schema; a key that changes its meaning or goes raises the schema's number.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from presets.analysis import Analysis
from presets.facts import MediaFacts
from presets.graph import Source
from presets.operations.base import Signal
from presets.plan import Loudness, OutputReport, StepResult

SCHEMA = "mediactl.report/1"

#: FFmpeg's names of the channels of each layout, in its order.
_CHANNELS: Mapping[str, tuple[str, ...]] = {
    "mono": ("M",),
    "stereo": ("L", "R"),
    "5.1": ("L", "R", "C", "LFE", "Ls", "Rs"),
    "7.1": ("L", "R", "C", "LFE", "Lb", "Rb", "Ls", "Rs"),
}

#: A sum in mono that loses more than this beside equal channels sounds hollow or thin, in dB.
_MONO_LOSS_DB = -6.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A signal, and what measuring it gave."""

    signal: Signal
    result: StepResult


def text(
    preset: str,
    inputs: Iterable[tuple[Source, MediaFacts]],
    programme: Heard | None,
    outputs: Iterable[tuple[OutputReport, str, Heard]],
) -> str:
    """The document, ending in a line feed.

    ``programme`` is what the preset made before it was levelled and encoded; ``outputs`` are what became of it: report,
    the profile's full name, and the encoded file as it was heard.
    """
    document = {
        "schema": SCHEMA,
        "preset": preset,
        "inputs": [_input(source, facts) for source, facts in inputs],
        "programme": None if programme is None else _heard(programme),
        "outputs": [
            {
                "name": report.name,
                "profile": profile,
                "targetLufs": report.target_lufs,
                "gainDb": _db(report.gain_db),
                "limitedByDb": _db(report.limited_by_db),
                "missedByLu": _db(report.missed_by_lu),
                "encodes": report.encodes,
                "file": _heard(heard),
            }
            for report, profile, heard in outputs
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _input(source: Source, facts: MediaFacts) -> dict[str, Any]:
    stream = source.stream
    return {
        "role": source.role,
        "format": facts.format_name,
        "audioTrack": source.position + 1,
        "language": stream.language,
        "codec": stream.codec,
        "sampleRateHz": stream.sample_rate_hz,
        "channels": stream.channels,
        "layout": stream.layout,
        "bits": stream.bits,
    }


def _heard(heard: Heard) -> dict[str, Any]:
    loudness = heard.result.loudness or Loudness(None, None, None)
    found, signal = heard.result.analysis, heard.signal
    if found is None:
        raise ValueError("a report needs an analysis")
    true_peak = _highest(c.true_peak_dbtp for c in found.channels)
    integrated = loudness.integrated_lufs
    duration_s = heard.result.out_time_s or 0.0
    return {
        "durationS": round(duration_s, 3),
        "sampleRateHz": signal.sample_rate_hz,
        "channelCount": signal.channels,
        "layout": signal.layout,
        "integratedLufs": _db(integrated),
        "loudnessRangeLu": _db(loudness.range_lu),
        "maxMomentaryLufs": _db(found.max_momentary_lufs),
        "maxShortTermLufs": _db(found.max_short_term_lufs),
        "truePeakDbtp": _db(true_peak),
        "samplePeakDbfs": _db(_highest(c.sample_peak_dbfs for c in found.channels)),
        "peakToLoudnessRatioLu": None if true_peak is None or integrated is None else _db(true_peak - integrated),
        "noiseFloorDbfs": _db(found.noise_floor_dbfs),
        "clipping": {
            "fullScaleSamples": sum(c.full_scale_samples for c in found.channels),
            "longestRunAtLeastSamples": found.longest_run,
            "hardClippedAtDbfs": _db(found.hard_clipped_at_dbfs),
        },
        "silence": {
            "count": found.silence_count,
            "totalS": round(found.silence_s, 3),
            "share": round(found.silence_s / duration_s, 4) if duration_s else 0.0,
            "spans": [{"startS": round(start, 3), "endS": round(end, 3)} for start, end in found.silences],
        },
        "phase": _phase(found),
        "channels": _channels(signal, found),
    }


def _phase(found: Analysis) -> dict[str, Any] | None:
    phase = found.phase
    if phase is None:
        return None
    # Nothing at all is left of antiphase, and nothing was there of silence.
    audible = phase.correlation is not None
    return {
        "correlation": _rounded(phase.correlation, 3),
        "worstCorrelation": _rounded(phase.worst_correlation, 3),
        "worstAtS": _rounded(phase.worst_at_s, 1),
        "monoSumDb": _db(phase.mono_sum_db),
        "monoCompatible": not audible or (phase.mono_sum_db is not None and phase.mono_sum_db >= _MONO_LOSS_DB),
    }


def _channels(signal: Signal, found: Analysis) -> Sequence[dict[str, Any]]:
    names = _CHANNELS.get(signal.layout or "", ())
    if len(names) != len(found.channels):
        names = tuple(str(number + 1) for number in range(len(found.channels)))
    return [
        {
            "name": name,
            "rmsDbfs": _db(channel.rms_dbfs),
            "samplePeakDbfs": _db(channel.sample_peak_dbfs),
            "truePeakDbtp": _db(channel.true_peak_dbtp),
            "crestFactorDb": None
            if channel.sample_peak_dbfs is None or channel.rms_dbfs is None
            else _db(channel.sample_peak_dbfs - channel.rms_dbfs),
            "dcOffset": channel.dc_offset,
            "fullScaleSamples": channel.full_scale_samples,
        }
        for name, channel in zip(names, found.channels, strict=True)
    ]


def _highest(levels: Iterable[float | None]) -> float | None:
    return max((level for level in levels if level is not None), default=None)


def _db(value: float | None) -> float | None:
    return _rounded(value, 2)


def _rounded(value: float | None, digits: int) -> float | None:
    # Adding nothing turns -0.0 into 0.0.
    return None if value is None else round(value, digits) + 0.0
