"""Child processes: their ends, their resources, and that none is left over."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agent.media.process import _UNLESS_ORPHANED, Process

RunInLoop = Callable[[Coroutine[Any, Any, Any]], Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]
NumberIn = Callable[[Path], int]
Alive = Callable[[int], bool]


def start(folder: Path, *argv: str) -> Process:
    return Process.start(argv, cwd=folder, stdout=folder / "stdout", stderr=folder / "stderr")


def test_the_exit_code_comes_back(run_in_loop: RunInLoop, tmp_path: Path) -> None:
    """As the program gave it."""

    async def body() -> int:
        return await start(tmp_path, "sh", "-c", "exit 3").wait()

    assert run_in_loop(body()) == 3


def test_output_goes_to_files_and_input_is_empty(run_in_loop: RunInLoop, tmp_path: Path) -> None:
    """Both outputs land in their files whole; a program that reads its input gets the end of it at once."""

    async def body() -> int:
        return await start(tmp_path, "sh", "-c", "cat; pwd; echo words >&2").wait()

    assert run_in_loop(body()) == 0
    assert (tmp_path / "stdout").read_text() == f"{tmp_path.resolve()}\n"
    assert (tmp_path / "stderr").read_text() == "words\n"


def test_arguments_arrive_as_they_are(run_in_loop: RunInLoop, tmp_path: Path) -> None:
    """No shell reads the arguments: quotes, dollars, blanks and empty ones pass unchanged."""
    hostile = ["a b", "$HOME", "`id`", "'", '"', "", "*", "-c", "--"]

    async def body() -> int:
        return await start(tmp_path, "printf", "%s\\n", *hostile).wait()

    assert run_in_loop(body()) == 0
    assert (tmp_path / "stdout").read_text().split("\n")[:-1] == hostile


def test_secrets_of_the_agent_stay_with_it(
    run_in_loop: RunInLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens and storage credentials in the agent's environment are not passed on; what FFmpeg needs is."""
    monkeypatch.setenv("MEDIACTL_TOKEN", "s3cret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("FFREPORT", "file=report.log")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    async def body() -> int:
        return await start(tmp_path, "env").wait()

    assert run_in_loop(body()) == 0
    environment = dict(line.split("=", 1) for line in (tmp_path / "stdout").read_text().splitlines())
    assert "s3cret" not in environment.values()
    assert "FFREPORT" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["PATH"] == os.environ["PATH"]


def test_stop_ends_the_whole_group(
    run_in_loop: RunInLoop, tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive
) -> None:
    """A program that ignores TERM, and its child, are dead when stop returns."""

    async def body() -> int:
        process = start(tmp_path, "sh", "-c", "trap '' TERM; sleep 300 & echo $! > child; wait; wait; sleep 300")
        await until(lambda: number_in(tmp_path / "child"))
        ended = await process.stop(grace_s=0.1)
        assert not alive(process.pid)
        return ended

    assert run_in_loop(body()) == -signal.SIGKILL
    assert not alive(number_in(tmp_path / "child"))


def test_stop_lets_a_program_finish(run_in_loop: RunInLoop, tmp_path: Path, until: Until, number_in: NumberIn) -> None:
    """A program that acts on TERM within the grace ends its own way, and stop does not wait for the grace to pass."""

    async def body() -> int:
        process = start(
            tmp_path, "sh", "-c", "trap 'echo bye; exit 3' TERM; echo $$ > ready; while :; do sleep 0.01; done"
        )
        await until(lambda: number_in(tmp_path / "ready"))
        async with asyncio.timeout(30):
            return await process.stop(grace_s=60)

    assert run_in_loop(body()) == 3
    assert (tmp_path / "stdout").read_text() == "bye\n"


def test_stop_after_the_end_returns_the_exit(run_in_loop: RunInLoop, tmp_path: Path) -> None:
    """Stopping what has ended tells how it ended, and signals nobody."""

    async def body() -> tuple[int, int]:
        process = start(tmp_path, "sh", "-c", "exit 5")
        return await process.wait(), await process.stop()

    first, second = run_in_loop(body())
    assert first == second
    assert first == 5


def test_what_a_program_leaves_behind_is_killed(
    run_in_loop: RunInLoop, tmp_path: Path, number_in: NumberIn, alive: Alive
) -> None:
    """A child that survives its parent's normal exit is dead when wait returns."""

    async def body() -> int:
        return await start(tmp_path, "sh", "-c", "sleep 300 & echo $! > child").wait()

    assert run_in_loop(body()) == 0
    assert not alive(number_in(tmp_path / "child"))


def test_cancelled_wait_leaves_the_process_alone(run_in_loop: RunInLoop, tmp_path: Path, alive: Alive) -> None:
    """Giving up waiting neither ends the process nor hinders waiting again."""

    async def body() -> int:
        process = start(tmp_path, "sleep", "300")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await process.wait()
        assert alive(process.pid)
        return await process.stop()

    assert run_in_loop(body()) == -signal.SIGTERM


def test_cancelled_stop_kills_at_once(
    run_in_loop: RunInLoop, tmp_path: Path, until: Until, number_in: NumberIn
) -> None:
    """Cancelling a stop that is waiting out its grace kills the process instead of leaving it."""

    async def body() -> int:
        process = start(tmp_path, "sh", "-c", "trap '' TERM; echo $$ > ready; while :; do sleep 300; done")
        await until(lambda: number_in(tmp_path / "ready"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await process.stop(grace_s=300)
        return await process.wait()

    assert run_in_loop(body()) == -signal.SIGKILL


def test_missing_program_ends_with_127(run_in_loop: RunInLoop, tmp_path: Path) -> None:
    """A program that is not there is an exit with words in its error output, not an exception."""

    async def body() -> int:
        return await start(tmp_path, "/nonexistent/ffmpeg").wait()

    assert run_in_loop(body()) == 127
    assert "/nonexistent/ffmpeg" in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_process_dies_with_the_agent(
    tmp_path: Path, loop: str, until: Until, number_in: NumberIn, alive: Alive
) -> None:
    """An agent that is killed outright takes its programs with it, although they have sessions of their own."""
    agent = f"""
import asyncio, uvloop
from pathlib import Path
from agent.media.process import Process
async def main():
    here = Path({str(tmp_path)!r})
    command = ["sh", "-c", "echo $$ > child; exec sleep 300"]
    await Process.start(command, cwd=here, stdout=here / "out", stderr=here / "err").wait()
{loop}.run(main())
"""
    child = tmp_path / "child"
    with subprocess.Popen([sys.executable, "-c", agent], cwd=Path(__file__).parents[4]) as running:
        try:
            asyncio.run(until(lambda: number_in(child)))
            assert alive(number_in(child))
        finally:
            running.kill()
    asyncio.run(until(lambda: not alive(number_in(child))))


def test_command_is_not_run_for_another_parent(tmp_path: Path) -> None:
    """A child whose agent died before the kernel was told to kill it with the agent notices and runs nothing."""
    proof = tmp_path / "ran"
    command = ["sh", "-c", _UNLESS_ORPHANED, "sh"]
    orphaned = subprocess.run([*command, "1", "touch", str(proof)], check=False)
    assert orphaned.returncode != 0
    assert not proof.exists()
    subprocess.run([*command, str(os.getpid()), "touch", str(proof)], check=True)
    assert proof.exists()
