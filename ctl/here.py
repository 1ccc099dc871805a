"""Files of this machine that a request to a remote controller names: inputs are uploaded first, results are fetched."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from ctl import render
from ctl.settings import Settings
from mediactl.client import Client
from mediactl.deposits import LocalFile
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from presets.uris import CONTROLLER, object_uri, path_to_uri, place, uri_to_path

# Stands for a file of this machine until that is uploaded; no agent and no controller ever sees it.
_HERE: Final = "here"


class Here:
    """What a request says of this machine. Of one `request_id` the same folders have the same places for results."""

    def __init__(self, request_id: str) -> None:
        self._folder = hashlib.sha256(request_id.encode()).hexdigest()[:16]
        self.folders: dict[Path, str] = {}
        """Folders that results shall come to, and the URIs that they have meanwhile, which end in `/`."""

    def input_uri(self, path: Path) -> str:
        """What stands for the file until it is uploaded."""
        return _HERE + path_to_uri(str(path)).removeprefix("file")

    def output_uri(self, path: Path, *, prefix: bool) -> str:
        """Where a result goes that is wanted as this file, or with `prefix` in this folder."""
        folder = path if prefix else path.parent
        number = f"-{len(self.folders)}" if self.folders else ""
        base = self.folders.setdefault(folder, f"{CONTROLLER}://results/{self._folder}{number}/")
        return base if prefix else base + quote(path.name.encode("utf-8", "surrogateescape").decode(errors="replace"))

    def target(self, uri: str) -> Path | None:
        """Where the result is wanted; None for one that goes elsewhere."""
        for folder, base in self.folders.items():
            if uri.startswith(base):
                return folder / place(uri).path.removeprefix(place(base).path)
        return None

    def uploaded(self, client: Client, specs: Sequence[job_pb2.JobSpec], settings: Settings) -> list[job_pb2.JobSpec]:
        """The specs with the URIs that the inputs have once they are uploaded. Repeating it uploads nothing twice.

        What else is wrong with them is found before anything is sent. Raises MediactlError.
        """
        paths = {one.uri: _path(one.uri) for spec in specs for one in spec.inputs if _is_here(one.uri)}
        if not paths:
            return [*specs]
        _check(client, specs)
        with Bar.shown(settings) as bar:
            uris = {uri: _upload(client, path, bar) for uri, path in paths.items()}
        return _with_inputs(specs, lambda uri: uris.get(uri, uri))


def _is_here(uri: str) -> bool:
    return uri.startswith(f"{_HERE}://")


def _path(uri: str) -> Path:
    return Path(uri_to_path("file" + uri.removeprefix(_HERE)))


def _with_inputs(specs: Sequence[job_pb2.JobSpec], renamed: Callable[[str], str]) -> list[job_pb2.JobSpec]:
    made = []
    for spec in specs:
        copy = job_pb2.JobSpec()
        copy.CopyFrom(spec)
        for one in copy.inputs:
            one.uri = renamed(one.uri)
        made.append(copy)
    return made


def _check(client: Client, specs: Sequence[job_pb2.JobSpec]) -> None:
    """Asks for the jobs with inputs that are certainly not there yet: nothing but that must be in the way."""
    missing = {
        f"jobs[{number}].inputs[{index}].uri"
        for number, spec in enumerate(specs)
        for index, one in enumerate(spec.inputs)
        if _is_here(one.uri)
    }
    for spec in specs:
        for one in spec.inputs:
            if _is_here(one.uri) and not _path(one.uri).is_file():
                LocalFile.of(_path(one.uri))
    pending = _with_inputs(
        specs, lambda uri: object_uri(CONTROLLER, f"uploads/-/{_name(_path(uri))}") if _is_here(uri) else uri
    )
    try:
        client.submit_all(pending)
    except MediactlError as error:
        others = tuple((field, text) for field, text in error.fields if field not in missing)
        if not error.fields:
            raise
        if others:
            told = "; ".join(f"{field}: {text}" for field, text in others)
            raise MediactlError(error.reason, told, fields=others) from None


def _upload(client: Client, path: Path, bar: "Bar") -> str:
    bar.begin(f"reading {path.name}", path.stat().st_size if path.is_file() else 0)
    file = LocalFile.of(path, bar.came)
    upload = client.begin_upload(name=_name(path), size_bytes=file.size, sha256=file.sha256)
    if upload.whole:
        return upload.uri

    def source(offset: int) -> Iterator[bytes]:
        bar.begin(f"uploading {path.name}", file.size, offset)
        for data in file.pieces(offset):
            yield data
            bar.came(len(data))

    client.extend_upload(upload, source)
    bar.begin(f"checking {path.name}", 0)
    return client.finish_upload(upload.upload_id).uri


def _name(path: Path) -> str:
    # A file's name may be no text.
    return path.name.encode("utf-8", "surrogateescape").decode(errors="replace")


class Bar:
    """How far one transfer is, on a terminal; one after the other."""

    def __init__(self, bars: Bars | None) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None) if bars is not None else None

    @classmethod
    @contextmanager
    def shown(cls, settings: Settings) -> Iterator[Self]:
        """One on stderr, nothing where that is no terminal."""
        console = render.console(settings, stderr=True)
        if not console.is_terminal or console.is_dumb_terminal or settings.quiet:
            yield cls(None)
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
        with Bars(*columns, DownloadColumn(), TransferSpeedColumn(), console=console, transient=True) as bars:
            yield cls(bars)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Shows something else; a `total` of 0 is one that is not known."""
        if self._bars is not None and self._task is not None:
            self._bars.reset(self._task, description=render.plain(what), total=total or None, completed=done)

    def came(self, count: int) -> None:
        """So many bytes more."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)
