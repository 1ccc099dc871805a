"""What goes into a file beside sound and picture: tags, cover art and chapters. Which, and why. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from presets.document import Media, ProfileDocument
from presets.facts import MOST_CHAPTERS, Chapter, MediaFacts, VideoStream
from presets.formats import CONTAINERS, COVER_CODECS
from presets.intent import Intent, OutputRef
from presets.plan import Decision
from presets.problems import MediaFailure
from presets.reasons import Reason

#: Of cover art that is given: more than any player shows, and less than the 16 MiB of a block of FLAC.
_MOST_BYTES = 10 << 20
_MOST_PIXELS_A_SIDE = 8192

#: A first chapter no later than this, in seconds, begins with the programme: codecs put some silence before it.
_BEGINS_S = 0.1

#: What fits into every container's list of chapters, in bytes.
_TITLE_BYTES = 255

_BEHIND = "they begin behind the programme's end"


@dataclass(frozen=True, slots=True)
class Cover:
    """A picture of an input, and its number among the input's video streams; ``given``: the input is that picture."""

    input: int
    position: int
    stream: VideoStream
    given: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """Where an output's tags are taken from and which are set; its cover and its chapters.

    ``specifier`` says which tags of the input, as FFmpeg's ``-map_metadata`` names it; None: they are dropped.
    """

    input: int
    specifier: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    cover: Cover | None = None
    chapters: tuple[Chapter, ...] = ()


def beside(
    intent: Intent,
    facts: Sequence[MediaFacts],
    output: OutputRef,
    main: tuple[int, int],
    chapters: tuple[Chapter, ...],
    length_s: float | None,
) -> Beside:
    """What goes into ``output``.

    :param main: number of the input that the recording is known by, and in it the index of the stream that is used.
    :param chapters: of the programme, which lasts ``length_s`` (None: nothing tells).
    :raises MediaFailure: the picture given is none, or too large.
    """
    index, stream = main
    profile, tags = output.profile.document, intent.tags
    # Tags belong to the file, but in Ogg to its audio stream.
    ogg = "ogg" in facts[index].format_name.split(",")
    specifier = (f"s:{stream}" if ogg else "g") if tags.keep else None
    found = _cover(intent, facts, index)
    takes_cover = found is not None and not _why_no_cover(profile, found.stream)
    listed = _listed(chapters, profile, length_s) if profile.delivery.chapters else ()
    return Beside(index, specifier, tags.values, found if takes_cover else None, listed)


def _listed(chapters: tuple[Chapter, ...], profile: ProfileDocument, length_s: float | None) -> tuple[Chapter, ...]:
    """Those within the programme: a list that goes on beyond its end makes a file that claims to last as long.

    Where the list has to begin with the programme, what is before the first chapter is one without a title.
    """
    end_s = inf if length_s is None else length_s
    within = tuple(replace(one, end_s=min(one.end_s, end_s)) for one in chapters if one.start_s < end_s)
    if within and within[0].start_s > _BEGINS_S and CONTAINERS[profile.container].chapters_from_0:
        return (Chapter(0.0, within[0].start_s, ""), *within)
    return within


def decisions(
    intent: Intent, facts: Sequence[MediaFacts], output: OutputRef, made: Beside, chapters: tuple[Chapter, ...]
) -> Iterator[Decision]:
    """Why it is that: what was asked for, and what was there and is left out."""
    name, profile, tags = output.name, output.profile.document, intent.tags
    if tags.values or not tags.keep:
        told = f"{', '.join(tags.values) or 'none'} as given, " + ("others kept" if tags.keep else "no others")
        yield Decision(f"{name}: tags", told, "the parameters tag.… say so")
    if (found := _cover(intent, facts, made.input)) is not None:
        what = f"{found.stream.codec} {found.stream.width}x{found.stream.height}"
        whose = f"of the role {intent.inputs[found.input].role}" if found.given else "of the recording itself"
        if made.cover is not None:
            yield Decision(f"{name}: cover", f"{what}, unchanged", whose)
        else:
            why = _why_no_cover(profile, found.stream)
            yield Decision(f"{name}: cover", f"left out ({what}, {whose})", why)
    stated = facts[made.input].chapters
    if made.chapters:
        own = chapters == stated
        because = "the timeline is the recording's" if own else "the steps make them"
        # What is before the first may be listed as well.
        kept = len([one for one in made.chapters if one.start_s >= chapters[0].start_s])
        first = "the first " if own and len(stated) == MOST_CHAPTERS else ""
        yield Decision(f"{name}: chapters", f"{first}{kept} {'kept' if own else 'written'}", because)
        if kept < len(chapters):
            yield Decision(
                f"{name}: chapters", f"{len(chapters) - kept} left out", "they begin behind the programme's end"
            )
    elif stated:
        why = "the steps change the timeline"
        if chapters:
            why = _BEHIND if profile.delivery.chapters else "the profile has none"
        yield Decision(f"{name}: chapters", f"{len(stated)} left out", why)


def ffmetadata(chapters: Sequence[Chapter], *, as_tags: bool = False) -> str:
    """Chapters as FFmpeg reads them, in milliseconds; ``as_tags``: as tags of Ogg, of which each chapter has two."""
    lines = [";FFMETADATA1"]
    for number, chapter in enumerate(chapters):
        start, end = round(chapter.start_s * 1000), round(chapter.end_s * 1000)
        if as_tags:
            seconds, ms = divmod(start, 1000)
            at = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"
            lines += [f"CHAPTER{number:03}={at}", f"CHAPTER{number:03}NAME={_escaped(chapter.title)}"]
        else:
            lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={max(start, end)}"]
            lines.append(f"title={_escaped(chapter.title)}")
    return "\n".join(lines) + "\n"


def _cover(intent: Intent, facts: Sequence[MediaFacts], main: int) -> Cover | None:
    """The picture that is given, or else the one that the recording has."""
    roles = intent.preset.document.roles
    for index, ref in enumerate(intent.inputs):
        if roles[ref.role].media is Media.PICTURE:
            return Cover(index, 0, _given(facts[index]), given=True)
    pictures = [stream for stream in facts[main].streams if isinstance(stream, VideoStream)]
    attached = [(n, s) for n, s in enumerate(pictures) if s.attached_pic and s.width > 0 and s.height > 0]
    # One that can be kept before others.
    best = min(attached, key=lambda found: (bool(_why_unfit(found[1])), found[0]), default=None)
    return None if best is None else Cover(main, *best, given=False)


def _given(facts: MediaFacts) -> VideoStream:
    stream = next((stream for stream in facts.streams if isinstance(stream, VideoStream)), None)
    if stream is None or _why_unfit(stream) or not stream.width or not stream.height:
        raise MediaFailure(Reason.INPUT_CORRUPT, "the cover art is no readable JPEG or PNG picture")
    if facts.size_bytes > _MOST_BYTES or max(stream.width, stream.height) > _MOST_PIXELS_A_SIDE:
        told = (
            f"the cover art has {stream.width}x{stream.height} pixels and {facts.size_bytes / (1 << 20):.1f} MiB; "
            f"at most {_MOST_PIXELS_A_SIDE} a side and {_MOST_BYTES >> 20} MiB are taken: scale it down"
        )
        raise MediaFailure(Reason.UNSUPPORTED_COMBINATION, told)
    return stream


def _why_no_cover(profile: ProfileDocument, picture: VideoStream) -> str:
    if profile.video is not None:
        return "the file has a picture"
    if not CONTAINERS[profile.container].covers:
        return f"a {profile.container} file has no place for it"
    return _why_unfit(picture) if profile.delivery.cover else "the profile takes none"


def _why_unfit(picture: VideoStream) -> str:
    if picture.codec not in COVER_CODECS:
        return f"cover art is {' or '.join(sorted(COVER_CODECS))}"
    # The size may be told beside the picture, the format of its pixels by itself alone.
    return "" if picture.pixel_format is not None else "it is damaged: its head cannot be read"


def _escaped(title: str) -> str:
    plain = "".join(c for c in title if c.isprintable()).encode()[:_TITLE_BYTES].decode(errors="ignore")
    return "".join(f"\\{c}" if c in "=;#\\" else c for c in plain)
