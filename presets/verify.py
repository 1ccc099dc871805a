"""Whether a finished output is what the plan said it would be. Pure."""

from presets.facts import MediaFacts
from presets.formats import CONTAINERS
from presets.plan import Expectation

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
    audio = facts.audio
    if len(audio) != len(expectation.streams) or len(facts.streams) != len(audio):
        problems.append(
            f"{len(facts.streams)} streams with {len(audio)} of audio, not {len(expectation.streams)} of audio"
        )
    for number, (found, wanted) in enumerate(zip(audio, expectation.streams, strict=False), start=1):
        for what, is_, should_be in (
            ("codec", found.codec, wanted.codec),
            ("sample rate", found.sample_rate_hz, wanted.sample_rate_hz),
            ("channel count", found.channels, wanted.channels),
        ):
            if is_ != should_be:
                problems.append(f"audio stream {number}: the {what} is {is_}, not {should_be}")
    if decoded_s is None:
        problems.append("nothing of it could be decoded")
    elif expectation.duration_s is not None:
        for how, seconds in (("decodes to", decoded_s), ("declares", facts.duration_s)):
            if seconds is not None and abs(seconds - expectation.duration_s) > DURATION_TOLERANCE_S:
                problems.append(f"it {how} {seconds:.3f} s, not {expectation.duration_s:.3f} s")
    return tuple(problems)
