"""What FFmpeg calls the containers, codecs and layouts that presets speak of, and which inputs it may open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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

#: The same for an input that is a picture. These read one file, and not one after the other as image2 does.
PICTURE_WHITELIST = "jpeg_pipe,png_pipe"

#: What a picture may be coded in.
COVER_CODECS = frozenset({"mjpeg", "png"})

#: As the value of ``-protocol_whitelist``, for ffmpeg and ffprobe alike.
PROTOCOL_WHITELIST = "file,pipe"

#: Input formats whose header or index states the duration, so that a decode which ends earlier proves a cut file.
#: Elsewhere ffprobe estimates it from the bit rate (raw AAC, AC-3, MP3 without a Xing header) or from the last
#: timestamp of what is there.
_STATES_DURATION = frozenset(
    {"mov", "mp4", "m4a", "3gp", "matroska", "webm", "wav", "w64", "flac", "aiff", "caf", "avi", "asf", "mxf", "ape"}
)

#: Input formats whose clock FFmpeg begins with the first of the streams that it is told to use, whatever others began
#: before, since it may jump there anyway: a sound by itself would lose its place beside the picture.
_JUMPING_CLOCK = frozenset({"mpegts", "mpeg", "ogg"})

#: Codecs, as ffprobe names them, whose frames carry checksums that FFmpeg verifies when told to. Elsewhere it must not
#: be told: it would then refuse an MP3 that was cut out of a longer one.
CHECKSUMMED = frozenset({"ac3", "eac3", "flac", "tak", "tta", "wavpack"})

#: Codecs whose samples are floats as they are in the file, which may be infinite or no numbers at all.
FLOATS = frozenset({"wavpack", *(f"pcm_f{bits}" for bits in ("16le", "24le", "32be", "32le", "64be", "64le"))})


def states_duration(format_name: str) -> bool:
    """Whether files of this format (as ffprobe names it) declare their duration."""
    return not _STATES_DURATION.isdisjoint(format_name.split(","))


def has_jumping_clock(format_name: str) -> bool:
    """Whether FFmpeg counts from a file's first stream, or from the first that is used of it."""
    return not _JUMPING_CLOCK.isdisjoint(format_name.split(","))


@dataclass(frozen=True, slots=True)
class Container:
    """An output container: FFmpeg's muxer, its extra options, the codecs it takes, ffprobe's names of it.

    ``covers``: it has a place for cover art; ``chapters``: and for chapters. ``chapters_from_0``: their list begins
    with the programme, and so does the first of them. ``chapters_as_tags``: they are tags, by the names that Xiph
    agreed on. FFmpeg itself writes these for Opus only, and chapters that begin in the second half of a second one
    second too late.
    """

    muxer: str
    codecs: frozenset[str]
    probed_as: frozenset[str]
    options: Mapping[str, str]
    covers: bool
    chapters: bool
    chapters_from_0: bool
    chapters_as_tags: bool


def _container(muxer: str, codecs: str, probed_as: str = "", *, holds: str = "", **options: str) -> Container:
    return Container(
        muxer=muxer,
        codecs=frozenset(codecs.split()),
        probed_as=frozenset((probed_as or muxer).split()),
        options=MappingProxyType(options),
        covers="cover" in holds.split(),
        chapters="chapters" in holds.split(),
        chapters_from_0=muxer == "mp4",
        chapters_as_tags=muxer == "ogg",
    )


_PCM = "pcm_s16le pcm_s24le pcm_s32le pcm_f32le"
_DOLBY = "ac3 eac3"

CONTAINERS: Mapping[str, Container] = MappingProxyType(
    {
        # RF64 replaces the header as soon as a file outgrows 4 GiB, which plain WAV cannot express (EBU Tech 3306).
        "wav": _container("wav", _PCM, rf64="auto"),
        "mp4": _container(
            "mp4", f"aac mp3 opus flac alac {_DOLBY} h264 hevc", "mov mp4 m4a 3gp 3g2 mj2", holds="cover chapters"
        ),
        "mp3": _container("mp3", "mp3", holds="cover chapters", id3v2_version="3"),
        "ogg": _container("ogg", "opus vorbis flac", holds="chapters"),
        "flac": _container("flac", "flac", holds="cover"),
        "ac3": _container("ac3", "ac3"),
        "eac3": _container("eac3", "eac3"),
        "matroska": _container(
            "matroska",
            f"aac mp3 opus vorbis flac alac {_DOLBY} {_PCM} h264 hevc",
            "matroska webm",
            holds="chapters",
        ),
    }
)


#: Channel layouts that presets and profiles may name, as FFmpeg names them -> the channels in FFmpeg's order.
#: The first of a number of channels is what FFmpeg takes a stream for that does not say.
LAYOUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mono": ("FC",),
        "stereo": ("FL", "FR"),
        "2.1": ("FL", "FR", "LFE"),
        "3.0": ("FL", "FR", "FC"),
        "4.0": ("FL", "FR", "FC", "BC"),
        "quad": ("FL", "FR", "BL", "BR"),
        "5.0": ("FL", "FR", "FC", "BL", "BR"),
        "5.1": ("FL", "FR", "FC", "LFE", "BL", "BR"),
        "6.1": ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
        "7.1": ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
    }
)

#: FFmpeg's other names of the same loudspeakers in the same order: the surround channels of a living room stand
#: between its sides and its back, so that some formats call them the one and some the other.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {"downmix": "stereo", "quad(side)": "quad", "5.0(side)": "5.0", "5.1(side)": "5.1"}
)


def layout_for(channels: int) -> str:
    """The narrowest of :data:`LAYOUTS` with room for so many channels; the widest where none has it."""
    sizes = {name: len(order) for name, order in LAYOUTS.items()}
    roomy = [name for name, size in sizes.items() if size >= channels]
    return min(roomy or [max(sizes, key=sizes.__getitem__)], key=sizes.__getitem__)


def layout_of(layout: str | None, channels: int) -> str | None:
    """The name in :data:`LAYOUTS` of a probed layout; by channel count where none was stated; None if unnamed.

    A single channel is mono, whatever loudspeaker it is labelled for.
    """
    if channels == 1:
        return "mono"
    stated = stated_layout(layout, channels) or ""
    name = _ALIASES.get(stated, stated)
    return name if len(LAYOUTS.get(name, ())) == channels else None


def stated_layout(layout: str | None, channels: int) -> str | None:
    """The layout by which FFmpeg decodes a probed one: itself, or where none was stated FFmpeg's for the count."""
    return layout or next((name for name, order in LAYOUTS.items() if len(order) == channels), None)


@dataclass(frozen=True, slots=True)
class Codec:
    """An audio codec: the bits per second it can be asked for (None: lossless) and the rates it takes (None: any).

    ``layouts`` are those that come out as they went in. ``vbr_qualities`` bounds the numbers by which an encoder is
    asked for a constant quality (None: by bits per second only). ``attenuates_db`` is what the encoder takes off the
    sound at a constant rate of at most so many kbit/s, and ``overshoot_db`` what it usually puts on peaks that were
    limited, both measured. ``tells_loudness``: the stream says how loud its
    dialogue is, and players set their level by it. ``surround_options`` are the encoder's for more than two channels.
    """

    bitrates_kbps: tuple[int, int] | None
    sample_rates_hz: frozenset[int] | None
    #: Bits per sample -> options that make the encoder use them.
    depths: Mapping[int, Mapping[str, str]]
    layouts: frozenset[str] = frozenset(LAYOUTS)
    vbr_qualities: tuple[int, int] | None = None
    attenuates_db: Mapping[int, float] = field(default_factory=dict)
    overshoot_db: float = 0.0
    tells_loudness: bool = False
    surround_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def lossless(self) -> bool:
        """Whether what is decoded is what was encoded, to the sample."""
        return self.bitrates_kbps is None

    def attenuation_db(self, bitrate_kbps: int | None) -> float:
        """What the encoder takes off the sound at that rate (None: at a constant quality), in dB."""
        rates = sorted(rate for rate in self.attenuates_db if bitrate_kbps is not None and bitrate_kbps <= rate)
        return self.attenuates_db[rates[0]] if rates else 0.0


_S16 = {16: {"sample_fmt": "s16"}}
_FLAC = {16: {"sample_fmt": "s16"}, 24: {"sample_fmt": "s32", "bits_per_raw_sample": "24"}}
_ALAC = {16: {"sample_fmt": "s16p"}, 24: {"sample_fmt": "s32p", "bits_per_raw_sample": "24"}}
_AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
_AC3_RATES = frozenset({32000, 44100, 48000})

# A receiver that plays stereo then mixes as ITU-R BS.775 does; FFmpeg's own choice is -4.5 dB and -6 dB.
_AC3_SURROUND = {"center_mixlev": "0.707", "surround_mixlev": "0.707"}
_EAC3_SURROUND = {"dmix_mode": "loro", "loro_cmixlev": "0.707", "loro_surmixlev": "0.707"}
# The channels' order is that of family 1 either way; saying so also lets libopus spend bits by what masks what.
_OPUS_SURROUND = {"mapping_family": "1"}

# LAME scales what it encodes at low rates, so that its own overshoots do not clip.
_LAME_SCALES = {160: 0.446, 224: 0.265}

# What FFmpeg's encoders made of each layout on 5.1 and 9.0, without mixing or renaming it on the way.
_AAC_LAYOUTS = frozenset({"mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"})
_XIPH_LAYOUTS = frozenset({"mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"})
_DOLBY_LAYOUTS = frozenset({"mono", "stereo", "2.1", "3.0", "4.0", "quad", "5.0", "5.1"})
_ALAC_LAYOUTS = frozenset({"mono", "stereo", "3.0", "4.0", "5.0", "5.1"})

CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "aac": Codec((8, 512), frozenset(_AAC_RATES), {}, _AAC_LAYOUTS, overshoot_db=0.15),
        "mp3": Codec(
            (8, 320),
            frozenset({16000, 22050, 24000, 32000, 44100, 48000}),
            {},
            frozenset({"mono", "stereo"}),
            vbr_qualities=(0, 9),
            attenuates_db=_LAME_SCALES,
            overshoot_db=0.2,
        ),
        # Whatever rate it is given, it is decoded at this one, and its files say so.
        "opus": Codec(
            (6, 510),
            frozenset({48000}),
            {},
            _XIPH_LAYOUTS,
            overshoot_db=0.35,
            surround_options=_OPUS_SURROUND,
        ),
        "vorbis": Codec((32, 500), None, {}, _XIPH_LAYOUTS, vbr_qualities=(-1, 10), overshoot_db=0.2),
        "ac3": Codec((32, 640), _AC3_RATES, {}, _DOLBY_LAYOUTS, tells_loudness=True, surround_options=_AC3_SURROUND),
        "eac3": Codec((32, 6144), _AC3_RATES, {}, _DOLBY_LAYOUTS, tells_loudness=True, surround_options=_EAC3_SURROUND),
        "flac": Codec(None, None, _FLAC),
        "alac": Codec(None, None, _ALAC, _ALAC_LAYOUTS),
        "pcm_s16le": Codec(None, None, _S16),
        "pcm_s24le": Codec(None, None, {24: {}}),
        "pcm_s32le": Codec(None, None, {32: {}}),
        "pcm_f32le": Codec(None, None, {32: {}}),
    }
)

#: How 16 bits are dithered: triangular noise of two steps, high-passed. In a gap that is 2.2 dB(A) below plain
#: triangular at 44.1 kHz, 2.4 at 48, 4.0 at 96, at the same power. FFmpeg's noise-shaped methods (lipshitz, shibata,
#: f_weighted, e_weighted) were measured 8 to 25 dB(A) above it at 44.1 kHz. Deeper samples need no dither.
DITHER_METHOD = "triangular_hp"

#: In the place of a container: a JSON document of measurements, which FFmpeg has no part in.
REPORT = "report"
