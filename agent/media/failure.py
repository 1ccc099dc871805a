"""What a run of FFmpeg that failed means: a reason of the fixed table and words for a person."""

import re
import signal

from agent.media.memory import MEBIBYTE, MemoryLimit
from agent.media.runner import Ran
from presets.diagnosis import diagnose
from presets.plan import Invocation
from presets.problems import MediaFailure
from presets.reasons import Reason

#: Faults of reading an input that lie with where it is stored: the workspace holds a link to it.
_UNREAD = (
    (
        re.compile(r"\bin/\d+: No such file or directory"),
        Reason.INPUT_NOT_FOUND,
        "the input disappeared while it was being read",
    ),
    (
        re.compile(r"\bin/\d+: (Permission denied|Stale file handle)"),
        Reason.INPUT_UNAVAILABLE,
        "the input can no longer be read",
    ),
)
#: How FFmpeg and the encoders in it say that they got no memory, and the loader before it was there at all.
_NO_MEMORY = re.compile(r"[Cc]annot allocate memory|malloc of size \d+ failed|std::bad_alloc")
_QUOTA = re.compile(r"Disk quota exceeded")
#: What the shell answers that was to execute the binary.
_NOT_STARTED = frozenset({126, 127})

_CONTEXT = re.compile(r"^(?:\[[^\]]+ @ 0x[0-9a-f]+\]\s*)+")
_LEVEL = re.compile(r"^\[(\w+)\]\s*")
_GRAVE = frozenset({"error", "fatal", "panic"})
_QUOTED_LINES = 3
_QUOTED_CHARACTERS = 160


def failure_of(ran: Ran, step: Invocation, memory: MemoryLimit | None = None) -> MediaFailure:
    """Why ``step`` failed, for a run that neither succeeded nor was stopped on request; ``memory`` was in force.

    What the log of FFmpeg means is :mod:`presets.diagnosis`'s to say; what the agent did or sees besides, is said here.
    """
    log = ran.stderr_tail
    if ran.given_up is not None:
        return MediaFailure(ran.given_up.reason, f"{ran.given_up.message}{quote(log)}")
    if ran.lost:
        said = f"the supervisor of FFmpeg was killed in step {step.id} each time that it was begun; memory may run out"
        return MediaFailure(Reason.FFMPEG_FAILED, said)
    if memory is not None and _exceeded(ran, memory):
        return MediaFailure(Reason.MEMORY_EXCEEDED, _of_memory(step, memory))
    if ran.exit_code in _NOT_STARTED:
        return MediaFailure(Reason.FFMPEG_FAILED, f"FFmpeg could not be started for step {step.id}{quote(log)}")
    if ran.exit_code == -signal.SIGKILL:
        said = f"FFmpeg was killed from outside in step {step.id}; the kernel does that where memory runs out"
        if memory is not None:
            said += f". It was not over its own limit of {memory.limit_bytes // MEBIBYTE} MiB: the whole machine may be"
        return MediaFailure(Reason.FFMPEG_FAILED, said)
    if _QUOTA.search(log):
        return MediaFailure(Reason.SCRATCH_FULL, "the quota of the scratch disk is used up")
    for pattern, reason, words in _UNREAD:
        if pattern.search(log):
            return MediaFailure(reason, f"{words}{quote(log)}")
    return MediaFailure(*diagnose(step, ran.exit_code, log))


def _exceeded(ran: Ran, memory: MemoryLimit) -> bool:
    if memory.kills is not None:
        return memory.kills > 0
    return _NO_MEMORY.search(ran.stderr_tail) is not None


def _of_memory(step: Invocation, memory: MemoryLimit) -> str:
    return (
        f"in step {step.id} FFmpeg needed more than the {memory.limit_bytes // MEBIBYTE} MiB of memory it may occupy "
        f"({memory.granted_bytes // MEBIBYTE} MiB were granted to the task, and a margin; {memory.means}). "
        "Choose a lighter profile, or cut the input into parts; for an ordinary input the grant is too small, "
        "which is worth a report"
    )


def quote(log: str) -> str:
    """The lines of a log at ``-loglevel level+…`` that say what is wrong, as ``: A; B``; empty where there is none.

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
    # FFmpeg may list all that it would have taken instead.
    lines = [line if len(line) <= _QUOTED_CHARACTERS else f"{line[:_QUOTED_CHARACTERS]}…" for line in lines]
    return f": {'; '.join(lines)}" if lines else ""
