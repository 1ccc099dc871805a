"""What FFmpeg calls the containers, codecs and layouts that presets speak of, and which inputs it may open."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Demuxers that may open an input. Formats that make FFmpeg read further files or devices (hls, dash, concat, imf,
#: sdp, rtsp, image2 patterns, playlists, libavfilter graphs …) and subtitle-only or text formats are absent, so that
#: an input can never name another file. A version that lacks one of these names ignores it (checked on 5.1 and 9.0).
#: FFmpeg matches this list against its own full name of a demuxer, so names with commas need nothing special.
INPUT_FORMATS: tuple[str, ...] = (
    *("aac", "ac3", "eac3", "adts", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "asf_o", "au", "avi", "caf"),
    *("dsf", "dts", "dtshd", "dv", "flac", "flv", "gsm", "gxf", "h264", "hevc", "iamf", "ivf", "live_flv", "loas"),
    *("matroska", "webm", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mp3", "mpc", "mpc8", "mpeg", "mpegts"),
    *("mpegvideo", "mxf", "nut", "obu", "ogg", "qcp", "rm", "sox", "spdif", "swf", "tak", "truehd", "tta", "voc"),
    *("w64", "wav", "wtv", "wv", "xwma"),
)

#: As the value of ``-format_whitelist``, for ffmpeg and ffprobe alike.
FORMAT_WHITELIST = ",".join(INPUT_FORMATS)

#: As the value of ``-protocol_whitelist``, for ffmpeg and ffprobe alike.
PROTOCOL_WHITELIST = "file,pipe"

#: Input formats whose header or index states the duration, so that a decode which ends earlier proves a cut file.
#: Elsewhere ffprobe estimates it from the bit rate (raw AAC, AC-3, MP3 without a Xing header) or from the last
#: timestamp of what is there.
_STATES_DURATION = frozenset(
    {"mov", "mp4", "m4a", "3gp", "matroska", "webm", "wav", "w64", "flac", "aiff", "caf", "avi", "asf", "mxf", "ape"}
)


def states_duration(format_name: str) -> bool:
    """Whether files of this format (as ffprobe names it) declare their duration."""
    return not _STATES_DURATION.isdisjoint(format_name.split(","))


@dataclass(frozen=True, slots=True)
class Container:
    """An output container: FFmpeg's muxer, its extra options, the codecs it takes, ffprobe's names of it."""

    muxer: str
    codecs: frozenset[str]
    probed_as: frozenset[str]
    options: Mapping[str, str]


def _container(muxer: str, codecs: str, probed_as: str = "", **options: str) -> Container:
    return Container(
        muxer, frozenset(codecs.split()), frozenset((probed_as or muxer).split()), MappingProxyType(options)
    )


_PCM = "pcm_s16le pcm_s24le pcm_s32le pcm_f32le"

CONTAINERS: Mapping[str, Container] = MappingProxyType(
    {
        # RF64 replaces the header as soon as a file outgrows 4 GiB, which plain WAV cannot express (EBU Tech 3306).
        "wav": _container("wav", _PCM, rf64="auto"),
        "mp4": _container("mp4", "aac mp3 opus flac alac h264 hevc", "mov mp4 m4a 3gp 3g2 mj2"),
        "mp3": _container("mp3", "mp3", id3v2_version="3"),
        "ogg": _container("ogg", "opus vorbis flac"),
        "flac": _container("flac", "flac"),
        "matroska": _container("matroska", f"aac mp3 opus vorbis flac alac {_PCM} h264 hevc", "matroska webm"),
    }
)


@dataclass(frozen=True, slots=True)
class Codec:
    """An audio codec: the bits per second it can be asked for (None: lossless) and the rates it takes (None: any)."""

    bitrates_kbps: tuple[int, int] | None
    sample_rates_hz: frozenset[int] | None
    #: Bits per sample -> options that make the encoder use them.
    depths: Mapping[int, Mapping[str, str]]


_S16 = {16: {"sample_fmt": "s16"}}
_FLAC = {16: {"sample_fmt": "s16"}, 24: {"sample_fmt": "s32", "bits_per_raw_sample": "24"}}
_ALAC = {16: {"sample_fmt": "s16p"}, 24: {"sample_fmt": "s32p", "bits_per_raw_sample": "24"}}
_AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}

CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "aac": Codec((8, 512), frozenset(_AAC_RATES), {}),
        "mp3": Codec((8, 320), frozenset({16000, 22050, 24000, 32000, 44100, 48000}), {}),
        "opus": Codec((6, 510), frozenset({8000, 12000, 16000, 24000, 48000}), {}),
        "vorbis": Codec((32, 500), None, {}),
        "flac": Codec(None, None, _FLAC),
        "alac": Codec(None, None, _ALAC),
        "pcm_s16le": Codec(None, None, _S16),
        "pcm_s24le": Codec(None, None, {24: {}}),
        "pcm_s32le": Codec(None, None, {32: {}}),
        "pcm_f32le": Codec(None, None, {32: {}}),
    }
)

#: Channel layouts that presets and profiles may name -> number of channels.
LAYOUTS: Mapping[str, int] = MappingProxyType({"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8})


def layout_for(channels: int) -> str:
    """The narrowest of :data:`LAYOUTS` with room for so many channels; the widest where none has it."""
    roomy = [name for name in LAYOUTS if LAYOUTS[name] >= channels]
    return min(roomy or [max(LAYOUTS, key=LAYOUTS.__getitem__)], key=LAYOUTS.__getitem__)


def layout_of(layout: str | None, channels: int) -> str | None:
    """The name in :data:`LAYOUTS` of a probed layout; by channel count where none was stated; None if unnamed."""
    if layout is not None:
        plain = layout.removesuffix("(side)").removesuffix("(back)")
        return plain if LAYOUTS.get(plain) == channels else None
    return next((name for name, count in LAYOUTS.items() if count == channels), None)
