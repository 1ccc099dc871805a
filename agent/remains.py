"""What failed attempts left behind, kept for a while: logs, documents that explain, partial outputs; never inputs."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.media.logs import Tail, redact
from agent.workspace import folder_bytes

log = structlog.get_logger()

PIECE_BYTES = 128 * 1024
"""Of an archive. Small, for whatever else the agent has to say waits while a piece is on a slow link."""
MOST_FILE_BYTES = 64 * 2**20
"""Of a partial output; what comes behind is cut off."""
MOST_KEPT = 1000
"""Attempts: where everything fails at once, the last ones tell enough."""
SWEEP_S = 600.0
CUT = ".cut"
"""Ends the name of an output that was cut off."""

_GZIP = 16 + zlib.MAX_WBITS
_INPUTS = "in"
_OUTPUTS = "out"
_LEASE = "lease.pb"
"""No text, so no secret can be blanked out of it; what of it explains is in the documents."""
_DRAFT = ".redacting"
_COPYING = ".copying"


class NothingKept(Exception):
    """There is nothing of that attempt, or no longer; the message says why."""


@dataclass(frozen=True, slots=True)
class _Kept:
    size: int
    at_s: float


class Remains:
    """A folder for each attempt below `folder`, as long as `keep_s` seconds and `keep_bytes` altogether allow.

    What has been longest there goes first. Either of the two as 0: nothing is kept. Usable from several threads; all
    of it blocks.

    A workspace becomes a kept folder by two renames: to a hidden name, under which it is stripped of what must not be
    kept, then to the attempt's id. What a crash leaves in between is stripped again by the next `sweep`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_s: float = 86_400.0,
        keep_bytes: int = 2**30,
        most_file_bytes: int = MOST_FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._most_file_bytes = most_file_bytes
        self._clock = clock
        self._lock = threading.RLock()
        self._known: dict[str, _Kept] | None = None

    def keep(self, workspace: Path, attempt_id: str, documents: Mapping[str, bytes]) -> int:
        """Turn the workspace of a failed attempt, if there is one, into its remains, with `documents` by file name.

        Returns how many bytes are kept; 0 where nothing is, or can be: then the workspace is left to the caller.
        Secrets are blanked out of everything but the outputs. A repeat after a crash goes on where that came.
        """
        if not self._keep_s or not self._keep_bytes:
            return 0
        with self._lock:
            try:
                kept = self._all()
                if attempt_id not in kept:
                    self._begin(workspace, attempt_id, documents)
                    self._finish(attempt_id)
                self._bound()
            except OSError as error:
                log.warning("nothing is kept of a failed attempt", attempt=attempt_id, error=str(error))
                shutil.rmtree(self._hidden(attempt_id), ignore_errors=True)
                return 0
            return kept[attempt_id].size if attempt_id in kept else 0

    def kept_bytes(self, attempt_id: str) -> int:
        """What there is of an attempt; what a crash left half done of it is finished first."""
        with self._lock:
            try:
                if self._hidden(attempt_id).is_dir():
                    self._finish(attempt_id)
                kept = self._all().get(attempt_id)
            except OSError as error:
                log.warning("what is kept of a failed attempt can't be looked at", attempt=attempt_id, error=str(error))
                return 0
            return kept.size if kept else 0

    def sweep(self) -> None:
        """Drop what has been kept long enough, and finish or remove what a crash left half done."""
        with self._lock:
            try:
                for entry in sorted(self._folder.glob(".*")):
                    if entry.name.endswith(_COPYING):
                        shutil.rmtree(entry, ignore_errors=True)
                    else:
                        self._finish(entry.name.removeprefix("."))
                self._bound()
            except OSError as error:
                log.warning("what is kept of failed attempts could not be swept", error=str(error))

    async def sweep_forever(self) -> None:
        """Sweep now and then."""
        while True:
            await asyncio.to_thread(self.sweep)
            await asyncio.sleep(SWEEP_S)

    def make_room(self, wanted_bytes: int, volume_of: Path) -> int:
        """Drop, longest kept first, until so many bytes are freed on that folder's volume; returns how many were.

        Raises OSError where the folders can't be looked at.
        """
        with self._lock:
            kept, freed = self._all(), 0
            if not kept or self._folder.stat().st_dev != volume_of.stat().st_dev:
                return 0
            for attempt_id in list(kept):
                if freed >= wanted_bytes:
                    break
                freed += kept[attempt_id].size
                self._drop(attempt_id, "the disk is low")
            return freed

    def pieces(self, attempt_id: str) -> Iterator[bytes]:
        """A gzipped tar archive of what is kept, in pieces of at most `PIECE_BYTES`.

        Raises NothingKept, also halfway where it is dropped meanwhile.
        """
        # The id comes from outside: only one that is known here becomes a part of a path.
        if not self._keeps(attempt_id):
            why = "its time, or the room for such things, was used up" if self._keep_s and self._keep_bytes else "never"
            raise NothingKept(f"the agent keeps nothing of this attempt: {why}")
        packer = zlib.compressobj(level=1, wbits=_GZIP)
        packed = bytearray()
        try:
            for plain in _tar(self._folder / attempt_id):
                packed += packer.compress(plain)
                while len(packed) >= PIECE_BYTES:
                    yield bytes(packed[:PIECE_BYTES])
                    del packed[:PIECE_BYTES]
        except OSError as error:
            raise NothingKept(f"the agent dropped it while it was being sent: {error}") from error
        if not self._keeps(attempt_id):
            # What was missing already looked like the end.
            raise NothingKept("the agent dropped it while it was being sent")
        packed += packer.flush()
        for start in range(0, len(packed), PIECE_BYTES):
            yield bytes(packed[start : start + PIECE_BYTES])

    # Keeping

    def _keeps(self, attempt_id: str) -> bool:
        with self._lock:
            return attempt_id in self._all()

    def _hidden(self, attempt_id: str) -> Path:
        return self._folder / f".{attempt_id}"

    def _begin(self, workspace: Path, attempt_id: str, documents: Mapping[str, bytes]) -> None:
        hidden = self._hidden(attempt_id)
        if hidden.exists():
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(workspace, documents)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # What explains is worth more than what did not become an output.
            for name in (_INPUTS, _OUTPUTS):
                shutil.rmtree(workspace / name, ignore_errors=True)
            _write(workspace, documents)
        try:
            workspace.rename(hidden)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(workspace, hidden)

    def _copy(self, workspace: Path, hidden: Path) -> None:
        """For a scratch folder on another filesystem."""
        copying = hidden.with_name(hidden.name + _COPYING)
        shutil.rmtree(copying, ignore_errors=True)
        copying.mkdir(mode=0o700)
        for path in _files(workspace):
            name = path.relative_to(workspace)
            if name.parts[0] != _INPUTS:
                (copying / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                # One byte more than fits shows that it was cut off.
                most = self._most_file_bytes + 1 if name.parts[0] == _OUTPUTS else path.stat().st_size
                _copy_head(path, copying / name, most)
        copying.rename(hidden)

    def _finish(self, attempt_id: str) -> None:
        hidden = self._hidden(attempt_id)
        shutil.rmtree(hidden / _INPUTS, ignore_errors=True)
        for folder, folders, names in os.walk(hidden):
            for name in (*folders, *names):
                path = Path(folder, name)
                kind = path.lstat().st_mode
                if name == _LEASE or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                    # A link is not followed, and nobody listens on a socket any more.
                    path.unlink()
                elif stat.S_ISREG(kind):
                    self._strip(path, is_output=path.relative_to(hidden).parts[0] == _OUTPUTS)
        now_s = self._clock()
        os.utime(hidden, (now_s, now_s))
        hidden.rename(self._folder / attempt_id)
        self._all()[attempt_id] = _Kept(folder_bytes(self._folder / attempt_id), now_s)

    def _strip(self, path: Path, *, is_output: bool) -> None:
        if path.name.endswith(_DRAFT):
            path.unlink()
        elif not is_output:
            _blank_secrets(path)
        elif (status := path.stat()).st_size > self._most_file_bytes:
            if status.st_nlink > 1:
                # It bears another name where it is staged or published: that content is not ours to cut.
                path.unlink()
            else:
                # In this order: what was cut off must not bear the name of what is whole, whatever crashes.
                named = path if path.name.endswith(CUT) else path.rename(path.with_name(path.name + CUT))
                os.truncate(named, self._most_file_bytes)

    # Bounds

    def _all(self) -> dict[str, _Kept]:
        """What is kept, longest kept first."""
        if self._known is None:
            found = {}
            for entry in self._folder.iterdir() if self._folder.is_dir() else ():
                if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
                    found[entry.name] = _Kept(folder_bytes(entry), entry.stat().st_mtime)
            self._known = dict(sorted(found.items(), key=lambda item: item[1].at_s))
        return self._known

    def _bound(self) -> None:
        kept, now_s = self._all(), self._clock()
        total = sum(one.size for one in kept.values())
        for attempt_id, one in list(kept.items()):
            old = now_s - one.at_s >= self._keep_s
            if not old and total <= self._keep_bytes and len(kept) <= MOST_KEPT:
                break
            total -= one.size
            self._drop(attempt_id, "its time is over" if old else "the room for what failed is used up")

    def _drop(self, attempt_id: str, why: str) -> None:
        shutil.rmtree(self._folder / attempt_id, ignore_errors=True)
        del self._all()[attempt_id]
        log.info("dropped what was kept of a failed attempt", attempt=attempt_id, why=why)


def _files(folder: Path) -> Iterator[Path]:
    """Regular files, links not followed, in a fixed order."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _write(folder: Path, documents: Mapping[str, bytes]) -> None:
    for name, content in documents.items():
        (folder / name).write_bytes(redact(content))


def _copy_head(source: Path, target: Path, most: int) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        while most and (piece := reading.read(min(most, 2**20))):
            writing.write(piece)
            most -= len(piece)


def _blank_secrets(path: Path) -> None:
    if all(redact(piece) == piece for piece in _read(path)):
        return
    draft = path.with_name(path.name + _DRAFT)
    try:
        with draft.open("wb") as writing:
            for piece in _read(path):
                writing.write(redact(piece))
        draft.replace(path)
    except OSError:
        # No room for a clean copy: better none.
        for one in (draft, path):
            with suppress(OSError):
                one.unlink()


def _read(path: Path) -> Iterator[bytes]:
    tail = Tail(path)
    while piece := tail.read(final=True):
        yield piece


def _tar(folder: Path) -> Iterator[bytes]:
    """An uncompressed archive in small pieces. `tarfile` would write each file in one go."""
    for path in _files(folder):
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            status = os.fstat(file.fileno())
            info = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder)}")
            info.size, info.mtime, info.mode = status.st_size, int(status.st_mtime), 0o600
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            left = info.size
            while left:
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise OSError(errno.EIO, "a file became shorter", str(path))
                left -= len(piece)
                yield piece
            yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
