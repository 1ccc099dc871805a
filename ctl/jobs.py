"""`mediactl jobs …`: looking at them."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import click
from rich.text import Text

from ctl import render, waiting
from ctl.connection import with_client
from ctl.replays import outcome
from ctl.selection import selector
from ctl.settings import Format, Settings
from ctl.tree import command
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.requests import ENDED
from mediactl.v1 import job_pb2, job_service_pb2
from presets.reasons import Reason

_ONE: Final = click.argument("job_id", metavar="ID")


@command("list")
@selector
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--page-token", default="", metavar="TOKEN", help="Go on where a list ended (nextPageToken).")
def list_jobs(settings: Settings, *, where: job_pb2.JobFilter, limit: int, page_token: str) -> int:
    """Show jobs, newest first.

    \b
    Examples:
      mediactl jobs list --state DEAD --reason FFMPEG_FAILED
      mediactl jobs list --label show=news -o json
    """
    page = with_client(settings, lambda client: client.list_page(where, page_size=limit, page_token=page_token))
    if settings.format is not Format.TABLE:
        render.write(render.data(page), settings)
        return 0
    render.table(
        settings,
        ("ID", "STATE", "PRESET", "INPUT", "DONE", "SUBMITTED", "REASON"),
        [
            (
                job.id,
                render.state(job.state),
                job.preset,
                waiting.title(job),
                f"{job.progress:.0%}",
                render.moment(job.create_time),
                _why(job),
            )
            for job in page.jobs
        ],
        empty="no jobs",
    )
    if page.next_page_token and not settings.quiet:
        print(f"there are more: --page-token {page.next_page_token}", file=sys.stderr)
    return 0


def _why(job: job_pb2.Job) -> str:
    """Why it isn't done, in the few words that a list has room for."""
    if job.failure.reason:
        return job.failure.reason
    if job.state == job_pb2.JOB_STATE_BLOCKED and job.spec.after:
        return f"after {', '.join(job.spec.after)}"
    if job.held and job.state not in (*ENDED, job_pb2.JOB_STATE_HELD):
        return "held"
    if job.state == job_pb2.JOB_STATE_PENDING and job.spec.not_before.ToDatetime(UTC) > datetime.now(UTC):
        return f"not before {render.moment(job.spec.not_before)}"
    return ""


@command("get")
@click.argument("job_ids", nargs=-1, required=True, metavar="ID...")
def get(settings: Settings, *, job_ids: Sequence[str]) -> int:
    """Show jobs in detail. An unambiguous prefix of an id will do.

    \b
    Example:
      mediactl jobs get 3f2a -o json
    """
    if settings.format is not Format.TABLE:
        jobs = with_client(settings, lambda client: [client.get(job_id) for job_id in job_ids])
        render.write(render.jobs_data(jobs, several=len(job_ids) > 1), settings)
        return 0
    pairs = with_client(settings, lambda client: [_with_original(client, job_id) for job_id in job_ids])
    for number, (job, original) in enumerate(pairs):
        if number:
            print()
        _tell(job, original, settings)
    return 0


def _with_original(client: Client, job_id: str) -> tuple[job_pb2.Job, job_pb2.Job | None]:
    """The job, and the one that it replays where there is one that is still kept."""
    job = client.get(job_id)
    try:
        return job, client.get(job.replay_of) if job.replay_of else None
    except MediactlError as error:
        if error.reason != Reason.JOB_NOT_FOUND:
            raise
        return job, None


def _tell(job: job_pb2.Job, original: job_pb2.Job | None, settings: Settings) -> None:
    timed, kept = job.spec.HasField("timeout"), job.spec.HasField("keep")
    failure = f"{job.failure.reason}: {job.failure.message}" if job.failure.reason else ""
    render.details(
        settings,
        [
            ("id", job.id),
            ("state", render.state(job.state)),
            ("held", "until it is released" if job.held and job.state not in ENDED else ""),
            ("cancel", "asked for" if job.cancel_requested and job.state not in ENDED else ""),
            ("progress", f"{job.progress:.0%}"),
            ("failure", failure),
            ("preset", job.preset),
            ("parameters", _pairs({key: render.data(value) for key, value in job.spec.params.items()})),
            *(("input", f"{one.role + ': ' if one.role else ''}{render.place(one.uri)}") for one in job.spec.inputs),
            *(
                ("output", f"{render.place(one.uri)}{f' ({one.profile})' if one.profile else ''}")
                for one in job.spec.outputs
            ),
            ("queue", job.spec.queue),
            ("labels", _pairs(job.spec.labels)),
            ("requires", _pairs(job.spec.require)),
            ("reused", ", ".join(sorted({f"from job {one.made_by_job}" for one in job.artifacts if one.made_by_job}))),
            ("replay of", job.replay_of),
            ("replay is", outcome(job, original) if original is not None else ""),
            ("after", _after(job.spec)),
            ("not before", render.moment(job.spec.not_before)),
            ("may take", render.duration(job.spec.timeout.ToTimedelta().total_seconds()) if timed else ""),
            ("stopped at", render.moment(job.expire_time) if job.state not in ENDED else ""),
            ("results kept", render.duration(job.spec.keep.ToTimedelta().total_seconds()) if kept else ""),
            ("submitted", render.moment(job.create_time)),
            ("started", render.moment(job.start_time)),
            ("ended", render.moment(job.end_time)),
            *(("task", _task(task)) for task in job.tasks),
            *(("attempt", _attempt(attempt)) for attempt in job.attempts),
        ],
    )
    if job.artifacts:
        print()
        waiting.tell_published(job, settings)
        waiting.tell_analyses([job], settings)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items()))


def _after(spec: job_pb2.JobSpec) -> str:
    however = " (however they end)" if spec.after and spec.after_any_end else ""
    return f"{', '.join(spec.after)}{however}"


def _task(task: job_pb2.Task) -> str:
    parts = [f"{task.name} ({task.kind}): {task.state}"]
    if task.waits_for:
        parts.append(f"waits for {task.waits_for} other{'s' if task.waits_for > 1 else ''}")
    if task.attempts_used:
        parts.append(f"{task.attempts_used} attempt{'s' if task.attempts_used > 1 else ''} used up")
    return ", ".join(parts)


def _attempt(attempt: job_pb2.Attempt) -> str:
    parts = [f"{attempt.number}: {attempt.state} on {attempt.agent_id}"]
    if attempt.HasField("queue_wait"):
        parts.append(f"waited {attempt.queue_wait.ToTimedelta().total_seconds():.2f} s")
    if attempt.HasField("run_time"):
        parts.append(f"ran {attempt.run_time.ToTimedelta().total_seconds():.2f} s")
    if attempt.media_seconds and attempt.run_time.ToTimedelta():
        pace = attempt.media_seconds / attempt.run_time.ToTimedelta().total_seconds()
        parts.append(f"{render.duration(attempt.media_seconds)} of media ({pace:.3g}x)")
    if attempt.cpu_seconds:
        parts.append(f"{attempt.cpu_seconds:.2f} CPU s")
    if attempt.peak_memory_bytes:
        parts.append(f"{render.size(attempt.peak_memory_bytes)} of memory")
    if attempt.bytes_read or attempt.bytes_written:
        parts.append(f"read {render.size(attempt.bytes_read)}, wrote {render.size(attempt.bytes_written)}")
    if attempt.kept_bytes:
        parts.append(f"{render.size(attempt.kept_bytes)} kept (`jobs artifacts --failed`)")
    if attempt.failure.reason:
        parts.append(f"{attempt.failure.reason}: {attempt.failure.message}")
    return ", ".join(parts)


@command("watch")
@click.argument("job_ids", nargs=-1, metavar="[ID...]")
@selector
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="CURSOR", help="Only later events.")
@click.option("--until-ended", is_flag=True, help="End when every selected job has ended; always so with IDs.")
def watch(
    settings: Settings, *, job_ids: Sequence[str], where: job_pb2.JobFilter, after: int, until_ended: bool
) -> int:
    """Print what happens to jobs, from their beginning on. JSON is an object a line and tells progress too.

    \b
    Examples:
      mediactl jobs watch 3f2a
      mediactl jobs watch --label show=news -o json
    """
    where.ids.extend(job_ids)

    def work(client: Client) -> int:
        for update in client.watch(where, after=after, until_ended=until_ended or bool(job_ids)):
            if settings.format is not Format.TABLE:
                render.write_line(update, settings)
            elif update.WhichOneof("update") == "event":
                print(f"{update.event.job_id}  {_event_line(update.event)}", flush=True)
        return 0

    return with_client(settings, work)


def _event_line(event: job_pb2.Event) -> str:
    told = ": ".join(text for text in (event.reason, event.message) if text)
    line = f"{render.moment(event.time)}  {render.state_word(event.job_state):<10}  {event.type}  {told}"
    return render.plain(line).rstrip()


@command("logs")
@_ONE
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--attempt", default="", metavar="ID", help="Only this attempt.")
def logs(settings: Settings, *, job_id: str, follow: bool, attempt: str) -> int:
    """Print what FFmpeg and the agent said, as it was captured.

    \b
    Examples:
      mediactl jobs logs 3f2a
      mediactl jobs logs -f 3f2a
    """

    def work(client: Client) -> int:
        for piece in client.logs(job_id, follow=follow, attempt_id=attempt):
            if settings.format is not Format.TABLE:
                render.write_line(piece, settings)
                continue
            # A file name or tag from a recording may hold escape sequences: a terminal must not obey them.
            safe = piece.data.replace(b"\x1b", b"\\x1b") if sys.stdout.isatty() else piece.data
            sys.stdout.buffer.write(safe)
            sys.stdout.buffer.flush()
        return 0

    return with_client(settings, work)


@command("events")
@_ONE
def events(settings: Settings, *, job_id: str) -> int:
    """Show a job's history.

    \b
    Example:
      mediactl jobs events 3f2a
    """
    history = with_client(settings, lambda client: [*client.events(job_id)])
    if settings.format is not Format.TABLE:
        render.write(render.data(job_service_pb2.ListEventsResponse(events=history)), settings)
        return 0
    render.table(
        settings,
        ("#", "TIME", "EVENT", "STATE", "AGENT", "REASON", "MESSAGE"),
        [
            (
                str(event.sequence),
                render.moment(event.time),
                event.type,
                render.state(event.job_state),
                event.agent_id,
                event.reason,
                event.message,
            )
            for event in history
        ],
        empty="no events",
    )
    return 0


@command("explain")
@_ONE
def explain(settings: Settings, *, job_id: str) -> int:
    """Say why a job waits.

    \b
    Example:
      mediactl jobs explain 3f2a
    """
    answer = with_client(settings, lambda client: client.explain(job_id))
    if settings.format is not Format.TABLE:
        render.write(render.data(answer), settings)
        return 0
    out = render.console(settings)
    out.print(Text(render.plain(answer.summary)))
    for verdict in answer.agents:
        words = "could start it now" if verdict.suitable else "; ".join(verdict.reasons)
        out.print(Text(render.plain(f"  {verdict.name or verdict.agent_id}: {words}")))
    return 0
