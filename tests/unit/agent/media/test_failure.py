"""What FFmpeg's last words are taken to mean."""

import pytest

from agent.media.failure import failure_of, quote
from agent.media.runner import Ran
from presets.plan import Invocation, Purpose, StepResult
from presets.reasons import Reason


def ran(log: str, *, exit_code: int = 1, stalled: bool = False) -> Ran:
    return Ran(exit_code, False, stalled, StepResult(None, None), 0.0, 0, log)


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
    """A run given up as stalled is STALLED, whatever it said."""
    assert failure_of(ran(_CORRUPT_9, stalled=True), step(Purpose.ENCODE)).reason is Reason.STALLED


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
