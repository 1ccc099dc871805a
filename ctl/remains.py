"""`mediactl jobs artifacts --failed`: the archive of what a failed attempt left, into a file or to stdout."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import click
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from ctl import render
from ctl.connection import with_client
from ctl.settings import Format, Settings
from mediactl.client import Client
from mediactl.v1 import job_service_pb2

_STDOUT: Final = Path("-")


def fetch_remains(settings: Settings, job_id: str, attempt_id: str, file: Path | None) -> int:
    """Fetches the archive and says where it is. A file appears whole, and only where there was none."""
    if file == _STDOUT:
        if sys.stdout.isatty():
            raise click.UsageError("an archive is nothing for a terminal: --file FILE, or pipe it into `tar -tz`")
        pipe = _Pipe()
        with_client(settings, lambda client: pipe.fill(client, settings, job_id, attempt_id))
        return 0
    if file is not None:
        _require_free(file)
    head, path = with_client(settings, lambda client: _save(client, settings, job_id, attempt_id, file))
    if settings.format is Format.TABLE:
        print(path)
    else:
        render.write({**render.data(head), "file": str(path)}, settings)
    return 0


class _Pipe:
    """Stdout, for an archive that may have to be asked for again from its start: no byte goes out twice."""

    def __init__(self) -> None:
        self._out = sys.stdout.buffer
        self._sent = 0
        self._position = 0

    def fill(self, client: Client, settings: Settings, job_id: str, attempt_id: str) -> None:
        self._position = 0
        _copy(client, settings, job_id, attempt_id, self.write)
        self._out.flush()

    def write(self, data: bytes) -> None:
        news = data[max(0, self._sent - self._position) :]
        self._out.write(news)
        self._sent += len(news)
        self._position += len(data)


def _save(
    client: Client, settings: Settings, job_id: str, attempt_id: str, file: Path | None
) -> tuple[job_service_pb2.FetchRemainsResponse, Path]:
    with _draft(file.parent if file is not None else Path()) as (draft, out):
        head = _copy(
            client, settings, job_id, attempt_id, out.write, told=lambda head: _require_free(_path(head, file))
        )
        out.flush()
        os.fsync(out.fileno())
        _place(draft, _path(head, file))
    return head, _path(head, file)


def _path(head: job_service_pb2.FetchRemainsResponse, file: Path | None) -> Path:
    return file if file is not None else Path(f"{head.job_id}.failed.tar.gz")


@contextmanager
def _draft(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file under a name of its own, readable for its owner alone, which is gone at the end."""
    handle, name = tempfile.mkstemp(prefix=".mediactl-", suffix=".tar.gz", dir=folder)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            yield draft, out
    finally:
        draft.unlink(missing_ok=True)


def _place(draft: Path, path: Path) -> None:
    _require_free(path)
    try:
        os.link(draft, path)
    except FileExistsError:
        _require_free(path)
        raise
    except OSError:
        # A filesystem without hard links.
        draft.rename(path)


def _require_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise click.UsageError(f"{path} exists: remove it, or choose another name with --file")


def _copy(
    client: Client,
    settings: Settings,
    job_id: str,
    attempt_id: str,
    write: Callable[[bytes], object],
    told: Callable[[job_service_pb2.FetchRemainsResponse], None] = lambda head: None,
) -> job_service_pb2.FetchRemainsResponse:
    """The archive, by pieces, to `write`; returns whose it is and how large, of which `told` hears before them."""
    head = job_service_pb2.FetchRemainsResponse()
    with _bar(settings) as bar:
        for piece in client.remains(job_id, attempt_id=attempt_id):
            if piece.job_id:
                head.CopyFrom(piece)
                told(head)
                bar.whose(head)
            write(piece.data)
            bar.came(len(piece.data))
    return head


class _Bar:
    def __init__(self, bars: Bars | None) -> None:
        self._bars = bars
        self._task = bars.add_task("waiting for the controller", total=None) if bars is not None else None

    def whose(self, head: job_service_pb2.FetchRemainsResponse) -> None:
        if self._bars is not None and self._task is not None:
            told = f"attempt {head.attempt_id}" if head.size_bytes else f"agent {head.agent_id} is sending it"
            self._bars.update(self._task, description=render.plain(told), total=head.size_bytes or None)

    def came(self, count: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)


@contextmanager
def _bar(settings: Settings) -> Iterator[_Bar]:
    console = render.console(settings, stderr=True)
    if not console.is_terminal or console.is_dumb_terminal or settings.quiet:
        yield _Bar(None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
    with Bars(*columns, DownloadColumn(), TransferSpeedColumn(), console=console, transient=True) as bars:
        yield _Bar(bars)
