"""The picture of an input: which stream it is, what it becomes for a profile, and why. Numbers and filters only."""

from collections.abc import Iterator
from dataclasses import dataclass

from ffmpeg.streams.video import VideoStream as Filtered

from presets.document import VideoSpec
from presets.facts import MediaFacts, VideoStream
from presets.plan import Decision
from presets.problems import MediaFailure
from presets.reasons import Reason

#: The filters that :func:`shown` may use.
FILTERS = ("bwdif", "format", "scale", "setparams", "setsar")

#: Codecs of single pictures: a stream of one is a cover or a thumbnail where there is another one.
_STILLS = frozenset({"bmp", "gif", "mjpeg", "png", "tiff", "webp"})

#: Transfer characteristics of high dynamic range, as FFmpeg names them -> as people do.
_HDR = {"smpte2084": "PQ, as HDR10", "arib-std-b67": "HLG"}

_INTERLACED = frozenset({"tt", "bb", "tb", "bt"})

#: Pixels that are more than this many times as wide as high, or the other way, are a broken header.
_STRANGEST_ASPECT = 8.0

#: The least unit of timestamps at a constant rate, in seconds: containers that round to milliseconds are put right,
#: and a file whose rate is not as constant as it says is not moved by more than that.
_TICK_S = 0.0012

#: Used where a stream does not tell the unit of its timestamps, or tells one too fine for MP4: MPEG's 90 kHz.
_TIME_BASE = "1:90000"
_FINEST = 1_000_000


@dataclass(frozen=True, slots=True)
class PictureSource:
    """The video stream that is taken of one input, and its number among the input's video streams, covers included."""

    input: int
    role: str
    stream: VideoStream
    position: int


def choose(facts: MediaFacts) -> VideoStream:
    """The stream that is the picture: not a still if there is another, marked as default, first.

    :raises MediaFailure: INPUT_NO_VIDEO where there is none, INPUT_CORRUPT where there is but its header is unreadable.
    """
    if not facts.video:
        stills = any(isinstance(stream, VideoStream) for stream in facts.streams)
        told = "the input has no video stream" + (", only a cover picture" if stills else "")
        raise MediaFailure(Reason.INPUT_NO_VIDEO, told)
    usable = [stream for stream in facts.video if stream.width > 0 and stream.height > 0]
    if not usable:
        raise MediaFailure(Reason.INPUT_CORRUPT, "the video stream has no readable header: its size is not known")
    return min(usable, key=lambda s: (s.codec in _STILLS, not s.default, s.index))


def require_convertible(stream: VideoStream) -> None:
    """Refuse what would come out wrong.

    :raises MediaFailure: UNSUPPORTED_COMBINATION for HDR, Dolby Vision without a compatible layer, slanted
        pictures and interlaced ones that are turned; INPUT_CORRUPT for a pixel aspect that no picture has.
    """
    if stream.dolby_vision == 5:
        told = "the picture is Dolby Vision profile 5, which only a Dolby decoder shows in its colours"
        raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)
    if stream.color_transfer in _HDR:
        raise MediaFailure(
            Reason.UNSUPPORTED_COMBINATION,
            f"the picture is HDR ({_HDR[stream.color_transfer]}), and there is no conversion to standard dynamic range "
            "yet: without one it would look washed out; give a version in standard dynamic range",
        )
    if stream.rotation_deg % 90:
        told = f"the picture is to be shown turned by {stream.rotation_deg}°; only quarter turns are possible"
        raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)
    if stream.rotation_deg % 360 and stream.field_order in _INTERLACED:
        told = "the picture is interlaced and to be shown turned, whose lines cannot be told apart any more once it is"
        raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)
    if not 1 / _STRANGEST_ASPECT <= stream.pixel_aspect <= _STRANGEST_ASPECT:
        told = f"the header says that pixels are {stream.pixel_aspect:g} times as wide as high"
        raise MediaFailure(Reason.INPUT_CORRUPT, told)


def size(stream: VideoStream, max_height: int | None) -> tuple[int, int]:
    """Width and height as delivered: turned upright, square pixels, within ``max_height``, even."""
    width, height = _upright(stream)
    factor = min(1.0, max_height / min(width, height)) if max_height else 1.0
    return _even(width * factor), _even(height * factor)


def time_base(stream: VideoStream) -> str:
    """The unit of the delivered timestamps in seconds, as FFmpeg reads it.

    At a constant rate a whole part of a frame, so that timestamps which a container rounded are even again; otherwise
    the source's own unit, so that every frame keeps its moment.
    """
    if stream.constant_rate and stream.base_fps is not None:
        frames, seconds = map(int, stream.base_fps.split("/"))
        return f"{seconds}:{frames * max(1, int(seconds / frames / _TICK_S))}"
    unit, per = map(int, (stream.time_base or "1/0").split("/"))
    return f"{unit}:{per}" if 0 < per <= _FINEST else _TIME_BASE


def shown(opened: Filtered, stream: VideoStream, spec: VideoSpec) -> Filtered:
    """The picture as it is delivered, behind the decoder, which has turned it upright."""
    made = opened
    if stream.field_order in _INTERLACED:
        made = made.bwdif(mode="send_frame", parity="auto", deint="interlaced")
    width, height = size(stream, spec.max_height)
    # Numbers rather than expressions: a stream that changes its size midway keeps the first one's.
    made = made.scale(
        w=str(width),
        h=str(height),
        flags="lanczos+accurate_rnd",
        out_range="tv",
        extra_options={"out_color_matrix": "bt709"} if _is_rgb(stream) else {},
    )
    made = made.setsar(sar="1").format(pix_fmts=spec.pixel_format)
    matrix = _matrix(stream)
    return made if matrix is None else made.setparams(colorspace=matrix)


def decisions(subject: str, stream: VideoStream, spec: VideoSpec) -> Iterator[Decision]:
    """What is done to a picture, and why."""
    width, height = size(stream, spec.max_height)
    reasons = [f"stored {stream.width}x{stream.height}"]
    if stream.pixel_aspect != 1:
        reasons.append(f"pixels are {stream.pixel_aspect:.4g} times as wide as high, and square is delivered")
    if stream.rotation_deg % 360:
        reasons.append(f"shown turned by {stream.rotation_deg}°, and upright is delivered")
    shown_width, shown_height = _upright(stream)
    if spec.max_height and min(shown_width, shown_height) > spec.max_height:
        reasons.append(f"the profile's max_height is {spec.max_height}")
    elif (width, height) != (round(shown_width), round(shown_height)):
        reasons.append(f"{spec.pixel_format} needs even sizes")
    yield Decision(f"{subject}: size", f"{width}x{height}", "; ".join(reasons))
    if stream.constant_rate:
        yield Decision(f"{subject}: timing", f"{stream.fps:.6g} fps, as it is", "the rate is constant")
    else:
        because = "the rate varies, or the file does not tell"
        yield Decision(f"{subject}: timing", "every frame at its own time", because)
    if stream.field_order in _INTERLACED:
        because = f"the stream says that it is interlaced ({stream.field_order}); frames not marked so are left alone"
        yield Decision(f"{subject}: deinterlacing", "bwdif, one frame for each", because)
    matrix = _matrix(stream)
    if matrix is not None:
        because = "pixels are RGB" if _is_rgb(stream) else "the source does not tell, and its size is usual for that"
        yield Decision(f"{subject}: colour matrix", matrix, because)


def _upright(stream: VideoStream) -> tuple[float, float]:
    width, height = stream.width * stream.pixel_aspect, float(stream.height)
    return (height, width) if stream.rotation_deg % 180 else (width, height)


def _even(length: float) -> int:
    return max(2, round(length) // 2 * 2)


def _is_rgb(stream: VideoStream) -> bool:
    return any(name in (stream.pixel_format or "") for name in ("rgb", "bgr", "gbr", "pal8"))


def _matrix(stream: VideoStream) -> str | None:
    """The matrix to label the picture with; None: what the source says stands."""
    if _is_rgb(stream):
        return "bt709"
    if stream.color_space is not None:
        return None
    return (
        "bt709" if max(stream.width, stream.height) >= 1280 or min(stream.width, stream.height) >= 720 else "smpte170m"
    )
