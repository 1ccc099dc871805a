"""`mediactl submit` and `mediactl plan`."""

import shlex
import sys
import uuid
from collections.abc import Sequence

import click
from rich.text import Text

from ctl import render, waiting
from ctl.connection import remote, with_client
from ctl.here import Here
from ctl.settings import Format, Settings
from ctl.submission import Request, build, submission_options
from ctl.times import Duration
from ctl.tree import command
from mediactl.client import Client
from mediactl.v1 import job_pb2, job_service_pb2


@command("submit")
@submission_options(queueing=True)
@click.option(
    "--request-id",
    metavar="ID",
    help="Submitting the same again with this id gives the same jobs; give moments, not durations from now, with it.",
)
@click.option("--wait", is_flag=True, help="Wait until the jobs have ended; 1 where one did not complete.")
@click.option("--wait-timeout", type=Duration(), metavar="D", help="Give up waiting (6); the jobs go on.")
@click.option("--follow", is_flag=True, help="Wait and print the logs on stderr meanwhile.")
def submit(
    settings: Settings,
    *,
    request: Request,
    request_id: str | None,
    wait: bool,
    wait_timeout: float | None,
    follow: bool,
) -> int:
    """Put jobs into the queue and print their ids.

    Every INPUT is a job of its own; INPUTs written ROLE=URI together are one job. A spec file holds jobs as
    {"inputs": [{"uri": …}], "preset": …, "params": {…}, "outputs": [{"profile": …, "uri": …}]}; paths in it are
    relative to it. All jobs are stored or none.

    With a --controller on the network, paths are files of this machine: inputs are uploaded first (submitted again, an
    upload goes on where it broke off), and results stay with the controller for `mediactl jobs artifacts ID --download
    DIR`.
    What agents have on their own machines is named by file: URIs.

    \b
    Examples:
      mediactl submit talk.wav --preset loudness_podcast --output out/ --label show=news
      mediactl submit talk.wav --preset loudness_podcast --output out/ --after 3f2a --not-before 2h --deadline 8h
      mediactl submit --spec jobs.yaml --wait --wait-timeout 10m
    """
    fixed_id = request_id or str(uuid.uuid4())
    here = Here(fixed_id) if remote(settings) else None
    specs = build(request, here=here)
    if wait_timeout is not None and not (wait or follow):
        raise click.UsageError("--wait-timeout needs --wait or --follow")

    def work(client: Client) -> int:
        ready = specs if here is None else here.uploaded(client, specs, settings)
        jobs: Sequence[job_pb2.Job] = client.submit_all(ready, request_id=fixed_id)
        if here is not None and here.folders and not settings.quiet:
            folders = " ".join(shlex.quote(f"{folder}/") for folder in here.folders)
            which = jobs[0].id if len(jobs) == 1 else "ID"
            print(f"results: mediactl jobs artifacts {which} --download {folders}", file=sys.stderr)
        if wait or follow:
            return waiting.report(waiting.wait(client, jobs, settings, timeout_s=wait_timeout, follow=follow), settings)
        if settings.format is Format.TABLE:
            for job in jobs:
                print(job.id)
        else:
            render.write(render.jobs_data(jobs, several=len(specs) > 1), settings)
        return 0

    return with_client(settings, work)


@command("plan")
@submission_options(queueing=True)
def plan(settings: Settings, *, request: Request) -> int:
    """Show what would be run for a job, and why: probes and validates, encodes nothing.

    What depends on a measurement still to be taken stands as {gain_db} and the like.

    \b
    Example:
      mediactl plan talk.wav --preset loudness_podcast --profile aac_192 --output out/
    """
    here = Here(str(uuid.uuid4())) if remote(settings) else None
    specs = build(request, here=here)

    def work(client: Client) -> list[job_service_pb2.PlanJobResponse]:
        ready = specs if here is None else here.uploaded(client, specs, settings)
        return [client.plan(spec) for spec in ready]

    plans = with_client(settings, work)
    if settings.format is Format.TABLE:
        for spec, answer in zip(specs, plans, strict=True):
            _tell(spec, answer, settings)
    else:
        documents = [render.data(answer) for answer in plans]
        render.write(documents[0] if len(documents) == 1 else {"plans": documents}, settings)
    return 0


def _tell(spec: job_pb2.JobSpec, answer: job_service_pb2.PlanJobResponse, settings: Settings) -> None:
    out = render.console(settings)
    inputs = ", ".join(render.place(one.uri) for one in spec.inputs)
    out.print(
        Text(render.plain(f"# {inputs}: FFmpeg {answer.plan.binary_version}, agent {answer.agent_id}"), style="bold")
    )
    for decision in answer.plan.decisions:
        because = f" ({decision.because})" if decision.because else ""
        out.print(Text(render.plain(f"# {decision.subject}: {decision.choice}{because}")))
    for step in answer.plan.steps:
        later = "; depends on a measurement" if step.provisional else ""
        out.print(Text(render.plain(f"\n# {step.id}: {step.purpose}{later}"), style="bold"))
        # Copied and pasted, so neither wrapped nor made pretty.
        print(shlex.join([answer.plan.binary_path, *step.arguments]))
    if answer.plan.steps:
        out.print(Text("\n# paths are relative to the workspace, where in/0 is the first input"))
