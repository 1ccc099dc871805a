"""Artifacts of jobs into files of this machine, each whole or not at all."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from ctl import render
from ctl.connection import with_client
from ctl.here import Bar
from ctl.remains import draft, put
from ctl.settings import Format, Settings
from mediactl.client import Client
from mediactl.deposits import PIECE_BYTES
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from presets.reasons import Reason
from presets.uris import CONTROLLER, FILE, base_name, place, shown


def download(settings: Settings, job_id: str, folder: Path) -> int:
    """Fetches all artifacts of a job into a folder, which is made, and says where each is."""

    def work(client: Client) -> tuple[job_pb2.Job, list[Path]]:
        job = client.get(job_id)
        targets = [folder / base_name(artifact.uri) for artifact in job.artifacts]
        if len(set(targets)) < len(targets):
            raise click.UsageError("some artifacts have the same name, and can't be in one folder: fetch them by `uri`")
        return job, fetch(client, job.artifacts, targets, settings)

    job, paths = with_client(settings, work)
    if settings.format is Format.TABLE:
        for path in paths:
            print(path)
        if not paths:
            render.table(settings, (), (), empty=f"nothing was published; the job is {render.state_word(job.state)}")
    else:
        documents = [
            {**render.data(artifact), "file": str(path)} for artifact, path in zip(job.artifacts, paths, strict=True)
        ]
        render.write({"artifacts": documents}, settings)
    return 0


def fetch(
    client: Client,
    artifacts: Sequence[job_pb2.Artifact],
    targets: Sequence[Path],
    settings: Settings,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Fetches each artifact into its file; one that is there already, with the same content, is not fetched again.

    Raises MediactlError.
    """
    with Bar.shown(settings) as bar:
        for artifact, target in zip(artifacts, targets, strict=True):
            if _is_there(artifact, target):
                continue
            if not overwrite and (target.exists() or target.is_symlink()):
                raise MediactlError(
                    Reason.OUTPUT_EXISTS, f"{target} exists and is another file: remove it, or choose another folder"
                )
            bar.begin(f"fetching {target.name}", artifact.size_bytes)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _fetch(client, artifact, target, bar, overwrite)
            except OSError as error:
                raise MediactlError(Reason.OUTPUT_UNWRITABLE, f"{target}: {error.strerror}") from None
    return [*targets]


def _fetch(client: Client, artifact: job_pb2.Artifact, target: Path, bar: Bar, overwrite: bool) -> None:
    digest = hashlib.sha256()
    with draft(target.parent) as (path, out):
        for data in _content(client, artifact):
            out.write(data)
            digest.update(data)
            bar.came(len(data))
        out.flush()
        os.fsync(out.fileno())
        if digest.hexdigest() != artifact.sha256:
            told = f"{shown(artifact.uri)} is not what the job published (SHA-256 {digest.hexdigest()})"
            raise MediactlError(Reason.INPUT_CHANGED, told)
        path.chmod(0o666 & ~_umask())
        if overwrite:
            path.replace(target)
        else:
            put(path, target)


def _content(client: Client, artifact: job_pb2.Artifact) -> Iterator[bytes]:
    """The bytes of an artifact, from wherever it is. Every kind of place that can be read has its case here."""
    at = place(artifact.uri)
    if at.store == CONTROLLER:
        yield from (piece.data for piece in client.read_deposit(artifact.uri))
    elif at.store == FILE:
        try:
            with Path(at.path).open("rb") as file:
                while data := file.read(PIECE_BYTES):
                    yield data
        except OSError as error:
            told = f"{at.path} can't be read here ({error.strerror}): it is on the machine that the agent runs on"
            raise MediactlError(Reason.INPUT_UNAVAILABLE, told) from None
    else:
        raise MediactlError(
            Reason.INPUT_UNSUPPORTED_SCHEME,
            f"{shown(artifact.uri)} is in a store that mediactl doesn't read: fetch it with that store's own program",
        )


def _is_there(artifact: job_pb2.Artifact, target: Path) -> bool:
    try:
        if not target.is_file() or target.stat().st_size != artifact.size_bytes:
            return False
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
    except OSError:
        return False


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
