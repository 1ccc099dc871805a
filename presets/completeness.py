"""Whether all of an input was there: what its headers state against what could be decoded, and whether it is sound."""

from collections.abc import Iterable

from presets.facts import AudioStream, MediaFacts, VideoStream
from presets.formats import states_duration
from presets.plan import Survey
from presets.problems import MediaFailure
from presets.reasons import Reason

#: A decode that ends this much before the declared duration proves a cut file: seconds, or a share if that is more.
#: Below it are encoder delays, edit lists and headers that round.
TRUNCATED_S = 1.0
TRUNCATED_SHARE = 0.02

#: A stream that is taken of an input, with the facts of the input.
Taken = tuple[MediaFacts, AudioStream | VideoStream]


def require_whole(decoded_s: float | None, taken: Iterable[Taken]) -> None:
    """Refuse media of which nothing, or less than the longest of their headers states, could be decoded.

    :raises MediaFailure: INPUT_TRUNCATED or INPUT_CORRUPT.
    """
    streams = list(taken)
    what = "video" if any(isinstance(stream, VideoStream) for _, stream in streams) else "audio"
    stated = max((seconds for facts, stream in streams if (seconds := stated_s(facts, stream))), default=0.0)
    if stated - (decoded_s or 0.0) > max(TRUNCATED_S, stated * TRUNCATED_SHARE):
        told = f"the input declares {stated:.1f} s of {what} and ends after {decoded_s or 0.0:.1f} s"
        raise MediaFailure(Reason.INPUT_TRUNCATED, told)
    if not decoded_s:
        piece = "frame" if what == "video" else "sample"
        raise MediaFailure(Reason.INPUT_CORRUPT, f"not one {piece} of the {what} could be decoded")


def require_numbers(seen: Survey | None) -> None:
    """Refuse sound of which samples are infinite or no numbers: nobody can say what they should have been.

    :raises MediaFailure: INPUT_CORRUPT.
    """
    if seen is not None and seen.not_numbers:
        told = f"the audio has {seen.not_numbers} samples that are infinite or no numbers (NaN): export it as 24 bit"
        raise MediaFailure(Reason.INPUT_CORRUPT, told)


def expected_s(taken: Iterable[Taken]) -> float | None:
    """How long the longest will be, as far as it is told."""
    return max((declared_s(facts, stream) or facts.duration_s or 0.0 for facts, stream in taken), default=0.0) or None


def stated_s(facts: MediaFacts, stream: AudioStream | VideoStream) -> float | None:
    """The duration that a header states, as opposed to one that was estimated from what is there."""
    seconds = declared_s(facts, stream)
    if seconds is None or states_duration(facts.format_name):
        return seconds
    if isinstance(stream, VideoStream):
        return None
    # An estimate is size over bit rate, so a duration that the bytes cannot fill came from a header (MP3's Xing).
    needed = seconds * (stream.bit_rate or 0) / 8
    only = len(facts.streams) == 1
    return seconds if only and facts.size_bytes < needed * (1 - TRUNCATED_SHARE) else None


def declared_s(facts: MediaFacts, stream: AudioStream | VideoStream) -> float | None:
    """The duration of a stream as the file tells or implies it."""
    if stream.duration_s is not None:
        return stream.duration_s
    # With other streams beside it the file's duration may be theirs.
    return facts.duration_s if len(facts.streams) == 1 else None
