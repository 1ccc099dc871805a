"""FFmpeg's argument lists: what every invocation says, and what measuring, encoding and verifying add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import ffmpeg
from ffmpeg.compile.compile_cli import compile_as_list
from ffmpeg.dag.nodes import OutputStream
from ffmpeg.streams.audio import AudioStream as Filtered
from ffmpeg.streams.video import VideoStream as FilteredPicture

from presets.analysis import WINDOW_S
from presets.beside import Beside, Cover
from presets.document import AudioSpec, ProfileDocument, Silence, VideoSpec
from presets.encoders import VIDEO_ENCODERS
from presets.formats import CODECS, CONTAINERS, DITHER_METHOD, PROTOCOL_WHITELIST
from presets.levels import Setting
from presets.measurement import TAIL_S
from presets.opening import input_options, opened, opened_picture
from presets.operations.base import Signal, decimal, gain
from presets.operations.limiter import limit
from presets.plan import Invocation

#: Each line is marked with its level, which is how the log is read when a step fails.
LOG_LEVEL = "level+info"
VERBOSE_LOG_LEVEL = "level+verbose"

#: What encoders and muxers write about themselves or their container, which says nothing about the recording.
_NOISE = ("encoder", "major_brand", "minor_version", "compatible_brands", "creation_time", "handler_name")

#: Identical bytes from identical runs: no versions, no dates, no random serial numbers.
_BITEXACT = {"fflags": "+bitexact"}

#: What of each channel a report is made of.
_MEASURED = "DC_offset+Min_level+Max_level+RMS_level+Peak_count+Flat_factor"

#: How many samples are counted at once: about a second's, so that ten hours print a few megabytes.
_COUNTED_SAMPLES = 48_000

_AUDIO_ONLY = {"vn": True, "sn": True, "dn": True}
_VIDEO_ONLY = {"an": True, "sn": True, "dn": True}


@dataclass(frozen=True, slots=True)
class Packing:
    """How an output is encoded, and where to: FFmpeg's encoders by kind, what goes beside them, threads and GPU.

    ``time_base`` is the unit of the picture's timestamps, ``chapters`` the file that holds them as FFmpeg reads them.
    ``dialnorm`` is what the stream says of its loudness, empty where its codec does not. ``exact``: the sound's samples
    have no more bits than are delivered.
    """

    profile: ProfileDocument
    path: str
    audio_encoder: str
    video_encoder: str
    time_base: str
    beside: Beside
    chapters: str | None
    threads: int
    gpu: int | None
    dialnorm: str = ""
    exact: bool = False


def inspect(stream: Filtered, threads: int, file: str | None = None) -> tuple[str, ...]:
    """Decode one input's stream to its end and keep nothing; count into ``file`` what of its samples are no numbers."""
    if file is not None:
        seconds = stream.asetnsamples(nb_out_samples=_COUNTED_SAMPLES, pad=False)
        counted = seconds.astats(
            metadata=True, measure_perchannel="none", measure_overall="Number_of_NaNs+Number_of_Infs"
        )
        stream = counted.ametadata(mode="print", file=file)
    return _argv(_discarded(stream), threads)


def measure(signal: Signal, threads: int, file: str) -> tuple[str, ...]:
    """Measure the loudness of a signal into ``file``."""
    return _argv(_discarded(_metered(signal, file)), threads)


def survey(signal: Signal, threads: int, file: str, key: str | None) -> tuple[str, ...]:
    """Write what the meters among a signal's filters say into ``file``: all of it, or only the value called ``key``."""
    only = None if key is None else {"key": key}
    return _argv(_discarded(signal.stream.ametadata(mode="print", file=file, extra_options=only)), threads)


@dataclass(frozen=True, slots=True)
class Meters:
    """The files that an analysis writes, as :func:`presets.analysis.analyse` reads them."""

    loudness: str
    levels: str
    silences: str


def analyse(signal: Signal, threads: int, files: Meters, silence: Silence) -> tuple[str, ...]:
    """Have every meter listen to a signal at once."""
    # A decoder's own metadata on frames would be printed with every one.
    stream = signal.stream.ametadata(mode="delete").silencedetect(
        n=f"{decimal(silence.below_dbfs)}dB", d=decimal(silence.at_least_s)
    )
    heard = stream.ametadata(mode="print", file=files.silences).asplit(outputs=2)
    levels = heard.audio(1)
    if signal.channels == 2:
        levels = levels.pan(args="4c|c0=c0|c1=c1|c2=0.5*c0+0.5*c1|c3=0.5*c0-0.5*c1")
    levels = levels.asetnsamples(nb_out_samples=round(signal.sample_rate_hz * WINDOW_S), pad=False).astats(
        metadata=True, reset=1, measure_perchannel=_MEASURED, measure_overall="none"
    )
    metered = _metered(replace(signal, stream=heard.audio(0)), files.loudness)
    made = ffmpeg.output(
        metered,
        levels.ametadata(mode="print", file=files.levels),
        filename="-",
        extra_options={**_AUDIO_ONLY, "f": "null"},
    )
    return _argv(made, threads)


def render(signal: Signal, threads: int, path: str) -> tuple[str, ...]:
    """Write a signal as it is into a file for later invocations: float samples, which neither round nor clip."""
    options = {**_BITEXACT, "c:a": "pcm_f32le", "rf64": "auto", "f": "wav", "map_metadata": -1}
    return _argv(signal.stream.output(filename=path, extra_options=options), threads)


def decode(path: str, threads: int) -> tuple[str, ...]:
    """Decode a finished output's sound to its end, where its loudness is known."""
    return _argv(_discarded(opened(path, threads).audio_stream(0)), threads)


def verify(path: str, threads: int, file: str) -> tuple[str, ...]:
    """As :func:`decode`, and measure its loudness into ``file``."""
    stream = opened(path, threads).audio_stream(0)
    return _argv(_discarded(_metered(Signal("output", stream, 0, 0, None), file)), threads)


def verify_picture(path: str, threads: int) -> tuple[str, ...]:
    """Decode a finished output's picture to its end; its progress counts the frames."""
    stream = opened(path, threads).video_stream(0)
    options = {**_VIDEO_ONLY, "fps_mode": "passthrough", "f": "null"}
    return _argv(stream.output(filename="-", extra_options=options), threads)


def verbose(invocation: Invocation) -> Invocation:
    """The same invocation, logging in detail."""
    return replace(invocation, argv=tuple(VERBOSE_LOG_LEVEL if a == LOG_LEVEL else a for a in invocation.argv))


def encode(
    sound: Signal | None, picture: FilteredPicture | None, packing: Packing, levels: Setting | None
) -> tuple[str, ...]:
    """Encode a signal at the gain and ceiling of ``levels``, a picture, or both, as the profile says."""
    if sound is not None and levels is not None:
        sound = levelled(sound, levels)
    return _encoded(sound, picture, packing)


def encode_provisionally(sound: Signal, picture: FilteredPicture | None, packing: Packing) -> tuple[str, ...]:
    """As :func:`encode`, with placeholders in braces for levels that are not measured yet."""
    return _encoded(limit(gain(sound, "{gain_db}"), "{ceiling}"), picture, packing)


def levelled(signal: Signal, levels: Setting) -> Signal:
    """The signal at a gain, and limited only where the peaks need it: otherwise every sample keeps its shape."""
    if levels.gain_db:
        signal = gain(signal, levels.gain_db)
    return limit(signal, levels.ceiling_dbtp) if levels.limited_by_db > 0 else signal


def _encoded(sound: Signal | None, picture: FilteredPicture | None, packing: Packing) -> tuple[str, ...]:
    profile = packing.profile
    container = CONTAINERS[profile.container]
    streams: list[Filtered | FilteredPicture] = []
    beside = packing.beside
    options: dict[str, Any] = {}
    if picture is not None and profile.video is not None:
        streams.append(picture)
        options |= _video_options(profile.video, packing)
    if sound is not None and profile.audio is not None:
        stream, audio_options = _sampled(sound, profile.audio, packing)
        streams.append(stream)
        options |= audio_options
    if beside.cover is not None:
        streams.append(_cover(beside.cover, packing.threads))
        options |= {"c:v": "copy", "disposition:v:0": "attached_pic"}
    listed = len(_inputs(ffmpeg.output(*streams, filename="-")))
    options |= {
        **_BITEXACT,
        **({"flags:a": "+bitexact"} if sound is not None else {}),
        **({"vn": True} if picture is None and beside.cover is None else {}),
        **({"an": True} if sound is None else {}),
        "sn": True,
        "dn": True,
        "threads": packing.threads,
        "map_chapters": -1 if packing.chapters is None or container.chapters_as_tags else listed,
        **container.options,
        **({"movflags": "+faststart"} if profile.delivery.faststart and container.muxer == "mp4" else {}),
        "f": container.muxer,
    }
    if sound is not None and profile.audio is not None:
        options |= _depth_options(profile.audio)
    made = ffmpeg.output(*streams, filename=packing.path, extra_options=options)
    inputs, main = _inputs(made), f"in/{beside.input}"
    opened_already = beside.specifier is None or main in inputs
    number = inputs.index(main) if main in inputs else len(inputs) + (packing.chapters is not None)
    kept = ["-map_metadata:g", "-1" if beside.specifier is None else f"{number}:{beside.specifier}"]
    said = {**dict.fromkeys(_NOISE, ""), **beside.tags}
    told = [argument for key, value in said.items() for argument in ("-metadata", f"{key}={value}")]
    if beside.cover is not None:
        # What a picture says of itself is of no use here; ID3 and FLAC tell from this one what it shows.
        told += ["-map_metadata:s:v:0", "-1", "-metadata:s:v:0", "comment=Cover (front)"]
    if packing.chapters is not None and container.chapters_as_tags:
        told += ["-map_metadata:s:a:0", f"{listed}:g"]
    argv = _argv(made, packing.threads, before_path=[*kept, *told], chapters=packing.chapters)
    return argv if opened_already else _opening_too(argv, main, packing.threads)


def _cover(cover: Cover, threads: int) -> FilteredPicture:
    path = f"in/{cover.input}"
    return (opened_picture(path) if cover.given else opened(path, threads)).video_stream(cover.position)


def _sampled(sound: Signal, spec: AudioSpec, packing: Packing) -> tuple[Filtered, dict[str, Any]]:
    codec = CODECS[spec.codec]
    options: dict[str, Any] = {"c:a": packing.audio_encoder}
    if spec.bitrate_kbps is not None:
        options["b:a"] = f"{spec.bitrate_kbps}k"
    if spec.vbr_quality is not None:
        options["q:a"] = spec.vbr_quality
    if packing.dialnorm:
        options["dialnorm"] = packing.dialnorm
    if sound.channels > 2:
        options |= codec.surround_options
    depth = _depth(spec)
    if depth is None or not codec.depths[depth]:
        return sound.stream, options
    dither = {"dither_method": DITHER_METHOD} if depth == 16 and not packing.exact else None
    return sound.stream.aresample(extra_options=dither).aformat(sample_fmts=codec.depths[depth]["sample_fmt"]), options


def _depth(spec: AudioSpec) -> int | None:
    return min(CODECS[spec.codec].depths, default=None) if spec.bits is None else spec.bits


def _depth_options(spec: AudioSpec) -> dict[str, str]:
    depth = _depth(spec)
    chosen = {} if depth is None else CODECS[spec.codec].depths[depth]
    return {key: value for key, value in chosen.items() if key != "sample_fmt"}


def _video_options(spec: VideoSpec, packing: Packing) -> dict[str, Any]:
    encoder = VIDEO_ENCODERS[packing.video_encoder]
    return {
        "c:v": packing.video_encoder,
        **encoder.options(quality=spec.quality, threads=packing.threads, gpu=packing.gpu),
        "force_key_frames": f"expr:gte(t,n_forced*{decimal(spec.gop_s)})",
        # Frames keep their moments; of two at the same one the first is dropped, as no container takes both.
        "fps_mode": "vfr",
        "enc_time_base": packing.time_base,
        # Players of Apple know HEVC in MP4 by this name only.
        **({"tag:v": "hvc1"} if spec.codec == "hevc" and packing.profile.container == "mp4" else {}),
    }


def _metered(signal: Signal, file: str) -> Filtered:
    padded = signal.stream.apad(pad_dur=decimal(TAIL_S))
    # `framelog=quiet` would keep the log shorter still, and is unknown to FFmpeg 5.1.
    metered: Filtered = ffmpeg.afilter(padded, name="ebur128", peak="true", metadata=1, framelog="verbose")
    return metered.ametadata(mode="print", file=file)


def _discarded(stream: Filtered) -> OutputStream:
    return stream.output(filename="-", extra_options={**_AUDIO_ONLY, "f": "null"})


def _argv(
    made: OutputStream, threads: int, before_path: Sequence[str] = (), chapters: str | None = None
) -> tuple[str, ...]:
    *arguments, path = _arguments(made)
    if chapters is not None:
        # Behind the last input, as one that has no streams.
        behind = max(n for n, argument in enumerate(arguments) if argument == "-i") + 2
        arguments[behind:behind] = ["-f", "ffmetadata", "-protocol_whitelist", PROTOCOL_WHITELIST, "-i", chapters]
    return (*_globals({"filter_complex_threads": str(threads)}), *arguments, *before_path, path)


def _opening_too(argv: tuple[str, ...], path: str, threads: int) -> tuple[str, ...]:
    """The command with one more input behind the others: for its metadata, where its sound is in rendered files."""
    behind = max(index for index, argument in enumerate(argv) if argument == "-i") + 2
    options = [argument for key, value in input_options(threads).items() for argument in (f"-{key}", str(value))]
    return (*argv[:behind], *options, "-i", path, *argv[behind:])


def _inputs(made: OutputStream) -> list[str]:
    """The inputs in the order in which the command names them, which is what ``-map_metadata`` counts."""
    return [path for option, path in pairwise(_arguments(made)) if option == "-i"]


@lru_cache(maxsize=64)
def _arguments(made: OutputStream) -> tuple[str, ...]:
    # Kept, as each compilation asks again for nearly all that the one before it did.
    return tuple(compile_as_list(made))


def _globals(more: Mapping[str, str]) -> tuple[str, ...]:
    return (
        *("-hide_banner", "-nostdin", "-y", "-loglevel", LOG_LEVEL, "-nostats", "-progress", "pipe:1", "-xerror"),
        *(argument for key, value in more.items() for argument in (f"-{key}", value)),
    )
