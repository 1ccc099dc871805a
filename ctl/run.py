"""`mediactl run`: process files now and wait."""

import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from ctl import waiting
from ctl.connection import with_client
from ctl.settings import Settings
from ctl.submission import Request, build, submission_options
from ctl.tree import command
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from presets.reasons import Reason

_CANCEL_DEADLINE_S: Final = 15.0


@command("run")
@submission_options(with_spec=False)
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
    specs = build(request)
    # Made here, so that doing the work again after the box has gone finds the jobs of the first time.
    request_id = str(uuid.uuid4())
    with _interruptible():
        jobs = with_client(settings, lambda client: _run(client, specs, request_id, settings))
    return waiting.report(jobs, settings)


def _run(client: Client, specs: Sequence[job_pb2.JobSpec], request_id: str, settings: Settings) -> list[job_pb2.Job]:
    try:
        jobs = client.submit_all(specs, request_id=request_id)
        return waiting.wait(client, jobs, settings)
    except KeyboardInterrupt:
        print("mediactl: cancelling; once more gives up waiting for it", file=sys.stderr)
        try:
            # The interrupt may have come before the submission was answered: asked again, it tells the same jobs.
            _cancel(client, client.submit_all(specs, request_id=request_id))
        except MediactlError as error:
            print(f"mediactl: could not cancel: {error.reason}: {error.message}", file=sys.stderr)
        raise


def _cancel(client: Client, jobs: Sequence[job_pb2.Job]) -> None:
    deadline = time.monotonic() + _CANCEL_DEADLINE_S
    for job in jobs:
        try:
            client.cancel(job.id, message="interrupted")
        except MediactlError as error:
            if error.reason != Reason.JOB_ENDED:
                raise
    with suppress(TimeoutError):
        for job in jobs:
            client.wait(job.id, timeout_s=max(0.0, deadline - time.monotonic()))


@contextmanager
def _interruptible() -> Iterator[None]:
    # SIGTERM as Ctrl-C: whoever stops this command means its jobs.
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
