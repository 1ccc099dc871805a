"""FFmpeg's argument lists: what every invocation says, and what measuring, encoding and verifying add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import ffmpeg
from ffmpeg.compile.compile_cli import compile_as_list
from ffmpeg.dag.nodes import OutputStream
from ffmpeg.streams.audio import AudioStream as Filtered

from presets.document import ProfileDocument
from presets.formats import CODECS, CONTAINERS
from presets.graph import Graph, Source, input_options
from presets.levels import Setting
from presets.measurement import TAIL_S
from presets.operations.base import Signal, decimal, gain
from presets.operations.limiter import limit
from presets.plan import Invocation

#: Each line is marked with its level, which is how the log is read when a step fails.
LOG_LEVEL = "level+info"
VERBOSE_LOG_LEVEL = "level+verbose"

#: What encoders and muxers write about themselves or their container, which says nothing about the recording.
_NOISE = ("encoder", "major_brand", "minor_version", "compatible_brands", "creation_time", "handler_name")

#: Identical bytes from identical runs: no versions, no dates, no random serial numbers.
_BITEXACT = {"fflags": "+bitexact", "flags:a": "+bitexact"}

_AUDIO_ONLY = {"vn": True, "sn": True, "dn": True}


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of an input: its path, and which of them as FFmpeg's ``-map_metadata`` names it."""

    path: str
    specifier: str


def inspect(graph: Graph, source: Source) -> tuple[str, ...]:
    """Decode one input's stream to its end and keep nothing."""
    return _argv(_discarded(graph.opened(source)), graph.threads)


def measure(signal: Signal, threads: int, file: str) -> tuple[str, ...]:
    """Measure the loudness of a signal into ``file``."""
    return _argv(_discarded(_metered(signal, file)), threads)


def verify(path: str, threads: int, file: str) -> tuple[str, ...]:
    """Decode a finished output to its end and measure its loudness into ``file``."""
    stream = ffmpeg.input(path, extra_options=input_options(threads)).audio_stream(0)
    return _argv(_discarded(_metered(Signal("output", stream, 0, 0, None), file)), threads)


def verbose(invocation: Invocation) -> Invocation:
    """The same invocation, logging in detail."""
    return replace(invocation, argv=tuple(VERBOSE_LOG_LEVEL if a == LOG_LEVEL else a for a in invocation.argv))


def encode(
    signal: Signal,
    levels: Setting | None,
    *,
    profile: ProfileDocument,
    encoder: str,
    metadata: Metadata,
    threads: int,
    path: str,
) -> tuple[str, ...]:
    """Encode a signal to ``path`` as the profile says, at the gain and ceiling of ``levels``.

    ``metadata`` says which of an input's metadata are kept.
    """
    if levels is not None:
        signal = levelled(signal, levels)
    return _encoded(signal, profile=profile, encoder=encoder, metadata=metadata, threads=threads, path=path)


def encode_provisionally(
    signal: Signal, *, profile: ProfileDocument, encoder: str, metadata: Metadata, threads: int, path: str
) -> tuple[str, ...]:
    """As :func:`encode`, with placeholders in braces for levels that are not measured yet."""
    placed = limit(gain(signal, "{gain_db}"), "{ceiling}")
    return _encoded(placed, profile=profile, encoder=encoder, metadata=metadata, threads=threads, path=path)


def levelled(signal: Signal, levels: Setting) -> Signal:
    """The signal at a gain, and limited only where the peaks need it: otherwise every sample keeps its shape."""
    if levels.gain_db:
        signal = gain(signal, levels.gain_db)
    return limit(signal, levels.ceiling_dbtp) if levels.limited_by_db > 0 else signal


def _encoded(
    signal: Signal, *, profile: ProfileDocument, encoder: str, metadata: Metadata, threads: int, path: str
) -> tuple[str, ...]:
    spec = profile.stream[0]
    container = CONTAINERS[profile.container]
    codec = CODECS[spec.codec]
    depth = min(codec.depths, default=None) if spec.bits is None else spec.bits
    options: dict[str, Any] = {
        "c:a": encoder,
        **({"b:a": f"{spec.bitrate_kbps}k"} if spec.bitrate_kbps is not None else {}),
        **_BITEXACT,
        **_AUDIO_ONLY,
        "threads": threads,
        "map_chapters": -1,
        **container.options,
        **({"movflags": "+faststart"} if profile.delivery.faststart and container.muxer == "mp4" else {}),
        "f": container.muxer,
    }
    stream = signal.stream
    if depth is not None and codec.depths[depth]:
        sample_format = codec.depths[depth]["sample_fmt"]
        options |= {k: v for k, v in codec.depths[depth].items() if k != "sample_fmt"}
        dither = {"dither_method": "triangular"} if depth == 16 else None
        stream = stream.aresample(extra_options=dither).aformat(sample_fmts=sample_format)
    made = stream.output(filename=path, extra_options=options)
    kept = ["-map_metadata:g", f"{_inputs(made).index(metadata.path)}:{metadata.specifier}"]
    noise = [argument for key in _NOISE for argument in ("-metadata", f"{key}=")]
    return _argv(made, threads, before_path=[*kept, *noise])


def _metered(signal: Signal, file: str) -> Filtered:
    padded = signal.stream.apad(pad_dur=decimal(TAIL_S))
    # `framelog=quiet` would keep the log shorter still, and is unknown to FFmpeg 5.1.
    metered: Filtered = ffmpeg.afilter(padded, name="ebur128", peak="true", metadata=1, framelog="verbose")
    return metered.ametadata(mode="print", file=file)


def _discarded(stream: Filtered) -> OutputStream:
    return stream.output(filename="-", extra_options={**_AUDIO_ONLY, "f": "null"})


def _argv(made: OutputStream, threads: int, before_path: Sequence[str] = ()) -> tuple[str, ...]:
    *arguments, path = compile_as_list(made)
    return (*_globals({"filter_complex_threads": str(threads)}), *arguments, *before_path, path)


def _inputs(made: OutputStream) -> list[str]:
    """The inputs in the order in which the command names them, which is what ``-map_metadata`` counts."""
    arguments = compile_as_list(made)
    return [path for option, path in pairwise(arguments) if option == "-i"]


def _globals(more: Mapping[str, str]) -> tuple[str, ...]:
    return (
        *("-hide_banner", "-nostdin", "-y", "-loglevel", LOG_LEVEL, "-nostats", "-progress", "pipe:1", "-xerror"),
        *(argument for key, value in more.items() for argument in (f"-{key}", value)),
    )
