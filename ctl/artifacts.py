"""`mediactl jobs artifacts`: what a job published, where it is, and how to come by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from ctl import render, waiting
from ctl.connection import with_client
from ctl.downloading import chosen, fetch_artifacts
from ctl.remains import fetch_remains
from ctl.settings import Format, Settings
from ctl.times import Duration
from ctl.tree import command
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_service_pb2

_LONGEST_S: Final = 7 * 86400
# How far the clocks of two machines may be apart, and what a call takes.
_CLOCKS_S: Final = 300


@command("artifacts")
@click.argument("job_id", metavar="ID")
@click.option(
    "--download",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Bring them into this folder, each whole and checked against its SHA-256, or not at all. Where it broke off, "
    "the same command goes on.",
)
@click.option("--overwrite", is_flag=True, help="With --download: replace files that exist.")
@click.option(
    "--presign",
    type=Duration(),
    metavar="DURATION",
    help="Print URLs with which anybody can read them for so long, at the most 7d; for those in object stores.",
)
@click.option("--only", multiple=True, metavar="NAME", help="With --download and --presign: of this name. Repeats.")
@click.option("--failed", is_flag=True, help="Fetch what a failed attempt left: logs, plan, media facts, outputs.")
@click.option("--attempt", default="", metavar="ID", help="With --failed: of this attempt. Default: the newest.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="With --failed: where the archive goes; - for stdout. Default: JOB.failed.tar.gz here.",
)
def artifacts(
    settings: Settings,
    *,
    job_id: str,
    download: Path | None,
    overwrite: bool,
    presign: float | None,
    only: Sequence[str],
    failed: bool,
    attempt: str,
    file: Path | None,
) -> int:
    """Show what a job published, download it, or get URLs of it that need no credentials; with --failed, fetch what a
    failed attempt left behind as one gzipped tar archive.

    Agents keep that for a while only. An archive that was fetched once can be fetched for as long as the job is known.

    \b
    Examples:
      mediactl jobs artifacts 3f2a -o json
      mediactl jobs artifacts 3f2a --download results/
      mediactl jobs artifacts 3f2a --presign 1h --only aac_192
      mediactl jobs artifacts 3f2a --failed --file - | tar -tz
    """
    _check(download, presign, failed=failed, overwrite=overwrite, only=only, of_failed=attempt or file)
    if failed:
        return fetch_remains(settings, job_id, attempt, file)
    if download is not None:
        return fetch_artifacts(settings, job_id, download, only, overwrite=overwrite)
    if presign is not None:
        return _sign(settings, job_id, round(presign), only)
    job = with_client(settings, lambda client: client.get(job_id))
    if settings.format is not Format.TABLE:
        render.write({"artifacts": [render.data(artifact) for artifact in job.artifacts]}, settings)
        return 0
    waiting.tell_published(job, settings)
    return 0


def _check(
    download: Path | None,
    presign: float | None,
    *,
    failed: bool,
    overwrite: bool,
    only: Sequence[str],
    of_failed: object,
) -> None:
    if (download is not None) + (presign is not None) + failed > 1:
        raise click.UsageError("one of --download, --presign and --failed is expected")
    if of_failed and not failed:
        raise click.UsageError("--attempt and --file belong to --failed")
    if overwrite and download is None:
        raise click.UsageError("--overwrite belongs to --download")
    if only and download is None and presign is None:
        raise click.UsageError("--only belongs to --download and --presign")
    if presign is not None and (presign != round(presign) or not 1 <= presign <= _LONGEST_S):
        raise click.UsageError("--presign: whole seconds from 1s to 7d are expected")


def _sign(settings: Settings, job_id: str, lifetime_s: int, only: Sequence[str]) -> int:
    """Prints a URL a line; says on stderr which artifacts have none, and returns the exit code of the first of them."""

    def work(client: Client) -> job_service_pb2.SignArtifactsResponse:
        job = client.get(job_id)
        wanted = {artifact.uri for artifact in chosen(job, only)}
        answer = client.sign_artifacts(job.id, lifetime_s=lifetime_s)
        kept = [one for one in answer.artifacts if one.uri in wanted]
        return job_service_pb2.SignArtifactsResponse(artifacts=kept)

    answer = with_client(settings, work)
    if settings.format is Format.TABLE:
        for one in answer.artifacts:
            if one.url:
                print(render.plain(one.url))
    else:
        render.write(render.data(answer), settings)
    errors = render.console(settings, stderr=True)
    code = 0
    for one in answer.artifacts:
        if one.HasField("failure"):
            error = MediactlError(one.failure.reason, one.failure.message)
            errors.print(Text(render.plain(f"mediactl: {error.reason}: {error.message}")))
            code = code or error.exit_code
        elif one.HasField("expire_time") and -render.age_s(one.expire_time) < lifetime_s - _CLOCKS_S:
            told = f"{one.name}: its URL ends {render.moment(one.expire_time)}, with the credentials of the agent"
            if not settings.quiet:
                errors.print(Text(render.plain(told)))
    return code
