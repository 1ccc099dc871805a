"""`mediactl run`: process files now and wait."""

import sys
import uuid
from collections.abc import Sequence

from ctl import waiting
from ctl.connection import with_client
from ctl.settings import Settings
from ctl.submission import Request, build, submission_options
from ctl.tree import command
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from presets.reasons import Reason


@command("run")
@submission_options(queueing=False)
def run(settings: Settings, *, request: Request) -> int:
    """Process files now and wait for them. Needs no server: it uses your own box where one is running (`mediactl
    up`), and otherwise starts one that ends by itself.

    Every INPUT is a job of its own; INPUTs written ROLE=URI together are one job. Ctrl-C cancels.

    \b
    Examples:
      mediactl run talk.wav --preset dialogue_clean --output out/
      mediactl run *.ogg --preset loudness_podcast -p target_lufs=-19 --profile aac_192 --profile mp3_192 --output out/
      mediactl run talk.mov --preset extract_audio --output talk.wav -o json
    """
    return waiting.report(carried_out(build(request), settings), settings)


def carried_out(specs: Sequence[job_pb2.JobSpec], settings: Settings) -> list[job_pb2.Job]:
    """Submits jobs and waits for their ends; Ctrl-C cancels them."""
    # Made here, so that doing the work again after the box has gone finds the jobs of the first time.
    request_id = str(uuid.uuid4())

    def work(client: Client) -> list[job_pb2.Job]:
        return waiting.wait(client, client.submit_all(specs, request_id=request_id), settings)

    def interrupted(client: Client) -> None:
        print("mediactl: cancelling; once more gives up waiting for it", file=sys.stderr)
        # The submission may not have been answered yet: asked again, it tells the same jobs.
        _cancel(client, client.submit_all(specs, request_id=request_id))

    return with_client(settings, work, interrupted=interrupted)


def _cancel(client: Client, jobs: Sequence[job_pb2.Job]) -> None:
    for job in jobs:
        try:
            client.cancel(job.id, message="interrupted")
        except MediactlError as error:
            if error.reason != Reason.JOB_ENDED:
                raise
