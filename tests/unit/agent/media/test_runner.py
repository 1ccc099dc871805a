"""Running an invocation: progress, stopping, stalling and what comes back, with scripts in FFmpeg's place."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.media.guards import Bounds
from agent.media.runner import LOG_NAME, PROGRESS_NAME, Ran, Relay, _Progress, run
from agent.media.supervisor import SOCKET, STATUS
from presets.plan import Invocation, Purpose, StepResult
from presets.reasons import Reason

Script = Callable[[str], str]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]
NumberIn = Callable[[Path], int]
Alive = Callable[[int], bool]


def invocation(*, writes: tuple[str, ...] = (), measure: str | None = None, provisional: bool = False) -> Invocation:
    return Invocation(
        id="encode",
        purpose=Purpose.ENCODE,
        argv=("-i", "in/0"),
        writes=writes,
        measure=measure,
        media_s=10.0,
        weight=1.0,
        provisional=provisional,
    )


async def carry_out(
    program: str,
    workspace: Path,
    step: Invocation | None = None,
    *,
    on_begin: Callable[[Path], None] = lambda _folder: None,
    on_progress: Callable[[float, float], None] = lambda _time, _speed: None,
    stop: asyncio.Event | None = None,
    stall_s: float = 60.0,
    wall_s: float | None = None,
) -> Ran:
    with closing(Relay()) as relay:
        return await run(
            [program, "-i", "in/0"],
            step or invocation(),
            workspace=workspace,
            directory=workspace / "steps" / "01-encode",
            on_begin=on_begin,
            on_progress=on_progress,
            stop=stop or asyncio.Event(),
            bounds=Bounds(stall_s=stall_s, wall_s=wall_s),
            relay=relay,
        )


def block(out_time_us: str, speed: str = "2.5x", progress: str = "continue") -> str:
    return f"printf 'frame=1\\nout_time_us={out_time_us}\\nspeed={speed}\\nprogress={progress}\\n'\n"


BACK_AND_FORTH = (
    "out_time_us=1000000\nspeed=N/A\nprogress=continue\n",
    "out_time_us=3000000\nspeed= 4x\nprogress=end\n",
)


async def test_a_survey_is_read_whole(script: Script, tmp_path: Path) -> None:
    """Not its end alone, as of other measurements."""
    heard = "".join(f"lavfi.r128.M={level}\n" for level in [-20] * 30 + [-50] * 3 + [-20] * 3000)
    (tmp_path / "survey.txt").write_text(heard)
    step = replace(invocation(writes=("survey.txt",), measure="survey.txt"), purpose=Purpose.SURVEY)
    ran = await carry_out(script(block("9000000", progress="end")), tmp_path, step)
    assert ran.result.survey is not None
    assert ran.result.survey.pause_s == (2.7, 3.3)
    assert (ran.result.out_time_s, ran.result.loudness) == (9.0, None)


async def test_progress_and_result(script: Script, tmp_path: Path) -> None:
    """The last output time and number of frames are the result's; what has no time yet tells nothing."""
    seen: list[tuple[float, float]] = []
    program = script(block("N/A", "N/A") + block("1500000", " 1.5x") + block("9000000", "3e+02x", "end"))
    ran = await carry_out(program, tmp_path, on_progress=lambda *at: seen.append(at))
    assert ran.succeeded
    assert ran.result == StepResult(9.0, None, 1)
    assert seen[-1] == (9.0, 300.0)
    assert (tmp_path / "steps" / "01-encode" / PROGRESS_NAME).exists()


async def test_progress_arrives_while_it_runs(
    script: Script, tmp_path: Path, until: Until, let_go_on: Callable[[], None]
) -> None:
    """Output times are told as they come."""
    seen: list[float] = []
    step = "read line < go\n"
    program = script(block("2000000") + step + block("3000000") + step)
    running = asyncio.create_task(carry_out(program, tmp_path, on_progress=lambda at, _: seen.append(at)))
    await until(lambda: seen == [2.0])
    let_go_on()
    await until(lambda: seen == [2.0, 3.0])
    let_go_on()
    assert (await running).succeeded


def test_progress_never_falls(tmp_path: Path) -> None:
    """An output time that goes back is passed over; half a line and half a block wait for the rest."""
    file = tmp_path / PROGRESS_NAME
    file.touch()
    progress = _Progress(file)
    seen = []
    for text in ("out_time_us=20", "00000\nspeed=2x\n", "progress=continue\n", *BACK_AND_FORTH):
        with file.open("a") as written:
            written.write(text)
        seen.append((progress.read(), progress.out_time_s, progress.speed))
    assert seen == [
        (False, None, 0.0),
        (False, None, 0.0),
        (True, 2.0, 2.0),
        (False, 2.0, 0.0),
        (True, 3.0, 4.0),
    ]


def test_a_flood_instead_of_progress_is_skipped(tmp_path: Path) -> None:
    """However much a program puts out: a look takes no longer and keeps no more of it, and the latest counts."""
    file = tmp_path / "progress"
    with file.open("wb") as flood:
        for _ in range(20):
            flood.write(b"x\n" * 500_000)
        flood.write(b"y" * 300_000)
    progress = _Progress(file)
    begun = time.process_time()
    assert not progress.read()
    with file.open("ab") as more:
        more.write(b"\nframe=9\nout_time_us=7000000\nprogress=continue\n")
    assert progress.read()
    assert time.process_time() - begun < 1
    assert (progress.out_time_s, progress.frames) == (7.0, 9)


async def test_failure_is_no_exception(script: Script, tmp_path: Path) -> None:
    """A nonzero exit comes back with the end of the log, secrets removed; the log itself stays whole."""
    program = script("echo 'https://h/x?token=t0p server said no' >&2; exit 3")
    ran = await carry_out(program, tmp_path)
    assert (ran.exit_code, ran.succeeded, ran.stopped, ran.given_up) == (3, False, False, None)
    assert ran.stderr_tail == "https://h/x?token=*** server said no\n"
    assert b"t0p" in (tmp_path / "steps" / "01-encode" / LOG_NAME).read_bytes()


async def test_stop_on_request(script: Script, tmp_path: Path) -> None:
    """Setting the event ends the run soon, and says that it was stopped."""
    stop = asyncio.Event()
    program = script(block("1000000") + "exec sleep 300")
    started = time.monotonic()
    ran = await carry_out(program, tmp_path, on_progress=lambda *_: stop.set(), stop=stop)
    assert ran.stopped
    assert not ran.succeeded
    assert time.monotonic() - started < 20


async def test_stall_is_given_up(script: Script, tmp_path: Path) -> None:
    """A run of which nothing moves for the given time is ended and called stalled."""
    ran = await carry_out(script(block("1000000") + "exec sleep 300"), tmp_path, stall_s=0.3)
    assert ran.given_up is not None
    assert ran.given_up.reason is Reason.STALLED
    assert not ran.succeeded
    assert not ran.stopped


async def test_time_is_bounded_while_nobody_watches(script: Script, tmp_path: Path, until: Until) -> None:
    """The supervisor ends what takes too long, and whoever comes back finds out why."""
    program = script(block("1000000") + "echo > begun; exec sleep 300")
    task = asyncio.create_task(carry_out(program, tmp_path, wall_s=0.5))
    await until((tmp_path / "begun").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until((tmp_path / "steps" / "01-encode" / STATUS).exists)
    ran = await carry_out(program, tmp_path, wall_s=0.5)
    assert ran.given_up is not None
    assert ran.given_up.reason is Reason.TIMED_OUT


async def test_growing_file_is_no_stall(script: Script, tmp_path: Path) -> None:
    """A file that is still being written counts as movement when the output time stands still."""
    program = script(block("1000000") + "for i in $(seq 32); do echo $i >> out; sleep 0.05; done")
    ran = await carry_out(program, tmp_path, invocation(writes=("out",)), stall_s=1.0)
    assert ran.succeeded


async def test_cancelling_while_it_is_to_stop_kills_the_program(
    script: Script, tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive
) -> None:
    """Nothing is left running when the task that runs it is cancelled because it must end."""
    stop = asyncio.Event()
    task = asyncio.create_task(carry_out(script("echo $$ > pid; exec sleep 300"), tmp_path, stop=stop))
    pid = tmp_path / "pid"
    await until(lambda: number_in(pid))
    stop.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(number_in(pid))


async def left_running(program: str, workspace: Path, ready: Callable[[], object], until: Until) -> None:
    task = asyncio.create_task(carry_out(program, workspace))
    await until(ready)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_left_running_is_taken_up(
    script: Script, tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive, let_go_on: Callable[[], None]
) -> None:
    """Cancelled without a stop, the program goes on; running the step again finds it, and nothing is begun twice."""
    program = script("echo $$ >> pid\n" + block("1000000") + "read line < go\n" + block("2000000", progress="end"))
    pid = tmp_path / "pid"
    await left_running(program, tmp_path, lambda: number_in(pid), until)
    assert alive(number_in(pid))
    again = asyncio.create_task(carry_out(program, tmp_path))
    let_go_on()
    ran = await again
    assert ran.succeeded
    assert ran.result.out_time_s == 2.0
    assert len(pid.read_text().split()) == 1


async def test_what_ended_meanwhile_is_taken_as_it_ended(
    script: Script, tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive, let_go_on: Callable[[], None]
) -> None:
    """The result of a program that ended while nobody watched is the same as if somebody had."""
    program = script("echo $$ >> pid\nread line < go\n" + block("2000000", progress="end") + "echo no >&2; exit 3")
    pid = tmp_path / "pid"
    await left_running(program, tmp_path, lambda: number_in(pid), until)
    let_go_on()
    await until(lambda: not alive(number_in(pid)))
    ran = await carry_out(program, tmp_path)
    assert (ran.exit_code, ran.result.out_time_s, ran.stderr_tail) == (3, 2.0, "no\n")
    assert len(pid.read_text().split()) == 1


async def test_a_killed_supervisor_takes_its_program_along(
    script: Script, tmp_path: Path, until: Until, alive: Alive
) -> None:
    """The step begins anew in a folder of its own, a few times; what moved to another session dies as well."""
    begun: list[Path] = []
    program = script("setsid sleep 300 &\necho $! >> pid; echo $$ >> pid; sleep 300")
    pid = tmp_path / "pid"
    task = asyncio.create_task(carry_out(program, tmp_path, on_begin=begun.append))
    for count in (1, 2, 3):
        await until(lambda count=count: pid.exists() and len(pid.read_text().split()) == 2 * count)  # type: ignore[misc]
        await until(lambda count=count: len(begun) == count)  # type: ignore[misc]
        os.kill(await supervisor_of(begun[-1]), signal.SIGKILL)
    ran = await task
    assert ran.lost
    assert [folder.name for folder in begun] == ["01-encode", "01-encode.2", "01-encode.3"]
    assert not any(alive(int(number)) for number in pid.read_text().split())


async def supervisor_of(folder: Path) -> int:
    reader, writer = await asyncio.open_unix_connection(os.path.relpath(folder / SOCKET))
    greeting = json.loads(await reader.readline())
    writer.close()
    return int(greeting["pid"])


async def test_failing_callback_kills_the_program(
    script: Script, tmp_path: Path, number_in: NumberIn, alive: Alive
) -> None:
    """An error in the caller's own code does not leave the program running."""

    def broken(_time: float, _speed: float) -> None:
        raise RuntimeError("broken")

    program = script("echo $$ > pid\n" + block("1000000") + "exec sleep 300")
    with pytest.raises(RuntimeError, match="broken"):
        await carry_out(program, tmp_path, on_progress=broken)
    assert not alive(number_in(tmp_path / "pid"))


async def test_measurement_is_read(script: Script, tmp_path: Path) -> None:
    """The loudness that the invocation wrote into its file is part of the result, its padding is not."""
    frame = "frame:{n} pts:{n}\\nlavfi.r128.I={i}\\nlavfi.r128.LRA=4.5\\nlavfi.r128.true_peaks_ch0={peak}\\n"
    text = frame.format(n=1, i="-23.456", peak="0.5") + frame.format(n=2, i="-23.500", peak="0.5")
    program = script(block("10100000", progress="end") + f"printf '{text}' > steps/loudness.txt")
    ran = await carry_out(program, tmp_path, invocation(measure="steps/loudness.txt"))
    assert ran.result.out_time_s == pytest.approx(10.0)
    assert ran.result.loudness is not None
    assert ran.result.loudness.integrated_lufs == -23.456
    assert ran.result.loudness.true_peak_dbtp == pytest.approx(-6.02, abs=0.01)


async def test_provisional_step_is_refused(tmp_path: Path) -> None:
    """An invocation that still contains placeholders is never run."""
    with pytest.raises(ValueError, match="provisional"):
        await carry_out("/bin/false", tmp_path, invocation(provisional=True))
