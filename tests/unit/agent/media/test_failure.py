"""What FFmpeg's last words are taken to mean."""

import pytest

from agent.media.failure import failure_of, quote
from agent.media.memory import MemoryLimit
from agent.media.runner import Ran
from agent.media.usage import Usage
from presets.plan import Invocation, Purpose, StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason


def ran(log: str, *, exit_code: int = 1, given_up: MediaFailure | None = None) -> Ran:
    return Ran(exit_code, False, StepResult(None, None), Usage(), log, given_up)


def step(purpose: Purpose) -> Invocation:
    return Invocation("step", purpose, (), (), None, None, 1.0, False)


# As FFmpeg 5.1 and 9.0 print it at `-loglevel level+info`.
_CORRUPT_9 = "[dec:aac @ 0x55] [error] Error submitting packet to decoder: Invalid data found when processing input"
_FULL = "[out#0/wav @ 0x5572] [error] Error writing trailer: No space left on device"
_SESSIONS = "[h264_nvenc @ 0x55] [error] OpenEncodeSessionEx failed: out of memory (10): (no details)"
_CUT = "[mov,mp4,m4a @ 0x55] [error] stream 0, offset 0x30: partial file\n[error] in/0: Invalid data found"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (_CORRUPT_9, Reason.INPUT_CORRUPT),
        (_CUT, Reason.INPUT_TRUNCATED),
        ("[error] in/0: No such file or directory", Reason.INPUT_NOT_FOUND),
        ("[in#0 @ 0x55] [error] Error opening input: in/0: No such file or directory", Reason.INPUT_NOT_FOUND),
        ("[error] in/3: Permission denied", Reason.INPUT_UNAVAILABLE),
        ("[error] in/3: Stale file handle", Reason.INPUT_UNAVAILABLE),
        (_FULL, Reason.SCRATCH_FULL),
        (_FULL.replace("No space left on device", "Disk quota exceeded"), Reason.SCRATCH_FULL),
        (f"{_CORRUPT_9}\n{_FULL}", Reason.SCRATCH_FULL),
        (_SESSIONS, Reason.ENCODER_SESSION_LIMIT),
        ("[error] Unknown encoder 'nonesuch'", Reason.FFMPEG_FAILED),
        ("", Reason.FFMPEG_FAILED),
    ],
)
def test_reason_of_a_failed_encode(log: str, reason: Reason) -> None:
    """Each kind of failure gets its own reason, and there are words for a person."""
    failure = failure_of(ran(log), step(Purpose.ENCODE))
    assert failure.reason is reason
    assert failure.message


def test_failed_verification_blames_the_output() -> None:
    """What does not decode in the pass that checks our own file is not the caller's fault."""
    assert failure_of(ran(_CORRUPT_9), step(Purpose.VERIFY)).reason is Reason.OUTPUT_INVALID
    assert failure_of(ran(_FULL), step(Purpose.VERIFY)).reason is Reason.SCRATCH_FULL


def test_stall_wins_over_words() -> None:
    """A run that a guard ended failed for the guard's reason, whatever it said."""
    why = MediaFailure(Reason.STALLED, "it hung")
    assert failure_of(ran(_CORRUPT_9, given_up=why), step(Purpose.ENCODE)).reason is Reason.STALLED


def test_ends_that_ffmpeg_says_nothing_about() -> None:
    """Being killed, crashing and not starting are told apart from failing; each may go better next time."""
    killed = failure_of(ran("", exit_code=-9), step(Purpose.ENCODE))
    crashed = failure_of(ran("", exit_code=-11), step(Purpose.ENCODE))
    absent = failure_of(ran("sh: 1: exec: /opt/ffmpeg: not found", exit_code=127), step(Purpose.ENCODE))
    assert {killed.reason, crashed.reason, absent.reason} == {Reason.FFMPEG_FAILED}
    assert "memory runs out" in killed.message
    assert "11" in crashed.message
    assert "/opt/ffmpeg: not found" in absent.message


def test_quote_prefers_the_first_errors() -> None:
    """The cause is quoted without addresses and repeats; mere information only where there is no error."""
    log = "[info] Input #0\n[vf#0:0 @ 0x5] [enc:x @ 0x6] [error] A\n[error] A\n[error] B\n[fatal] C\n[error] D\n"
    assert quote(log) == ": A; B; C"
    assert quote("one\ntwo\nthree\nfour\n") == ": two; three; four"
    assert quote("[info] all is well\n") == ""


_GROUP = MemoryLimit(256 << 20, 576 << 20, "control group", 1)
_RLIMIT = MemoryLimit(256 << 20, 640 << 20, "rlimit", None)


@pytest.mark.parametrize(
    ("log", "exit_code", "memory"),
    [
        ("[info] frame= 12", -9, _GROUP),
        # As x264, FFmpeg and the loader print it under an rlimit; x265 crashes after it.
        ("x264 [error]: malloc of size 26999616 failed\n[error] Error encoding a frame", 187, _RLIMIT),
        ("[error] v.mp4: Cannot allocate memory", 1, _RLIMIT),
        ("ffmpeg: error while loading shared libraries: x: Cannot allocate memory", 127, _RLIMIT),
        ("x265 [error]: malloc of size 25067520 failed", -11, _RLIMIT),
    ],
)
def test_too_little_memory_is_told_with_figures(log: str, exit_code: int, memory: MemoryLimit) -> None:
    """Whatever FFmpeg makes of it: the reason is its own, the words say the limit, the grant and what to do."""
    failure = failure_of(ran(log, exit_code=exit_code), step(Purpose.ENCODE), memory)
    assert failure.reason is Reason.MEMORY_EXCEEDED
    assert f"{memory.limit_bytes >> 20} MiB" in failure.message
    assert "256 MiB were granted" in failure.message
    assert "lighter profile" in failure.message


def test_a_kill_within_the_limit_is_somebody_elses() -> None:
    """The kernel counts what it kills for a group's limit: zero means that somebody else did it."""
    within = MemoryLimit(256 << 20, 576 << 20, "control group", 0)
    failure = failure_of(ran("", exit_code=-9), step(Purpose.ENCODE), within)
    assert failure.reason is Reason.FFMPEG_FAILED
    assert "not over its own limit of 576 MiB" in failure.message
    assert failure_of(ran("malloc of size 1 failed"), step(Purpose.ENCODE)).reason is Reason.FFMPEG_FAILED
