"""Waiting for submitted jobs, and saying how they ended."""

import sys
import time
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import Message
from rich.text import Text

from ctl import render
from ctl.progress import Progress
from ctl.settings import Format, Settings
from mediactl.client import Client
from mediactl.errors import WaitTimeout
from mediactl.requests import ENDED
from mediactl.v1 import job_pb2

_COMPLETED: Final = job_pb2.JOB_STATE_COMPLETED


def wait(
    client: Client,
    jobs: Sequence[job_pb2.Job],
    settings: Settings,
    *,
    timeout_s: float | None = None,
    follow: bool = False,
) -> list[job_pb2.Job]:
    """The jobs once all have ended, in the order given; progress, or with `follow` the logs, on stderr.

    Raises WaitTimeout.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    if follow:
        for job in jobs:
            for piece in client.logs(job.id, follow=True):
                sys.stderr.write(piece.data.decode("utf-8", "replace"))
                sys.stderr.flush()
    ids = [job.id for job in jobs]
    with Progress(settings, {job.id: title(job) for job in jobs}) as progress:
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            for update in client.watch({"ids": ids}, timeout_s=None if left is None else max(0.0, left)):
                if update.WhichOneof("update") == "progress":
                    progress.moved(update.progress)
                else:
                    progress.happened(update.event)
            ended = [client.get(job_id, patient=True) for job_id in ids]
            waiting = [job.id for job in ended if job.state not in ENDED]
            if not waiting:
                return ended
            if timeout_s is not None and deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(", ".join(waiting), timeout_s)


def report(jobs: Sequence[job_pb2.Job], settings: Settings) -> int:
    """Prints ended jobs on stdout, what failed on stderr; returns the exit code."""
    if settings.format is Format.TABLE:
        _tell_artifacts([job for job in jobs if job.state == _COMPLETED], settings)
    else:
        render.write(render.jobs_data(jobs, several=len(jobs) > 1), settings)
    failed = [job for job in jobs if job.state != _COMPLETED]
    for job in failed:
        tell_failure(job, settings)
    return 1 if failed else 0


def tell_failure(job: job_pb2.Job, settings: Settings) -> None:
    """Says on stderr why a job did not complete."""
    why = f"{job.failure.reason}: {job.failure.message}" if job.failure.reason else ""
    tries = f" after {job.attempt_count} tries" if job.attempt_count > 1 else ""
    text = f"{title(job)}: {render.state_word(job.state)}{tries}{': ' if why else ''}{why}"
    if job.attempt_count:
        text += f"\n  its log: mediactl jobs logs {job.id}"
    if any(attempt.kept_bytes for attempt in job.attempts):
        text += f"\n  what it left: mediactl jobs artifacts {job.id} --failed"
    render.console(settings, stderr=True).print(Text(render.plain(text)))


def title(job: job_pb2.Job) -> str:
    """What a person knows a job by: the name of its first input."""
    return render.place(job.spec.inputs[0].uri).rsplit("/", 1)[-1] if job.spec.inputs else job.id


def _tell_artifacts(jobs: Sequence[job_pb2.Job], settings: Settings) -> None:
    if not jobs:
        return
    rows = [artifact_row(artifact) for job in jobs for artifact in job.artifacts]
    render.table(settings, ARTIFACT_HEADS, rows, empty="nothing was published")
    tell_analyses(jobs, settings)


def tell_analyses(jobs: Sequence[job_pb2.Job], settings: Settings) -> None:
    """Prints the main figures of each report."""
    for job in jobs:
        for artifact in job.artifacts:
            if artifact.HasField("analysis"):
                print()
                render.details(settings, analysis_rows(artifact))


def analysis_rows(artifact: job_pb2.Artifact) -> list[tuple[str, str]]:
    """A report in names and values; what was not found, such as clipping, is left out."""
    found, after = artifact.analysis, artifact.loudness.after

    def value(of: Message, field: str, unit: str, digits: int = 1) -> str:
        return f"{getattr(of, field):.{digits}f}{unit}".replace("-", "−") if of.HasField(field) else ""

    clipped = f"{found.full_scale_samples} samples at full scale" if found.full_scale_samples else ""
    flat = value(found, "hard_clipped_at_dbfs", " dBFS")
    phase = value(found, "correlation", "", 2)
    return [
        ("report", render.place(artifact.uri)),
        ("loudness", value(after, "integrated_lufs", " LUFS") or "none: silence, or less than 0.4 s"),
        ("loudness range", value(after, "range_lu", " LU")),
        ("loudest 3 s", value(found, "max_short_term_lufs", " LUFS")),
        ("loudest 0.4 s", value(found, "max_momentary_lufs", " LUFS")),
        ("true peak", value(after, "true_peak_dbtp", " dBTP")),
        ("noise floor", value(found, "noise_floor_dbfs", " dBFS")),
        ("clipping", ", ".join(filter(None, [clipped, f"peaks cut off flat at {flat}" if flat else ""]))),
        (
            "silences",
            f"{found.silence_count}, together {render.duration(found.silence_seconds)}" if found.silence_count else "",
        ),
        ("phase", f"correlation {phase}, at worst {value(found, 'worst_correlation', '', 2)}" if phase else ""),
        ("DC offset", f"{found.dc_offset * 100:.2f} %".replace("-", "−") if abs(found.dc_offset) >= 1e-4 else ""),
    ]


ARTIFACT_HEADS: Final = ("ARTIFACT", "LUFS", "dBTP", "DURATION", "SIZE", "STREAMS")


def artifact_row(artifact: job_pb2.Artifact) -> tuple[str, ...]:
    """One line about an artifact; loudness and true peak as `before → after`."""
    loudness = artifact.loudness
    return (
        render.place(artifact.uri),
        _change(loudness, "integrated_lufs") if artifact.HasField("loudness") else "",
        _change(loudness, "true_peak_dbtp") if artifact.HasField("loudness") else "",
        render.duration(artifact.duration_seconds) if artifact.duration_seconds else "",
        render.size(artifact.size_bytes),
        ", ".join(artifact.streams),
    )


def _change(report: job_pb2.LoudnessReport, field: str) -> str:
    def value(of: job_pb2.Loudness) -> str:
        if field == "integrated_lufs":
            return f"{of.integrated_lufs:.1f}" if of.HasField("integrated_lufs") else "silence"
        return f"{of.true_peak_dbtp:.1f}" if of.HasField("true_peak_dbtp") else "silence"

    # Without loudness processing nothing was measured before.
    change = f"{value(report.before)} → " if report.HasField("before") else ""
    return f"{change}{value(report.after)}".replace("-", "−")


def tell_published(job: job_pb2.Job, settings: Settings) -> None:
    """Prints one job's artifacts as a table; a remark where there are none."""
    render.table(
        settings,
        ARTIFACT_HEADS,
        [artifact_row(artifact) for artifact in job.artifacts],
        empty=f"nothing was published; the job is {render.state_word(job.state)}",
    )
