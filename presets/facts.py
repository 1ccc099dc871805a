"""What probing found in a media file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Self, assert_never

from presets.problems import MediaFailure
from presets.reasons import Reason

#: Above this the base rate, in frames per second, is no rate but the unit of some timestamps.
FASTEST_FPS = 240.0

#: FFmpeg's dispositions of tracks that are not the programme itself.
_ASIDE = ("comment", "lyrics", "karaoke", "visual_impaired", "clean_effects", "non_diegetic")

#: The same, as people write it into a track's title or comment.
_ASIDE_TITLE = re.compile(
    r"comment(ary|aries|aire)|kommentar|comentario|descri(ption|ptive|bed)|audiodesk|hörfilm|audiodescription"
    r"|isolated (score|music)|score only|music (and|&) effects|\bm ?& ?e\b|karaoke|instrumental|without (voice|vocals)",
    re.IGNORECASE,
)


#: No recording has more, nor longer titles; a file that claims to is an attack on memory.
MOST_CHAPTERS = 1000
_TITLE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class AudioStream:
    """An audio stream; ``index`` counts all streams of the file, ``bits`` is None for lossy codecs.

    ``bit_rate`` is what the stream itself says, in bits per second. ``aside``: it is marked or titled as something
    beside the programme: a commentary, a description for the blind, music without the voices. ``start_s`` is its first
    timestamp in seconds, None where there is none.
    """

    index: int
    codec: str
    duration_s: float | None
    language: str | None
    default: bool
    sample_rate_hz: int
    channels: int
    layout: str | None
    bits: int | None
    bit_rate: int | None = None
    title: str | None = None
    aside: bool = False
    start_s: float | None = None


@dataclass(frozen=True, slots=True)
class VideoStream:
    """A video stream, or a still picture attached to a recording (``attached_pic``), which is not video.

    ``width`` and ``height`` are stored pixels; ``pixel_aspect`` is how much wider than high a pixel is shown, and the
    picture is shown turned by ``rotation_deg`` against the clock. ``fps`` is the mean, ``base_fps`` the lowest rate,
    as a fraction of integers, on whose ticks all timestamps are; ``time_base`` is the unit of timestamps in seconds.
    ``field_order``, ``pixel_format`` and the colours are FFmpeg's words, None where the stream does not say.
    ``dolby_vision`` is the profile of its metadata.
    """

    index: int
    codec: str
    duration_s: float | None
    language: str | None
    default: bool
    attached_pic: bool
    width: int
    height: int
    fps: float | None
    base_fps: str | None = None
    time_base: str | None = None
    pixel_aspect: float = 1.0
    rotation_deg: int = 0
    pixel_format: str | None = None
    field_order: str | None = None
    color_space: str | None = None
    color_transfer: str | None = None
    dolby_vision: int | None = None

    @property
    def constant_rate(self) -> bool:
        """Whether frames follow one another at one rate, as far as the file tells."""
        if self.fps is None or self.base_fps is None:
            return False
        frames, seconds = map(int, self.base_fps.split("/"))
        base = frames / seconds
        return base <= FASTEST_FPS and abs(self.fps - base) <= base / 1000


@dataclass(frozen=True, slots=True)
class OtherStream:
    """A stream that is neither: ``kind`` is FFmpeg's word (subtitle, data, attachment)."""

    index: int
    kind: str
    codec: str
    language: str | None


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter, in seconds from the beginning of the recording."""

    start_s: float
    end_s: float
    title: str


Stream = AudioStream | VideoStream | OtherStream


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """A media file as ffprobe describes it; durations in seconds, ``start_s`` the first timestamp."""

    format_name: str
    duration_s: float | None
    start_s: float
    size_bytes: int
    bit_rate: int | None
    streams: tuple[Stream, ...]
    chapters: tuple[Chapter, ...] = ()

    @property
    def audio(self) -> tuple[AudioStream, ...]:
        """The audio streams in file order."""
        return tuple(s for s in self.streams if isinstance(s, AudioStream))

    @property
    def video(self) -> tuple[VideoStream, ...]:
        """The moving pictures in file order: attached pictures are left out."""
        return tuple(s for s in self.streams if isinstance(s, VideoStream) and not s.attached_pic)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        document = asdict(self)
        document["streams"] = [{"type": _type_of(s), **asdict(s)} for s in self.streams]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        streams = tuple(
            _STREAM_TYPES[s["type"]](**{k: v for k, v in s.items() if k != "type"}) for s in document["streams"]
        )
        chapters = tuple(Chapter(**chapter) for chapter in document.get("chapters", ()))
        return cls(**{**document, "streams": streams, "chapters": chapters})


_STREAM_TYPES: Mapping[str, type[AudioStream] | type[VideoStream] | type[OtherStream]] = {
    "audio": AudioStream,
    "video": VideoStream,
    "other": OtherStream,
}


def _type_of(stream: Stream) -> str:
    match stream:
        case AudioStream():
            return "audio"
        case VideoStream():
            return "video"
        case OtherStream():
            return "other"
        case _:
            assert_never(stream)


def from_ffprobe(document: Mapping[str, Any]) -> MediaFacts:
    """Facts from the output of ``ffprobe -of json -show_format -show_streams -show_chapters``.

    :raises MediaFailure: INPUT_CORRUPT where the document describes no media.
    """
    container = document.get("format") or {}
    if not container.get("format_name"):
        raise MediaFailure(Reason.INPUT_CORRUPT, "the file is not in a media format that can be read")
    streams = tuple(_stream(position, s) for position, s in enumerate(document.get("streams") or ()))
    if not streams:
        raise MediaFailure(Reason.INPUT_CORRUPT, "no audio or video stream was found in the file")
    return MediaFacts(
        format_name=str(container["format_name"]),
        duration_s=_seconds(container.get("duration")),
        start_s=_number(container.get("start_time")) or 0.0,
        size_bytes=int(_number(container.get("size")) or 0),
        bit_rate=_count(container.get("bit_rate")),
        streams=streams,
        chapters=_chapters(document.get("chapters") or (), _number(container.get("start_time")) or 0.0),
    )


def _chapters(raw: Sequence[Mapping[str, Any]], begin_s: float) -> tuple[Chapter, ...]:
    found = []
    for one in raw[:MOST_CHAPTERS]:
        start_s, end_s = _number(one.get("start_time")), _number(one.get("end_time"))
        if start_s is not None and end_s is not None and end_s >= start_s:
            tags = {str(k).lower(): str(v) for k, v in (one.get("tags") or {}).items()}
            found.append(
                Chapter(max(start_s - begin_s, 0.0), max(end_s - begin_s, 0.0), tags.get("title", "")[:_TITLE_LENGTH])
            )
    return tuple(sorted(found, key=lambda chapter: chapter.start_s))


def _stream(position: int, raw: Mapping[str, Any]) -> Stream:
    index = int(raw.get("index", position))
    codec = str(raw.get("codec_name") or "unknown")
    tags = {str(k).lower(): str(v) for k, v in (raw.get("tags") or {}).items()}
    disposition = raw.get("disposition") or {}
    language = tags.get("language")
    # Matroska states a stream's duration in a tag, never in the header that ffprobe reports as `duration`.
    duration_s = _seconds(raw.get("duration")) or _clock(tags.get("duration"))
    match raw.get("codec_type"):
        case "audio":
            return AudioStream(
                index=index,
                codec=codec,
                duration_s=duration_s,
                language=language,
                default=bool(disposition.get("default")),
                sample_rate_hz=_count(raw.get("sample_rate")) or 0,
                channels=_count(raw.get("channels")) or 0,
                layout=_word(raw.get("channel_layout")),
                bits=_count(raw.get("bits_per_raw_sample")) or _count(raw.get("bits_per_sample")),
                bit_rate=_count(raw.get("bit_rate")),
                title=tags.get("title"),
                aside=any(disposition.get(mark) for mark in _ASIDE) or bool(_ASIDE_TITLE.search(_told(tags))),
                start_s=_number(raw.get("start_time")),
            )
        case "video":
            return VideoStream(
                index=index,
                codec=codec,
                duration_s=duration_s,
                language=language,
                default=bool(disposition.get("default")),
                attached_pic=bool(disposition.get("attached_pic")),
                width=_count(raw.get("width")) or 0,
                height=_count(raw.get("height")) or 0,
                fps=_ratio(raw.get("avg_frame_rate")) or _ratio(raw.get("r_frame_rate")),
                base_fps=_fraction(raw.get("r_frame_rate")),
                time_base=_fraction(raw.get("time_base")),
                pixel_aspect=_ratio(str(raw.get("sample_aspect_ratio") or "").replace(":", "/")) or 1.0,
                rotation_deg=int(_of_side_data(raw, "rotation") or 0),
                pixel_format=_word(raw.get("pix_fmt")),
                field_order=_word(raw.get("field_order")),
                color_space=_word(raw.get("color_space")),
                color_transfer=_word(raw.get("color_transfer")),
                dolby_vision=_count(_of_side_data(raw, "dv_profile")),
            )
        case kind:
            return OtherStream(index=index, kind=str(kind or "unknown"), codec=codec, language=language)


def _told(tags: Mapping[str, str]) -> str:
    return " ".join(tags.get(key, "") for key in ("title", "handler_name", "comment", "description"))


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if isfinite(number) else None


def _seconds(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number > 0 else None


def _ratio(value: object) -> float | None:
    numerator, _, denominator = str(value or "").partition("/")
    top, bottom = _number(numerator), _number(denominator or "1")
    return top / bottom if top and bottom else None


def _clock(value: str | None) -> float | None:
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", value or "")
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return _seconds(int(hours) * 3600 + int(minutes) * 60 + float(seconds))


def _word(value: object) -> str | None:
    name = str(value or "")
    return name if name and name != "unknown" else None


def _fraction(value: object) -> str | None:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value or ""))
    return match[0] if match and int(match[1]) and int(match[2]) else None


def _of_side_data(raw: Mapping[str, Any], key: str) -> float | None:
    lists = raw.get("side_data_list")
    entries = [entry for entry in lists if isinstance(entry, Mapping)] if isinstance(lists, list) else []
    return next((_number(entry[key]) for entry in entries if key in entry), None)
