"""`mediactl jobs cancel|retry|replay|hold|release`: what a person does to jobs, by their ids or a selector."""

import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from ctl import render
from ctl.connection import with_client
from ctl.selection import ids_or_selector
from ctl.settings import Format, Settings
from ctl.submission import output_uri
from ctl.tree import command
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.requests import ENDED
from mediactl.v1 import job_pb2, job_service_pb2
from presets.reasons import Reason

_Answer = job_service_pb2.RetryJobsResponse | job_service_pb2.HoldJobsResponse | job_service_pb2.ReleaseJobsResponse
_Refused = tuple[str, MediactlError]

_message = click.option("--message", default="", metavar="TEXT", help="Kept in the jobs' history.")
_request_id = click.option("--request-id", metavar="ID", help="Asking again with this id does nothing more.")


@command("cancel")
@ids_or_selector
@_message
def cancel(settings: Settings, *, where: job_pb2.JobFilter, message: str) -> int:
    """Stop jobs, by id or by selector. Nothing of theirs is published.

    \b
    Examples:
      mediactl jobs cancel 3f2a 77b0
      mediactl jobs cancel --queue night --state PENDING
    """
    done, refused = with_client(
        settings,
        lambda client: _each(client, where, lambda job_id: client.cancel(job_id, message=message), Reason.JOB_ENDED),
    )
    if settings.format is not Format.TABLE:
        render.write(render.jobs_data(done, several=len(where.ids) != 1), settings)
    else:
        render.table(
            settings,
            ("ID", "STATE", ""),
            [
                (job.id, render.state(job.state), "" if job.state in ENDED else "the agent is told to stop")
                for job in done
            ],
            empty="no job was stopped",
        )
    return _refusals(refused)


@command("retry")
@ids_or_selector
@_request_id
def retry(settings: Settings, *, where: job_pb2.JobFilter, request_id: str | None) -> int:
    """Put DEAD jobs in line again, their attempts counted anew; print their ids. By selector, others are passed over.

    \b
    Examples:
      mediactl jobs retry 3f2a
      mediactl jobs retry --reason FFMPEG_FAILED --label show=news
    """
    # Made here, so that doing the work again after a box has gone retries nothing twice.
    fixed_id = request_id or str(uuid.uuid4())
    answer = with_client(settings, lambda client: client.retry_jobs(where, request_id=fixed_id))
    return _report(answer, settings, empty="no job was DEAD")


@command("replay")
@ids_or_selector
@_request_id
@click.option(
    "--output", metavar="URI", help="A folder, or a prefix ending in /, for the outputs; otherwise the same names."
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
def replay(
    settings: Settings, *, where: job_pb2.JobFilter, request_id: str | None, output: str | None, overwrite: bool
) -> int:
    """Do jobs again as new jobs with the same pinned inputs, presets and profiles, and print the new ids.

    An input that has changed meanwhile ends the new job with INPUT_CHANGED. By selector, jobs that were never
    started are passed over.

    \b
    Examples:
      mediactl jobs replay 3f2a --output again/
      mediactl jobs replay 3f2a --overwrite
    """
    target = "" if output is None else output_uri(f"{output.removesuffix('/')}/", Path.cwd())
    fixed_id = request_id or str(uuid.uuid4())

    def work(client: Client) -> tuple[list[job_pb2.Job], list[_Refused]]:
        def one(job_id: str) -> job_pb2.Job:
            # One request id is good for one new job; several get one each that the same command makes again.
            own_id = fixed_id if len(where.ids) == 1 else f"{fixed_id}:{job_id}"
            return client.replay_job(job_id, request_id=own_id, output_uri=target, overwrite=overwrite)

        return _each(client, where, one, Reason.JOB_NOT_STARTED)

    done, refused = with_client(settings, work)
    if settings.format is not Format.TABLE:
        render.write(render.jobs_data(done, several=len(where.ids) != 1), settings)
    else:
        _say_ids((job.id for job in done), settings, empty="" if refused else "no job was replayed")
    return _refusals(refused)


@command("hold")
@ids_or_selector
@_message
def hold(settings: Settings, *, where: job_pb2.JobFilter, message: str) -> int:
    """Pause jobs until they are released, and print their ids. What runs goes on; what waits is not started.

    \b
    Examples:
      mediactl jobs hold 3f2a
      mediactl jobs hold --queue night --message "disk is being replaced"
    """
    answer = with_client(settings, lambda client: client.hold_jobs(where, message=message))
    return _report(answer, settings, empty="no job was paused")


@command("release")
@ids_or_selector
@_message
def release(settings: Settings, *, where: job_pb2.JobFilter, message: str) -> int:
    """End the pause of jobs, and print their ids. They stand in line where they stood.

    \b
    Examples:
      mediactl jobs release 3f2a
      mediactl jobs release --state HELD --queue night
    """
    answer = with_client(settings, lambda client: client.release_jobs(where, message=message))
    return _report(answer, settings, empty="no job was paused")


def _each(
    client: Client, where: job_pb2.JobFilter, act: Callable[[str], job_pb2.Job], passed_over: Reason
) -> tuple[list[job_pb2.Job], list[_Refused]]:
    """Does one job after the other. A refusal stops none of the others; the only one of all is raised.

    By selector, `passed_over` is no refusal: such jobs were not meant.
    """
    named = bool(where.ids)
    # All are found before the first is touched: what is done to one may change what the selector finds.
    ids = [*where.ids] if named else [job.id for job in client.list(where)]
    done: list[job_pb2.Job] = []
    refused: list[_Refused] = []
    for job_id in ids:
        try:
            done.append(act(job_id))
        except MediactlError as error:
            if not named and error.reason == passed_over:
                continue
            if len(ids) == 1:
                raise
            refused.append((job_id, error))
    return done, refused


def _report(answer: _Answer, settings: Settings, *, empty: str) -> int:
    if settings.format is not Format.TABLE:
        render.write(render.data(answer), settings)
    else:
        _say_ids(answer.job_ids, settings, empty="" if answer.refused else empty)
    return _refusals([(one.job_id, MediactlError(one.reason, one.message)) for one in answer.refused])


def _say_ids(ids: Iterable[str], settings: Settings, *, empty: str) -> None:
    found = [*ids]
    for job_id in found:
        print(job_id)
    if empty and not found and not settings.quiet:
        print(empty, file=sys.stderr)


def _refusals(refused: Sequence[_Refused]) -> int:
    """Says on stderr what was refused; the exit code: 3 where the first is unknown, else 2, 0 without any."""
    for job_id, error in refused:
        print(f"mediactl: {job_id}: {error.reason}: {render.plain(error.message)}", file=sys.stderr)
    if not refused:
        return 0
    # Whatever the reason says of a job that ended with it: here a request was refused.
    return refused[0][1].exit_code if refused[0][1].exit_code in (2, 3) else 2
