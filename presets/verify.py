"""Whether a finished output is what the plan said it would be. Pure."""

import json
from collections.abc import Sequence
from math import inf

from presets.facts import MediaFacts, OtherStream, VideoStream
from presets.formats import CONTAINERS
from presets.plan import Expectation, ExpectedCover, ExpectedPicture

#: How far an output's duration may be from what went into its encoder, in seconds.
DURATION_TOLERANCE_S = 0.1


def check(expectation: Expectation, facts: MediaFacts, decoded_s: float | None) -> tuple[str, ...]:
    """What is wrong with an output; empty when it may be published.

    :param facts: of the output file, as ffprobe sees it.
    :param decoded_s: seconds that decoding it to the end gave (``expectation.decoded_s``); None: nothing.
    """
    problems: list[str] = []
    probed = set(facts.format_name.split(","))
    if probed.isdisjoint(CONTAINERS[expectation.container].probed_as):
        problems.append(f"the container is {facts.format_name}, not {expectation.container}")
    audio, video = facts.audio, facts.video
    wanted_video = 0 if expectation.picture is None else 1
    covers = [s for s in facts.streams if isinstance(s, VideoStream) and s.attached_pic]
    # MP4 keeps chapters as a track of text.
    lists = [s for s in facts.streams if isinstance(s, OtherStream)] if expectation.chapters_s else []
    streams = len(expectation.streams) + wanted_video + len(covers) + len(lists[:1])
    if len(audio) != len(expectation.streams) or len(video) != wanted_video or len(facts.streams) != streams:
        wanted_words = f"{len(expectation.streams)} of audio" + (" and 1 of video" if wanted_video else "")
        problems.append(f"{len(facts.streams)} streams with {len(audio)} of audio, not {wanted_words}")
    for number, (found, wanted) in enumerate(zip(audio, expectation.streams, strict=False), start=1):
        problems += _differences(
            f"audio stream {number}",
            ("codec", found.codec, wanted.codec),
            ("sample rate", found.sample_rate_hz, wanted.sample_rate_hz),
            ("channel count", found.channels, wanted.channels),
        )
    over_s = under_s = DURATION_TOLERANCE_S
    if expectation.picture is not None:
        problems += _of_picture(expectation.picture, video[0]) if video else []
        for fps in (stream.fps for stream in video if stream.fps and stream.constant_rate):
            over_s = under_s = max(under_s, 1.5 / fps)
        if not all(stream.constant_rate for stream in video):
            # At a varying rate FFmpeg 9 takes the last frame to last as long as another one: its end is no measure.
            under_s = inf
    problems += _of_cover(expectation.cover, covers)
    problems += _of_chapters(expectation.chapters_s, [chapter.start_s for chapter in facts.chapters])
    if decoded_s is None:
        problems.append("nothing of it could be decoded")
    elif expectation.duration_s is not None:
        for how, seconds in (("decodes to", decoded_s), ("declares", facts.duration_s)):
            if seconds is not None and not -under_s <= seconds - expectation.duration_s <= over_s:
                problems.append(f"it {how} {seconds:.3f} s, not {expectation.duration_s:.3f} s")
    return tuple(problems)


def check_document(text: str) -> tuple[str, ...]:
    """What is wrong with an output that is a document; empty when it may be published."""
    try:
        json.loads(text)
    except ValueError as error:
        return (f"it is no JSON: {error}",)
    return ()


def _of_picture(wanted: ExpectedPicture, found: VideoStream) -> list[str]:
    problems = _differences(
        "video stream",
        ("codec", found.codec, wanted.codec),
        ("size", f"{found.width}x{found.height}", f"{wanted.width}x{wanted.height}"),
        ("pixel format", found.pixel_format, wanted.pixel_format),
        ("pixel aspect", found.pixel_aspect, 1.0),
        ("rotation", found.rotation_deg, 0),
    )
    if wanted.frames is not None and wanted.decoded_frames != wanted.frames:
        problems.append(f"video stream: {wanted.decoded_frames or 0} frames decode, {wanted.frames} were encoded")
    return problems


def _of_cover(wanted: ExpectedCover | None, found: Sequence[VideoStream]) -> list[str]:
    if wanted is None or len(found) != 1:
        return [] if len(found) == (wanted is not None) else [f"{len(found)} pictures of cover art"]
    [cover] = found
    size = f"{cover.width}x{cover.height}"
    return _differences(
        "cover", ("codec", cover.codec, wanted.codec), ("size", size, f"{wanted.width}x{wanted.height}")
    )


def _of_chapters(wanted: Sequence[float], found: Sequence[float]) -> list[str]:
    if len(wanted) != len(found):
        return [f"{len(found)} chapters, not {len(wanted)}"]
    worst = max((abs(is_ - should_be) for is_, should_be in zip(found, wanted, strict=True)), default=0.0)
    return [f"a chapter begins {worst:.3f} s off"] if worst > DURATION_TOLERANCE_S else []


def _differences(stream: str, *properties: tuple[str, object, object]) -> list[str]:
    return [
        f"{stream}: the {what} is {is_}, not {should_be}" for what, is_, should_be in properties if is_ != should_be
    ]
