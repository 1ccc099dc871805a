"""Supervisors: what they start, keep, count and end, and what of them another life of the agent finds."""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agent.media import supervised, supervisor
from agent.media.supervised import CannotStart, Exit, Lost, Supervised, end_steps, status
from agent.media.supervisor import LOG, REQUEST, SOCKET, STATUS

Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]
NumberIn = Callable[[Path], int]
Alive = Callable[[int], bool]


async def carried_out(folder: Path, *argv: str, wall_s: float | None = None) -> Exit:
    process = await Supervised.start(folder / "step", argv, cwd=folder, wall_s=wall_s)
    return await process.wait() if process is not None else status(folder / "step")


async def test_what_it_used_is_told(tmp_path: Path) -> None:
    """Exit code, CPU time, the largest memory, bytes moved: of the command, not of who started it."""
    code = (
        "import sys, time\n"
        "b = bytearray(200_000_000)\n"
        "while time.process_time() < 0.3: pass\n"
        "open('out', 'wb').write(b[:5_000_000])\n"
        "sys.exit(3)\n"
    )
    ended = await carried_out(tmp_path, sys.executable, "-I", "-S", "-c", code)
    assert ended.code == 3
    assert 0.3 <= ended.used.cpu_seconds < 10
    assert 200_000_000 <= ended.used.peak_memory_bytes < 300_000_000
    assert 5_000_000 <= ended.used.bytes_written < 6_000_000
    assert ended.used.bytes_read > 0
    assert ended.stopped_by == ""


async def test_the_agent_is_not_counted(tmp_path: Path) -> None:
    """A small program under a large agent is small."""
    ballast = bytearray(100_000_000)
    ended = await carried_out(tmp_path, "true")
    assert 0 < ended.used.peak_memory_bytes < 50_000_000
    assert len(ballast) > ended.used.peak_memory_bytes


async def test_a_runaway_log_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning and end are kept, how much is missing between them is noted, and the command goes on undisturbed."""
    monkeypatch.setattr(supervised, "LOG_BYTES", 300_000)
    ended = await carried_out(tmp_path, "sh", "-c", "yes 0123456789 | head -c 5000000 >&2; echo the end >&2; exit 4")
    assert ended.code == 4
    log = (tmp_path / "step" / LOG).read_bytes()
    beginning, _, rest = log.partition(b"\n[")
    missing, _, end = rest.partition(b" bytes of the log are left out here: it outgrew its cap]\n")
    assert beginning == (b"0123456789\n" * 5000)[: 300_000 - 256 * 1024]
    assert end.startswith(b"0123456789\n")
    assert end.endswith(b"the end\n")
    assert len(beginning) + int(missing) + len(end) == 5_000_000 + len(b"the end\n")
    assert len(log) < 300_000 + 80


async def test_the_next_command_by_the_same_supervisor(tmp_path: Path) -> None:
    """It is asked, not started anew; each command's log, status and environment are its own, and final when it ends."""
    say = ("sh", "-c", "echo $MEDIACTL_STEP said $0 >&2; sleep 0.1; exit $0")
    pids, marks = set(), set()
    process = None
    for code in range(3, 6):
        folder = tmp_path / str(code)
        process = await Supervised.start(folder, [*say, str(code)], cwd=tmp_path, after=process)
        assert process is not None
        process.stay()
        assert (await process.wait()).code == code
        mark, said = (folder / LOG).read_text().split(" ", 1)
        assert said == f"said {code}\n"
        assert not (folder / SOCKET).exists()
        pids.add(process._pid)
        marks.add(mark)
    assert process is not None
    process.let_go()
    assert len(pids) == 1
    assert len(marks) == 3


async def test_who_stays_ends_with_whom_it_stays_for(tmp_path: Path, until: Until, alive: Alive) -> None:
    """However the agent ends, nothing of it is left."""
    process = await Supervised.start(tmp_path / "step", ["sleep", "0.1"], cwd=tmp_path)
    assert process is not None
    process.stay()
    await process.wait()
    assert alive(process._pid)
    process.let_go()
    await until(lambda: not alive(process._pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_who_stayed_and_answers_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until, alive: Alive, number: signal.Signals
) -> None:
    """Another supervisor takes the command, and it is run once."""
    monkeypatch.setattr(supervised, "ANSWER_S", 0.5)
    first = await Supervised.start(tmp_path / "first", ["sleep", "0.1"], cwd=tmp_path)
    assert first is not None
    first.stay()
    await first.wait()
    os.kill(first._pid, number)
    if number is not signal.SIGSTOP:
        await until(lambda: not alive(first._pid))
    second = await Supervised.start(
        tmp_path / "second", ["sh", "-c", "echo once >&2; sleep 0.1"], cwd=tmp_path, after=first
    )
    assert second is not None
    assert second._pid != first._pid
    assert (await second.wait()).code == 0
    second.let_go()
    assert (tmp_path / "second" / LOG).read_text() == "once\n"
    await until(lambda: not alive(first._pid))


async def test_what_the_next_cannot_start_is_told(tmp_path: Path) -> None:
    """As of the first command, and by a supervisor of its own."""
    first = await Supervised.start(tmp_path / "first", ["sleep", "0.1"], cwd=tmp_path)
    assert first is not None
    first.stay()
    await first.wait()
    with pytest.raises(CannotStart, match="No such file"):
        await Supervised.start(tmp_path / "second", ["true"], cwd=tmp_path / "nowhere", after=first)


async def test_the_time_allowed(tmp_path: Path) -> None:
    """Also with nobody connected, a command ends when its time is over."""
    ended = await carried_out(tmp_path, "sleep", "300", wall_s=0.2)
    assert (ended.code, ended.stopped_by) == (-signal.SIGTERM, "wall_time")


async def test_stopping_ends_the_whole_tree(tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive) -> None:
    """What ignores TERM is killed, what moved to a session of its own as well, before the stop is called done."""
    script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > far; sleep 300' & echo $$ > near; sleep 300"
    process = await Supervised.start(tmp_path / "step", ["sh", "-c", script], cwd=tmp_path)
    assert process is not None
    far, near = tmp_path / "far", tmp_path / "near"
    await until(lambda: number_in(far) and number_in(near))
    ended = await process.stop(0.1)
    assert (ended.code, ended.stopped_by) == (-signal.SIGKILL, "stop")
    assert not alive(number_in(far))
    assert not alive(number_in(near))


async def test_term_is_enough_for_who_heeds_it(tmp_path: Path) -> None:
    """A command may end its own way."""
    script = "trap 'exit 7' TERM; while :; do sleep 0.01; done"
    process = await Supervised.start(tmp_path / "step", ["sh", "-c", script], cwd=tmp_path)
    assert process is not None
    await asyncio.sleep(0.1)
    assert (await process.stop(10)).code in (7, -signal.SIGTERM)


async def test_found_again_in_a_deep_folder(tmp_path: Path) -> None:
    """The path may be longer than a socket's address; several may be connected."""
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    first = await Supervised.start(folder / "step", ["sleep", "300"], cwd=folder)
    second = await Supervised.find(folder / "step")
    assert first is not None
    assert second is not None
    stopped, seen = await asyncio.gather(first.stop(0), second.wait())
    assert stopped == seen
    assert await Supervised.find(folder / "step") is None


async def test_what_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is none ends with 127 and says why; a supervisor that can't begin tells the error."""
    assert (await carried_out(tmp_path, str(tmp_path / "nothing"))).code == 127
    assert b"nothing" in (tmp_path / "step" / LOG).read_bytes()
    with pytest.raises(CannotStart) as refused:
        await Supervised.start(tmp_path / "other", ["true"], cwd=tmp_path / "nowhere")
    assert refused.value.errno == errno.ENOENT


async def test_who_was_taken_for_dead_does_not_begin(tmp_path: Path) -> None:
    """A supervisor that was slow to start finds that another life of the agent has given it up."""
    supervised._prepare(tmp_path / "step", ["touch", "made"], tmp_path, None)
    with pytest.raises(Lost):
        status(tmp_path / "step")
    assert await supervised._started(tmp_path / "step") != 0
    assert not (tmp_path / "made").exists()


async def test_a_supervisor_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until, number_in: NumberIn, alive: Alive
) -> None:
    """One that holds its lock and answers nobody is killed, whether it hangs before or after it was found."""
    monkeypatch.setattr(supervised, "ANSWER_S", 0.3)
    for name in ("found", "not found"):
        pid = tmp_path / f"{name}.pid"
        script = f"echo $$ > '{pid}'; sleep 300"
        process = await Supervised.start(tmp_path / name, ["sh", "-c", script], cwd=tmp_path)
        assert process is not None
        await until(lambda pid=pid: number_in(pid))  # type: ignore[misc]
        [watching] = _running(tmp_path / name)
        os.kill(watching, signal.SIGSTOP)
        if name == "found":
            with pytest.raises(Lost):
                await process.stop(0)
        else:
            process.let_go()
            assert await Supervised.find(tmp_path / name) is None
            with pytest.raises(Lost):
                status(tmp_path / name)
        assert not alive(watching)
        assert not alive(number_in(pid))


async def test_who_hangs_up_at_once_harms_nobody(tmp_path: Path) -> None:
    """As an agent does that is killed while it connects: the command goes on."""
    process = await Supervised.start(tmp_path / "step", ["sleep", "300"], cwd=tmp_path)
    assert process is not None
    with contextlib.chdir(tmp_path / "step"):
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(SOCKET)
    assert (await process.stop(0)).code == -signal.SIGKILL


async def test_a_folder_that_is_removed(tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive) -> None:
    """Nobody could find what runs there any more: it ends by itself."""
    script = f"echo $$ > '{tmp_path / 'pid'}'; sleep 300"
    process = await Supervised.start(tmp_path / "step", ["sh", "-c", script], cwd=tmp_path)
    assert process is not None
    process.let_go()
    await until(lambda: number_in(tmp_path / "pid"))
    shutil.rmtree(tmp_path / "step")
    await until(lambda: not alive(number_in(tmp_path / "pid")))


async def test_what_escapes_and_writes_for_ever(tmp_path: Path, until: Until, number_in: NumberIn) -> None:
    """A process without the mark in a session of its own cannot be found; the end of the step does not wait for it."""
    escape = f"env -i setsid sh -c 'echo $$ > {tmp_path / 'pid'}; exec yes' >&2 & sleep 0.2"
    try:
        async with asyncio.timeout(10):
            assert (await carried_out(tmp_path, "sh", "-c", escape)).code == 0
    finally:
        await until(lambda: number_in(tmp_path / "pid"))
        with contextlib.suppress(ProcessLookupError):
            os.kill(number_in(tmp_path / "pid"), signal.SIGKILL)


@pytest.mark.parametrize("said", [b"", b"[1]", b"{}", b"\0" * 512])
async def test_a_damaged_status(tmp_path: Path, said: bytes) -> None:
    """It says nothing, as if there were none: the step is to be begun anew."""
    await carried_out(tmp_path, "true")
    (tmp_path / "step" / STATUS).write_bytes(said)
    with pytest.raises(Lost):
        status(tmp_path / "step")
    await end_steps(tmp_path)


async def test_ending_all_steps(tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive) -> None:
    """Whatever runs below a folder, under supervisors or orphaned by a killed one, has ended afterwards."""
    for name in ("one", "two"):
        script = f"setsid sh -c 'echo $$ > {name}; exec sleep 300' & sleep 300"
        process = await Supervised.start(tmp_path / "steps" / name, ["sh", "-c", script], cwd=tmp_path)
        assert process is not None
        process.let_go()
    pids = [tmp_path / name for name in ("one", "two")]
    await until(lambda: all(number_in(pid) for pid in pids))
    await end_steps(tmp_path / "steps")
    assert not any(alive(number_in(pid)) for pid in pids)
    assert all((tmp_path / "steps" / name / STATUS).exists() for name in ("one", "two"))
    assert all((tmp_path / "steps" / name / REQUEST).exists() for name in ("one", "two"))
    await end_steps(tmp_path / "steps")
    await end_steps(tmp_path / "absent")


def test_it_needs_nothing_but_the_standard_library() -> None:
    """One file, which an upgrade may replace beneath a running one: nothing is imported later, nothing of ours ever."""
    source = Path(str(supervisor.__file__)).read_text()
    imports = [line for line in source.splitlines() if re.match(r"\s*(import|from) ", line)]
    assert all(line.startswith("import ") for line in imports)
    assert {line.split()[1] for line in imports} <= sys.stdlib_module_names


async def test_it_is_small(tmp_path: Path) -> None:
    """At most 12 MB of memory for each that watches."""
    process = await Supervised.start(tmp_path / "step", ["sleep", "300"], cwd=tmp_path)
    assert process is not None
    [watching] = _running(tmp_path / "step")
    resident = next(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{watching}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )
    assert resident <= 12_000_000
    await process.stop(0)


def _running(folder: Path) -> list[int]:
    """Processes that were started with a folder as their last word."""
    entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [int(entry.name) for entry in entries if _command(entry).endswith(os.fsencode(folder) + b"\0")]


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""
