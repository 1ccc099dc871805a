"""Runs one invocation of a plan under a supervisor and watches it; also one that a former life of the agent began."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.media import supervisor
from agent.media.logs import last_bytes, redact
from agent.media.supervised import Exit, Lost, Supervised, status
from presets.capabilities import Binary
from presets.measurement import TAIL_BYTES, parse_progress, step_result
from presets.plan import Invocation, StepResult

#: Files in the folder of a try: what ``-progress pipe:1`` wrote, and the log.
PROGRESS_NAME = supervisor.PROGRESS
LOG_NAME = supervisor.LOG
TRIES = 3
"""How often one step is begun when its supervisor is killed. That costs no attempt, so it must not go on for ever."""

_POLL_S = 0.1
_LOG_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """How an invocation went.

    ``stopped``: on request; ``stalled``: given up because nothing moved; ``lost``: its supervisor was killed as often
    as it was begun. ``stderr_tail`` is the end of the log, secrets removed. ``exit_code`` is minus the signal's number
    where a signal ended it. ``peak_memory_bytes`` is the largest resident set, ``cpu_seconds`` user and system time.
    """

    exit_code: int
    stopped: bool
    stalled: bool
    result: StepResult
    cpu_seconds: float
    peak_memory_bytes: int
    stderr_tail: str
    bytes_read: int = 0
    bytes_written: int = 0
    lost: bool = False

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
    on_begin: Callable[[Path], None],
    on_progress: Callable[[float, float], None],
    stop: asyncio.Event,
    stall_s: float = 120.0,
    grace_s: float = 1.0,
) -> Ran:
    """Runs ``step`` in ``workspace`` and returns when every process of it has ended; failing raises nothing.

    ``directory`` takes its progress and log files; a later try has a directory of its own beside it, and ``on_begin``
    hears of each. One that runs there already, or has ended since, is taken up as it is. ``on_progress`` gets the
    seconds of media put out so far, never falling within a try, and the speed in media seconds per second (0: unknown).
    ``stop`` ends it: TERM, KILL after ``grace_s``. Being cancelled while ``stop`` is not set leaves it running, to be
    taken up later. It is given up as stalled when for ``stall_s`` seconds neither the output time nor a file that it
    writes moved (the files alone move while an MP4's index is put in front).

    :raises ValueError: the step is provisional.
    :raises OSError: no process can be started, or the directory cannot be written.
    """
    if step.provisional:
        raise ValueError(f"step {step.id} is provisional: compile again with the results so far")
    for number in range(1, TRIES + 1):
        folder = directory if number == 1 else directory.with_name(f"{directory.name}.{number}")
        progress = _Progress(folder / PROGRESS_NAME)
        try:
            process = await _begun(folder, [binary.path, *step.argv], workspace, stop)
            on_begin(folder)
            if process is None:
                ended, stalled = await asyncio.to_thread(status, folder), False
                progress.tell(on_progress)
            else:
                writes = [workspace / name for name in step.writes]
                ended, stalled = await _watch(process, progress, writes, on_progress, stop, stall_s, grace_s)
        except Lost:
            if stop.is_set():
                return _lost(stopped=True)
            continue
        return _ran(ended, step, workspace, folder, progress, stalled=stalled)
    return _lost(stopped=False)


def _lost(*, stopped: bool) -> Ran:
    return Ran(-9, stopped, False, StepResult(None, None), 0.0, 0, "", lost=not stopped)


async def _begun(folder: Path, argv: Sequence[str], workspace: Path, stop: asyncio.Event) -> Supervised | None:
    known = await asyncio.to_thread(folder.exists)
    beginning = asyncio.ensure_future(
        Supervised.find(folder) if known else Supervised.start(folder, argv, cwd=workspace)
    )
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        process = await beginning
        if process is not None:
            if stop.is_set():
                await process.stop(0)
            process.let_go()
        raise


def _ran(ended: Exit, step: Invocation, workspace: Path, folder: Path, progress: "_Progress", *, stalled: bool) -> Ran:
    result = StepResult(progress.out_time_s, None)
    if ended.code == 0:
        measured = None
        if step.measure is not None:
            measured = last_bytes(workspace / step.measure, TAIL_BYTES).decode(errors="replace")
        result = step_result(step, progress.out_time_s, measured)
    return Ran(
        exit_code=ended.code,
        # A process that was done before the request reached it was not stopped.
        stopped=ended.stopped_by in {"stop", "signal"} and ended.code != 0 and not stalled,
        stalled=stalled,
        result=result,
        cpu_seconds=ended.cpu_seconds,
        peak_memory_bytes=ended.peak_memory_bytes,
        stderr_tail=redact(last_bytes(folder / LOG_NAME, _LOG_TAIL_BYTES)).decode(errors="replace"),
        bytes_read=ended.bytes_read,
        bytes_written=ended.bytes_written,
    )


async def _watch(
    process: Supervised,
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
            progress.tell(on_progress)
            if exited.done():
                return exited.result(), False
            if stopping.done():
                return await process.stop(grace_s), False
            now = (progress.out_time_s, *(_modified(path) for path in writes))
            if now != seen:
                seen, moved_at = now, loop.time()
            elif loop.time() - moved_at >= stall_s:
                return await process.stop(grace_s), True
    except asyncio.CancelledError:
        if stop.is_set():
            await asyncio.shield(process.stop(0))
        raise
    except Exception:
        # A defect, or a full disk: nobody would watch it any more.
        await asyncio.shield(process.stop(0))
        raise
    finally:
        stopping.cancel()
        exited.cancel()
        process.let_go()


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

    def tell(self, on_progress: Callable[[float, float], None]) -> None:
        """Reads on, and tells where that moved the output time."""
        if self.read() and self.out_time_s is not None:
            on_progress(self.out_time_s, self.speed)

    def _take(self, block: Sequence[str]) -> None:
        out_time_s = parse_progress(block)
        if out_time_s is not None:
            self.out_time_s = max(out_time_s, self.out_time_s or 0.0)
        for line in block:
            if line.startswith("speed="):
                try:
                    self.speed = float(line.removeprefix("speed=").strip().rstrip("x"))
                except ValueError:
                    self.speed = 0.0
