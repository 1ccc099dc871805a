"""What a failed run of FFmpeg means: a reason of the fixed table and words for a person."""

import re
import signal
from typing import assert_never

from agent.media.runner import Ran
from presets.plan import Invocation, Purpose
from presets.problems import MediaFailure
from presets.reasons import Reason

#: Where the fault lies with the machine, whatever the step was doing.
_MACHINE = (
    (
        re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE),
        Reason.SCRATCH_FULL,
        "the agent's scratch space is full",
    ),
    (
        # What drivers say when a GPU's limit of simultaneous encodes is reached.
        re.compile(r"OpenEncodeSessionEx failed: (out of memory|incompatible client key)", re.IGNORECASE),
        Reason.ENCODER_SESSION_LIMIT,
        "the GPU has no encoder session free",
    ),
)

#: Where the fault lies with the input.
_INPUT = (
    (
        re.compile(r"\bin/\d+: No such file or directory"),
        Reason.INPUT_NOT_FOUND,
        "the input disappeared while it was being read",
    ),
    (
        re.compile(r"\bin/\d+: (Permission denied|Input/output error|Stale file handle)"),
        Reason.INPUT_UNAVAILABLE,
        "the input could not be read",
    ),
    (
        re.compile(r": partial file\b|File ended prematurely|Truncating packet of size"),
        Reason.INPUT_TRUNCATED,
        "the input ends before its index says; fetch or record it again",
    ),
    (
        re.compile(
            r"Invalid data found when processing input|Error while decoding"
            r"|Error submitting (a )?packet to (the )?decoder|moov atom not found|Format not on whitelist",
            re.IGNORECASE,
        ),
        Reason.INPUT_CORRUPT,
        "the input is damaged: it does not decode to its end; try to play it and export it again",
    ),
)

_CONTEXT = re.compile(r"^(?:\[[^\]]+ @ 0x[0-9a-f]+\]\s*)+")
_LEVEL = re.compile(r"^\[(\w+)\]\s*")
_GRAVE = frozenset({"error", "fatal", "panic"})
_QUOTED_LINES = 3


def failure_of(ran: Ran, step: Invocation) -> MediaFailure:
    """Why ``step`` failed, for a run that neither succeeded nor was stopped on request."""
    said = quote(ran.stderr_tail)
    if ran.stalled:
        return MediaFailure(Reason.STALLED, f"{step.id}: FFmpeg stopped making progress and was ended{said}")
    reason, words = _classify(ran, step.purpose)
    return MediaFailure(reason, f"{step.id}: {words}{said}")


def _classify(ran: Ran, purpose: Purpose) -> tuple[Reason, str]:
    for pattern, reason, words in _MACHINE:
        if pattern.search(ran.stderr_tail):
            return reason, words
    for pattern, reason, words in _INPUT:
        if pattern.search(ran.stderr_tail):
            match purpose:
                case Purpose.INSPECT | Purpose.MEASURE | Purpose.ENCODE:
                    return reason, words
                case Purpose.VERIFY:
                    return Reason.OUTPUT_INVALID, "the encoded file does not decode to its end"
                case _:
                    assert_never(purpose)
    if ran.exit_code == -signal.SIGKILL:
        return Reason.FFMPEG_FAILED, "FFmpeg was killed from outside; the kernel does that where memory runs out"
    if ran.exit_code < 0:
        return Reason.FFMPEG_FAILED, f"FFmpeg crashed ({signal.Signals(-ran.exit_code).name})"
    return Reason.FFMPEG_FAILED, f"FFmpeg failed with exit code {ran.exit_code}"


def quote(log: str) -> str:
    """The lines of FFmpeg's ``log`` that say what is wrong, as ``: A; B``; empty where there is none.

    Lines marked as errors, or the last ones where none is marked, without the addresses FFmpeg puts before them.
    """
    grave: list[str] = []
    plain: list[str] = []
    for line in log.splitlines():
        text = _CONTEXT.sub("", line.strip())
        level = _LEVEL.match(text)
        text = text[level.end() :].strip() if level else text
        if not text:
            continue
        if level is None:
            plain.append(text)
        elif level[1] in _GRAVE:
            grave.append(text)
    # The first error is the cause, later ones its consequences.
    lines = list(dict.fromkeys(grave))[:_QUOTED_LINES] or plain[-_QUOTED_LINES:]
    return f": {'; '.join(lines)}" if lines else ""
