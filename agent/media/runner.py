"""Runs one invocation of a plan and watches it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.media.logs import last_bytes, redact
from agent.media.process import Exit, Process
from presets.capabilities import Binary
from presets.measurement import TAIL_BYTES, parse_frames, parse_progress, step_result
from presets.plan import Invocation, StepResult

#: Files in the directory of a step: what ``-progress pipe:1`` wrote, and the log, whole.
PROGRESS_NAME = "progress"
LOG_NAME = "stderr.log"

_POLL_S = 0.1
_LOG_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """How an invocation went.

    ``stopped``: on request; ``stalled``: given up because nothing moved. ``stderr_tail`` is the end of the log,
    secrets removed. ``exit_code`` is minus the signal's number where a signal ended it. ``peak_memory_bytes`` is
    the largest resident set, ``cpu_seconds`` user and system time.
    """

    exit_code: int
    stopped: bool
    stalled: bool
    result: StepResult
    cpu_seconds: float
    peak_memory_bytes: int
    stderr_tail: str

    @property
    def succeeded(self) -> bool:
        """Whether the invocation ran to its end without an error."""
        return self.exit_code == 0 and not self.stopped and not self.stalled


async def run(
    binary: Binary,
    step: Invocation,
    *,
    workspace: Path,
    directory: Path,
    on_progress: Callable[[float, float], None],
    stop: asyncio.Event,
    stall_s: float = 120.0,
    grace_s: float = 1.0,
) -> Ran:
    """Runs ``step`` in ``workspace`` and returns when every process of it has ended; failing raises nothing.

    ``directory`` takes its progress and log files. ``on_progress`` gets the seconds of media put out so far, never
    falling, and the speed in media seconds per second (0: unknown). ``stop`` ends it: TERM, KILL after ``grace_s``.
    It is given up as stalled when for ``stall_s`` seconds neither the output time nor a file that it writes moved
    (the files alone move while an MP4's index is put in front).

    :raises ValueError: the step is provisional.
    :raises OSError: no process can be started, or the directory cannot be written.
    """
    if step.provisional:
        raise ValueError(f"step {step.id} is provisional: compile again with the results so far")
    progress, log = _Progress(directory / PROGRESS_NAME), directory / LOG_NAME
    process = _start([binary.path, *step.argv], workspace, progress.path, log)
    try:
        exited, stalled = await _watch(
            process, progress, [workspace / name for name in step.writes], on_progress, stop, stall_s, grace_s
        )
    except BaseException:
        # Also when this task is cancelled: nobody would watch the process any more.
        await asyncio.shield(process.stop(0))
        raise
    result = StepResult(progress.out_time_s, None)
    if exited.code == 0:
        measured = None
        if step.measure is not None:
            measured = last_bytes(workspace / step.measure, TAIL_BYTES).decode(errors="replace")
        result = step_result(step, progress.out_time_s, measured, progress.frames)
    return Ran(
        exit_code=exited.code,
        # A process that was done before the request reached it was not stopped.
        stopped=stop.is_set() and exited.code != 0,
        stalled=stalled,
        result=result,
        cpu_seconds=exited.cpu_seconds,
        peak_memory_bytes=exited.peak_memory_bytes,
        stderr_tail=redact(last_bytes(log, _LOG_TAIL_BYTES)).decode(errors="replace"),
    )


def _start(argv: Sequence[str], workspace: Path, progress: Path, log: Path) -> Process:
    log.parent.mkdir(parents=True, exist_ok=True)
    return Process.start(argv, cwd=workspace, stdout=progress, stderr=log)


async def _watch(
    process: Process,
    progress: "_Progress",
    writes: Sequence[Path],
    on_progress: Callable[[float, float], None],
    stop: asyncio.Event,
    stall_s: float,
    grace_s: float,
) -> tuple[Exit, bool]:
    loop = asyncio.get_running_loop()
    exited = loop.create_task(process.wait())
    stopping = loop.create_task(stop.wait())
    seen: tuple[object, ...] = ()
    moved_at = loop.time()
    try:
        while True:
            await asyncio.wait({exited, stopping}, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            process.sample_memory()
            if progress.read() and progress.out_time_s is not None:
                on_progress(progress.out_time_s, progress.speed)
            if exited.done():
                return exited.result(), False
            if stopping.done():
                return await process.stop(grace_s), False
            now = (progress.out_time_s, *(_modified(path) for path in writes))
            if now != seen:
                seen, moved_at = now, loop.time()
            elif loop.time() - moved_at >= stall_s:
                return await process.stop(grace_s), True
    finally:
        stopping.cancel()
        exited.cancel()


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class _Progress:
    """The file that ``-progress`` appends blocks of lines to, each closed by a ``progress=`` line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out_time_s: float | None = None
        self.frames: int | None = None
        self.speed = 0.0
        self._offset = 0
        self._block: list[str] = []
        self._unfinished = ""

    def read(self) -> bool:
        """Takes in what was written since; True if the output time moved."""
        before = self.out_time_s
        with self.path.open("rb") as file:
            file.seek(self._offset)
            written = file.read()
        self._offset += len(written)
        *lines, self._unfinished = (self._unfinished + written.decode("ascii", "replace")).split("\n")
        for line in lines:
            self._block.append(line)
            if line.startswith("progress="):
                self._take(self._block)
                self._block = []
        return self.out_time_s != before

    def _take(self, block: Sequence[str]) -> None:
        out_time_s = parse_progress(block)
        if out_time_s is not None:
            self.out_time_s = max(out_time_s, self.out_time_s or 0.0)
        if (frames := parse_frames(block)) is not None:
            self.frames = frames
        for line in block:
            if line.startswith("speed="):
                try:
                    self.speed = float(line.removeprefix("speed=").strip().rstrip("x"))
                except ValueError:
                    self.speed = 0.0
