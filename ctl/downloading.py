"""`mediactl jobs artifacts --download`: each artifact whole and as it was published, or not at all."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Final

import click
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from ctl import render
from ctl.connection import with_client
from ctl.draft import Draft, drafting, require_free
from ctl.settings import Format, Settings
from ctl.sources import DepositSource, FileSource, Interrupted, SignedSource, SignedUrls, Source, unavailable
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from presets.reasons import Reason
from presets.uris import CONTROLLER, FILE, base_name, place

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TRIES: Final = 6
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 10.0

_Moved = Callable[[int], object]


def fetch_artifacts(settings: Settings, job_id: str, folder: Path, only: Sequence[str], *, overwrite: bool) -> int:
    """Downloads a job's artifacts and says where they are."""
    stop = Event()
    placed: set[Path] = set()

    def work(client: Client) -> list[tuple[job_pb2.Artifact, Path]]:
        job = client.get(job_id)
        return download(settings, client, job, folder, only=only, overwrite=overwrite, placed=placed, stop=stop)

    def interrupted(client: Client) -> None:
        stop.set()
        client.close()

    done = with_client(settings, work, interrupted=interrupted)
    if settings.format is Format.TABLE:
        for _, path in done:
            print(render.plain(str(path)))
    else:
        told = [{**render.data(artifact), "file": str(path)} for artifact, path in done]
        render.write({"artifacts": told}, settings)
    return 0


def download(
    settings: Settings,
    client: Client,
    job: job_pb2.Job,
    folder: Path,
    *,
    only: Sequence[str] = (),
    overwrite: bool = False,
    placed: set[Path] | None = None,
    stop: Event | None = None,
) -> list[tuple[job_pb2.Artifact, Path]]:
    """Brings what a job published, all of it or what is named `only` that, into a folder, and tells which file is what.

    One after the other; those that came stay where a later one fails. What exists is not touched without `overwrite`,
    and with it not where it is the artifact already. `placed`: what an earlier call brought; this one adds to it.
    `stop` ends it soon. Raises MediactlError, OSError and click.UsageError.
    """
    placed = set() if placed is None else placed
    wanted = chosen(job, only)
    targets = [(artifact, _target(folder, artifact)) for artifact in wanted]
    _require_distinct(path for _, path in targets)
    if not overwrite:
        for _, path in targets:
            if path not in placed:
                require_free(path)
    folder.mkdir(parents=True, exist_ok=True)
    urls = SignedUrls(client, job.id)
    for artifact, path in targets:
        if path in placed:
            continue
        with _bar(settings, path.name, artifact.size_bytes) as moved:
            if not (overwrite and _is(artifact, path)):
                with drafting(folder, artifact.sha256) as draft:
                    _receive(_source(artifact, client, job, urls), draft, artifact, moved, stop or Event())
                    draft.place(path, overwrite=overwrite)
        placed.add(path)
    return targets


def chosen(job: job_pb2.Job, only: Sequence[str]) -> list[job_pb2.Artifact]:
    """What a job published, of these names where any are given. Raises MediactlError where there is nothing."""
    if not job.artifacts:
        raise unavailable(f"job {job.id} has published nothing: it is {render.state_word(job.state)}")
    names = sorted({artifact.name for artifact in job.artifacts})
    if unknown := sorted(set(only) - set(names)):
        told = f"job {job.id} has no artifact {', '.join(unknown)}; it has {', '.join(names)}"
        raise MediactlError(Reason.INVALID_ARGUMENT, told)
    return [artifact for artifact in job.artifacts if not only or artifact.name in only]


def _source(artifact: job_pb2.Artifact, client: Client, job: job_pb2.Job, urls: SignedUrls) -> Source:
    """By where it was published."""
    if place(artifact.uri).store == FILE:
        return FileSource(artifact, lambda: _publisher(client, job))
    if place(artifact.uri).store == CONTROLLER:
        return DepositSource(artifact, client)
    return SignedSource(artifact, urls)


def _publisher(client: Client, job: job_pb2.Job) -> str:
    agent_id = next((attempt.agent_id for attempt in reversed(job.attempts) if attempt.state == "completed"), "unknown")
    try:
        return client.agent(agent_id).name
    except MediactlError:
        return agent_id


def _target(folder: Path, artifact: job_pb2.Artifact) -> Path:
    name = base_name(artifact.uri)
    if name in ("", ".", ".."):
        raise unavailable(f"{artifact.uri} has no name that a file can have")
    if not _SHA256.fullmatch(artifact.sha256):
        raise unavailable(f"of {artifact.name} no SHA-256 is known, so nothing could tell whether it came whole")
    return folder / name


def _require_distinct(paths: Iterable[Path]) -> None:
    seen = set()
    for path in paths:
        if path in seen:
            raise click.UsageError(f"two artifacts would be {path}: download them with --only into two folders")
        seen.add(path)


def _is(artifact: job_pb2.Artifact, path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != artifact.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256


def _receive(source: Source, draft: Draft, artifact: job_pb2.Artifact, moved: _Moved, stop: Event) -> None:
    """Fills the draft with the artifact, whatever breaks on the way. Raises MediactlError."""
    draft.take_up(artifact.size_bytes, moved)
    for last in (False, True):
        _fill(source, draft, artifact, moved, stop)
        if draft.sha256 == artifact.sha256:
            return
        # A line may have spoilt it, or an earlier try; the second time it is the source.
        moved(-draft.size)
        draft.begin_anew()
        if last:
            raise unavailable(f"{artifact.name}: what is there now is not what was published: its SHA-256 differs")


def _fill(source: Source, draft: Draft, artifact: job_pb2.Artifact, moved: _Moved, stop: Event) -> None:
    vain, pause_s = 0, _FIRST_PAUSE_S
    while draft.size < artifact.size_bytes:
        before = draft.size
        try:
            for data in source.read(draft.size):
                if stop.is_set():
                    raise MediactlError(Reason.CANCELLED, "interrupted")
                if draft.size + len(data) > artifact.size_bytes:
                    raise unavailable(f"{artifact.name}: what is there now is longer than what was published")
                draft.write(data)
                moved(len(data))
            if draft.size < artifact.size_bytes:
                raise Interrupted("it ended too early")
        except Interrupted as error:
            if draft.size > before:
                vain, pause_s = 0, _FIRST_PAUSE_S
            vain += 1
            if vain == _TRIES:
                came = f"; {render.size(draft.size)} that came are kept: once more goes on from there"
                raise unavailable(
                    f"{artifact.name}: {error}, {_TRIES} times in a row{came if draft.size else ''}"
                ) from None
            if stop.wait(pause_s):
                raise MediactlError(Reason.CANCELLED, "interrupted") from None
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@contextmanager
def _bar(settings: Settings, name: str, size: int) -> Iterator[_Moved]:
    console = render.console(settings, stderr=True)
    if not console.is_terminal or console.is_dumb_terminal or settings.quiet:
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), DownloadColumn())
    with Bars(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(render.plain(name), total=size)
        yield lambda count: bars.advance(task, count)
