"""Runs one invocation of a plan under a supervisor and watches it; also one that a former life of the agent began."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.media import supervisor
from agent.media.guards import Bounds, Guard, Sample, out_of_time
from agent.media.logs import last_bytes, redact
from agent.media.supervised import Exit, Lost, Supervised, status
from agent.media.usage import Usage
from presets.measurement import TAIL_BYTES, parse_frames, parse_progress, step_result
from presets.plan import Invocation, StepResult
from presets.problems import MediaFailure

#: Files in the folder of a try: what ``-progress pipe:1`` wrote, and the log.
PROGRESS_NAME = supervisor.PROGRESS
LOG_NAME = supervisor.LOG
TRIES = 3
"""How often one step is begun when its supervisor is killed. That costs no attempt, so it must not go on for ever."""

_POLL_S = 0.1
_PROGRESS_BYTES = 64 * 1024
_BLOCK_LINES = 100
_LOG_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """How an invocation went.

    ``stopped``: on request; ``given_up``: why it was ended by a guard, if it was; ``lost``: its supervisor was killed
    as often as it was begun. ``stderr_tail`` is the end of the log, secrets removed. ``exit_code`` is minus the
    signal's number where a signal ended it.
    """

    exit_code: int
    stopped: bool
    result: StepResult
    used: Usage
    stderr_tail: str
    given_up: MediaFailure | None = None
    lost: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether the invocation ran to its end without an error."""
        return self.exit_code == 0 and not self.stopped and self.given_up is None


class Relay:
    """Hands the supervisor of one step on to the next. `close` lets go of the last one."""

    def __init__(self) -> None:
        self._last: Supervised | None = None

    def take(self, ended: Supervised) -> None:
        self.close()
        self._last = ended

    def give(self) -> Supervised | None:
        last, self._last = self._last, None
        return last

    def close(self) -> None:
        if (last := self.give()) is not None:
            last.let_go()


async def run(
    argv: Sequence[str],
    step: Invocation,
    *,
    workspace: Path,
    directory: Path,
    on_begin: Callable[[Path], None],
    on_progress: Callable[[float, float], None],
    stop: asyncio.Event,
    bounds: Bounds,
    relay: Relay,
    room: Callable[[], int | None] = lambda: None,
    grace_s: float = 1.0,
) -> Ran:
    """Runs ``step`` by ``argv`` in ``workspace`` and returns when all of it has ended; failing raises nothing.

    ``directory`` takes its progress and log files; a later try has a directory of its own beside it, and ``on_begin``
    hears of each. One that runs there already, or has ended since, is taken up as it is. ``on_progress`` gets the
    seconds of media put out so far, never falling within a try, and the speed in media seconds per second (0: unknown).
    ``stop`` ends it: TERM, KILL after ``grace_s``. Being cancelled while ``stop`` is not set leaves it running, to be
    taken up later. It is given up when it leaves ``bounds``, or will not find ``room`` (bytes it may still write; None:
    not known); its time is bounded also while nobody watches it.

    :raises ValueError: the step is provisional.
    :raises OSError: no process can be started, or the directory cannot be written.
    """
    if step.provisional:
        raise ValueError(f"step {step.id} is provisional: compile again with the results so far")
    for number in range(1, TRIES + 1):
        folder = directory if number == 1 else directory.with_name(f"{directory.name}.{number}")
        progress = _Progress(folder / PROGRESS_NAME)
        try:
            process = await _begun(folder, argv, workspace, bounds, stop, relay)
            on_begin(folder)
            if process is None:
                ended, given_up = await asyncio.to_thread(status, folder), None
                progress.tell(on_progress)
            else:
                process.stay()
                watched = _Watched(process, progress, step, workspace, bounds, room)
                ended, given_up = await watched.to_its_end(on_progress, stop, grace_s)
                relay.take(process)
        except Lost:
            if stop.is_set():
                return _lost(stopped=True)
            continue
        if ended.stopped_by == "wall_time":
            given_up = out_of_time(step, bounds, progress.out_time_s)
        # What a measurement of hours wrote takes seconds to read.
        return await asyncio.to_thread(_ran, ended, step, workspace, folder, progress, given_up)
    return _lost(stopped=False)


def _lost(*, stopped: bool) -> Ran:
    return Ran(-9, stopped, StepResult(None, None), Usage(), "", lost=not stopped)


async def _begun(
    folder: Path, argv: Sequence[str], workspace: Path, bounds: Bounds, stop: asyncio.Event, relay: Relay
) -> Supervised | None:
    known = await asyncio.to_thread(folder.exists)
    beginning = asyncio.ensure_future(
        Supervised.find(folder)
        if known
        else Supervised.start(folder, argv, cwd=workspace, wall_s=bounds.wall_s, after=relay.give())
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


def _ran(
    ended: Exit,
    step: Invocation,
    workspace: Path,
    folder: Path,
    progress: "_Progress",
    given_up: MediaFailure | None,
) -> Ran:
    result = StepResult(progress.out_time_s, None)
    if ended.code == 0:
        measured = None
        if step.measure is not None:
            measured = last_bytes(workspace / step.measure, TAIL_BYTES).decode(errors="replace")
        result = step_result(
            step, progress.out_time_s, measured, progress.frames, lambda name: (workspace / name).open(errors="replace")
        )
    return Ran(
        exit_code=ended.code,
        # A process that was done before the request reached it was not stopped.
        stopped=ended.stopped_by in {"stop", "signal"} and ended.code != 0 and given_up is None,
        result=result,
        used=ended.used,
        stderr_tail=redact(last_bytes(folder / LOG_NAME, _LOG_TAIL_BYTES)).decode(errors="replace"),
        given_up=given_up,
    )


class _Watched:
    """A step that runs, and the guard that looks after it."""

    def __init__(
        self,
        process: Supervised,
        progress: "_Progress",
        step: Invocation,
        workspace: Path,
        bounds: Bounds,
        room: Callable[[], int | None],
    ) -> None:
        self._process = process
        self._progress = progress
        self._writes = [workspace / name for name in step.writes]
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._guard = Guard(step, bounds, self._loop.time())

    async def to_its_end(
        self, on_progress: Callable[[float, float], None], stop: asyncio.Event, grace_s: float
    ) -> tuple[Exit, MediaFailure | None]:
        process = self._process
        exited = self._loop.create_task(process.wait())
        stopping = self._loop.create_task(stop.wait())
        try:
            while True:
                await asyncio.wait({exited, stopping}, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
                self._progress.tell(on_progress)
                if exited.done():
                    return exited.result(), None
                if stopping.done():
                    return await process.stop(grace_s), None
                if (why := self._guard.judge(self._sample())) is not None:
                    return await process.stop(grace_s), why
        except asyncio.CancelledError:
            if stop.is_set():
                await asyncio.shield(process.stop(0))
            process.let_go()
            raise
        except Exception:
            # A defect, or a full disk: nobody would watch it any more.
            await asyncio.shield(process.stop(0))
            process.let_go()
            raise
        finally:
            stopping.cancel()
            exited.cancel()

    def _sample(self) -> Sample:
        sizes = [found for path in self._writes if (found := _status_of(path)) is not None]
        return Sample(
            at_s=self._loop.time(),
            out_time_s=self._progress.out_time_s,
            written_bytes=sum(found.st_size for found in sizes),
            touched_ns=max((found.st_mtime_ns for found in sizes), default=0),
            cpu_seconds=self._process.usage().cpu_seconds,
            room_bytes=self._room(),
        )


def _status_of(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


class _Progress:
    """The file that ``-progress`` appends blocks of lines to, each closed by a ``progress=`` line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out_time_s: float | None = None
        self.frames: int | None = None
        self.speed = 0.0
        self._offset = 0
        self._block: deque[str] = deque(maxlen=_BLOCK_LINES)
        self._unfinished = ""

    def read(self) -> bool:
        """Takes in what was written since; True if the output time moved."""
        before = self.out_time_s
        with self.path.open("rb") as file:
            # The latest is all that counts. More comes only of what floods its output, or after a long absence.
            if (late := os.fstat(file.fileno()).st_size - _PROGRESS_BYTES) > self._offset:
                self._offset, self._unfinished = late, ""
                self._block.clear()
            file.seek(self._offset)
            written = file.read(_PROGRESS_BYTES)
        self._offset += len(written)
        text = self._unfinished[-_PROGRESS_BYTES:] + written.decode("ascii", "replace")
        *lines, self._unfinished = text.split("\n")
        for line in lines:
            self._block.append(line)
            if line.startswith("progress="):
                self._take(list(self._block))
                self._block.clear()
        return self.out_time_s != before

    def tell(self, on_progress: Callable[[float, float], None]) -> None:
        """Reads on, and tells where that moved the output time."""
        if self.read() and self.out_time_s is not None:
            on_progress(self.out_time_s, self.speed)

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
