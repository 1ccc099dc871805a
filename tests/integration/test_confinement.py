"""Limits on real processes: the kernel of this machine holds FFmpeg to what it was granted."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.media.confinement import Confinement
from agent.media.delegation import Host, Unusable, own_group
from agent.media.failure import failure_of
from agent.media.runner import Ran
from agent.media.usage import Usage
from presets.plan import Invocation, Purpose, StepResult
from presets.reasons import Reason

SMALL = 64 << 20
USUAL = 256 << 20
_QUIET = ("-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", "level+info")
#: x264 in 4K wants more than a gigabyte.
GREEDY = (
    "ffmpeg",
    *_QUIET,
    "-f",
    "lavfi",
    "-i",
    "testsrc2=size=3840x2160:rate=30",
    "-c:v",
    "libx264",
    "-f",
    "null",
    "-",
)
HONEST = ("ffmpeg", *_QUIET, "-filter_complex_threads", "8", "-f", "lavfi", "-i", "anoisesrc=d=20", "-threads", "8")


@pytest.fixture(scope="module")
def grouped() -> Iterator[Confinement]:
    """The best way of this machine, where it is one with control groups."""
    found = Confinement.find("test")
    if found.groups is None:
        pytest.skip(found.words)
    yield found
    assert found.sweep(()) == []
    found.close()


@pytest.fixture(scope="module")
def limited() -> Confinement:
    """Rlimits, which work everywhere."""
    return Confinement(None, True, (), "")


def started(how: Confinement, attempt: str, *argv: str, memory_bytes: int = USUAL) -> subprocess.Popen[str]:
    words = [*how.prefix(attempt, 1, memory_bytes), *argv]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def failure(how: Confinement, attempt: str, memory_bytes: int) -> tuple[Reason, str]:
    process = started(how, attempt, *GREEDY, memory_bytes=memory_bytes)
    _, log = process.communicate(timeout=120)
    ran = Ran(process.returncode, False, StepResult(None, None), Usage(), log)
    step = Invocation("encode.x.1", Purpose.ENCODE, (), (), None, None, 1.0, False)
    found = failure_of(ran, step, how.memory(attempt, memory_bytes))
    return found.reason, found.message


def test_what_takes_more_than_its_group_may_hold_is_killed_alone(grouped: Confinement) -> None:
    """The failure says so with certainty; a task beside it lives on; one that dies otherwise is not blamed for it."""
    beside = started(grouped, "beside", "sleep", "infinity")
    reason, message = failure(grouped, "greedy", SMALL)
    assert reason is Reason.MEMORY_EXCEEDED
    assert "64 MiB were granted" in message
    assert beside.poll() is None
    grouped.kill("beside")
    assert beside.wait(10) == -signal.SIGKILL
    beside.communicate()
    memory = grouped.memory("beside", USUAL)
    assert memory is not None
    assert memory.kills == 0
    assert grouped.release("greedy")
    assert grouped.release("beside")


def test_what_takes_more_than_its_rlimit_fails_with_the_reason(limited: Confinement) -> None:
    """The encoder is refused the memory, and the failure says why."""
    reason, message = failure(limited, "greedy", SMALL)
    assert reason is Reason.MEMORY_EXCEEDED
    assert "352 MiB" in message


@pytest.mark.parametrize("codec", ["aac", "flac", "libopus", "libmp3lame"])
def test_an_honest_task_does_not_notice(limited: Confinement, codec: str) -> None:
    """The usual grant is enough for audio on eight threads, where the limit is the strictest kind."""
    argv = (*HONEST, "-c:a", codec, "-f", "null", "-")
    process = started(limited, "honest", *argv)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log


def test_a_task_cannot_leave_its_group(grouped: Confinement) -> None:
    """What made a session of its own and outlived its parent is killed with the attempt; nothing is left."""
    process = started(grouped, "escape", "sh", "-c", "setsid sleep infinity & echo $!")
    assert process.stdout is not None
    escaped = Path("/proc", process.stdout.readline().strip())
    assert process.wait(10) == 0
    assert escaped.exists()
    assert grouped.release("escape")
    deadline = time.monotonic() + 10
    while escaped.exists() and escaped.joinpath("stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
    process.communicate()
    assert grouped.groups is not None
    assert grouped.groups.attempts() == []


def test_former_lives_are_swept(grouped: Confinement) -> None:
    """Another life of the same agent finds the groups by its id, ends those not adopted and keeps the others."""
    lost, adopted = (started(grouped, name, "sleep", "infinity") for name in ("lost", "adopted"))
    again = Confinement.find("test")
    stranger = Confinement.find("test2")
    assert stranger.sweep(()) == []
    assert again.sweep({"adopted"}) == ["lost"]
    assert lost.wait(10) == -signal.SIGKILL
    assert adopted.poll() is None
    assert again.release("adopted")
    assert adopted.wait(10) == -signal.SIGKILL
    for process in (lost, adopted):
        process.communicate()


def test_the_command_takes_the_place_of_the_prefix(grouped: Confinement) -> None:
    """Its process id is the one that was started, and it is nicer than the agent."""
    process = started(grouped, "place", "sh", "-c", "echo $$; nice; cat /proc/self/oom_score_adj")
    out, _ = process.communicate(timeout=10)
    own = int(subprocess.run(["nice"], check=True, capture_output=True, text=True).stdout)
    assert out.split() == [str(process.pid), str(min(19, own + 5)), "500"]
    assert grouped.release("place")


def test_the_own_group_of_version_2() -> None:
    """Where the agent was handed a group with a controller of memory, it can limit a process in it."""
    try:
        groups = own_group(Host.here(), "test")
    except Unusable as why:
        pytest.skip(str(why))
    files = groups.make("a1", 1, SMALL)
    assert (files[0].parent / "memory.max").read_text().strip() == str(SMALL)
    assert groups.remove("a1")
