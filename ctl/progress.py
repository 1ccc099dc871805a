"""How far jobs have come: bars on a terminal, nothing elsewhere. All of it on stderr."""

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from ctl import render
from ctl.settings import Settings
from mediactl.v1 import job_pb2

_WAITS: Final[Mapping[int, str]] = {
    job_pb2.JOB_STATE_BLOCKED: "waits for other jobs",
    job_pb2.JOB_STATE_HELD: "paused",
    job_pb2.JOB_STATE_PENDING: "waiting for an agent",
}


class Progress:
    """A bar for each job while the context is open. `title` of a job is what a person knows it by."""

    def __init__(self, settings: Settings, titles: dict[str, str]) -> None:
        self._console = render.console(settings, stderr=True)
        self._quiet = settings.quiet
        self._titles = titles
        self._tasks: dict[str, TaskID] = {}
        self._failures: dict[str, str] = {}
        self._bars: Bars | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal and not settings.quiet:
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[activity]}", markup=False),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
            for job_id, title in self._titles.items():
                self._tasks[job_id] = self._bars.add_task(
                    render.plain(title), total=1.0, activity=_WAITS[job_pb2.JOB_STATE_PENDING]
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def moved(self, progress: job_pb2.Progress) -> None:
        """Shows a job's progress."""
        speed = f" ({progress.speed:.0f}× real time)" if progress.speed >= 1 else ""
        self._show(progress.job_id, progress.fraction, f"{render.plain(progress.activity)}{speed}")

    def happened(self, event: job_pb2.Event) -> None:
        """Shows what an event changes; a try that failed is said in words, as the job goes on."""
        if event.job_state == job_pb2.JOB_STATE_COMPLETED:
            self._show(event.job_id, 1.0, "done")
        elif event.job_state == job_pb2.JOB_STATE_FAILED:
            self._show(event.job_id, 0.0, f"will be tried again: {event.reason}")
            # The same again and again is news once; how often it was, the verdict tells.
            if self._failures.get(event.job_id) != event.message:
                self._failures[event.job_id] = event.message
                self.say(f"{self._titles.get(event.job_id, event.job_id)}: {event.message}; it will be tried again")
        elif event.job_state in {job_pb2.JOB_STATE_DEAD, job_pb2.JOB_STATE_CANCELLED}:
            self._show(event.job_id, None, render.state_word(event.job_state))
        elif event.job_state in _WAITS:
            self._show(event.job_id, None, _WAITS[event.job_state])

    def say(self, text: str) -> None:
        """A remark above the bars."""
        if not self._quiet:
            self._console.print(Text(render.plain(text)))

    def _show(self, job_id: str, fraction: float | None, activity: str) -> None:
        if self._bars is not None and job_id in self._tasks:
            self._bars.update(self._tasks[job_id], completed=fraction, activity=activity)
