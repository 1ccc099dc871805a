"""`mediactl run`: process files now and wait."""

import sys
import uuid
from collections.abc import Sequence

import click

from ctl import waiting
from ctl.connection import remote, with_client
from ctl.downloading import download
from ctl.here import Here
from ctl.settings import Format, Settings
from ctl.submission import Request, build, submission_options
from ctl.tree import command
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from presets.reasons import Reason
from presets.uris import path_to_uri


@command("run")
@submission_options(queueing=False)
def run(settings: Settings, *, request: Request) -> int:
    """Process files now and wait for them. Needs no server: it uses your own box where one is running (`mediactl
    up`), and otherwise starts one that ends by itself.

    Every INPUT is a job of its own; INPUTs written ROLE=URI together are one job. Ctrl-C cancels.

    With a --controller on the network, paths are files of this machine: inputs are uploaded first, and results are
    fetched in the end. What agents have on their own machines is named by file: URIs.

    \b
    Examples:
      mediactl run talk.wav --preset dialogue_clean --output out/
      mediactl run *.ogg --preset loudness_podcast -p target_lufs=-19 --profile aac_192 --profile mp3_192 --output out/
      mediactl run talk.mov --preset extract_audio --output talk.wav -o json
    """
    if not remote(settings):
        return waiting.report(carried_out(build(request), settings), settings)
    here = Here(str(uuid.uuid4()))
    specs = build(request, here=here)
    if not request.overwrite:
        _require_free(specs, here)
    jobs = carried_out(specs, settings, here)
    return _fetched(jobs, settings, here, overwrite=request.overwrite)


def carried_out(specs: Sequence[job_pb2.JobSpec], settings: Settings, here: Here | None = None) -> list[job_pb2.Job]:
    """Submits jobs, having uploaded what they read `here`, and waits for their ends; Ctrl-C cancels them."""
    # Made here, so that doing the work again after the box has gone finds the jobs of the first time.
    request_id = str(uuid.uuid4())
    ready = specs if here is None else []

    def work(client: Client) -> list[job_pb2.Job]:
        nonlocal ready
        if here is not None:
            ready = here.uploaded(client, specs, settings)
        return waiting.wait(client, client.submit_all(ready, request_id=request_id), settings)

    def interrupted(client: Client) -> None:
        if not ready:
            client.close()
            return
        print("mediactl: cancelling; once more gives up waiting for it", file=sys.stderr)
        # The submission may not have been answered yet: asked again, it tells the same jobs.
        _cancel(client, client.submit_all(ready, request_id=request_id))

    return with_client(settings, work, interrupted=interrupted)


def _require_free(specs: Sequence[job_pb2.JobSpec], here: Here) -> None:
    """As far as the names of the results are known by now."""
    for one in (output for spec in specs for output in spec.outputs):
        target = here.target(one.uri)
        if target is not None and not one.uri.endswith("/") and (target.exists() or target.is_symlink()):
            raise MediactlError(Reason.OUTPUT_EXISTS, f"{target} exists; --overwrite replaces it")


def _fetched(jobs: Sequence[job_pb2.Job], settings: Settings, here: Here, *, overwrite: bool) -> int:
    """Fetches what is wanted here, then reports as ever."""
    trouble: list[int] = []

    def work(client: Client) -> list[job_pb2.Job]:
        return [_fetch(client, job) for job in jobs]

    def _fetch(client: Client, job: job_pb2.Job) -> job_pb2.Job:
        told = job_pb2.Job()
        told.CopyFrom(job)
        targets = {target.parent for one in job.artifacts if (target := here.target(one.uri)) is not None}
        try:
            for folder in targets:
                placed = download(settings, client, job, folder, overwrite=overwrite)
                for one, (_, path) in zip(told.artifacts, placed, strict=True):
                    one.uri = path_to_uri(str(path))
        except (MediactlError, click.UsageError, OSError) as error:
            again = f"fetch it with: mediactl jobs artifacts {job.id} --download DIR"
            print(f"mediactl: {getattr(error, 'message', error)}; {again}", file=sys.stderr)
            trouble.append(error.exit_code if isinstance(error, MediactlError | click.UsageError) else 1)
        return told

    shown = with_client(settings, work)
    code = waiting.report(shown if settings.format is Format.TABLE else jobs, settings)
    return code or (trouble[0] if trouble else 0)


def _cancel(client: Client, jobs: Sequence[job_pb2.Job]) -> None:
    for job in jobs:
        try:
            client.cancel(job.id, message="interrupted")
        except MediactlError as error:
            if error.reason != Reason.JOB_ENDED:
                raise
