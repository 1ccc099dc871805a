"""A file on its way: hidden until it is whole, and gone on with where an earlier try left off."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import click

_PIECE_BYTES: Final = 1 << 20


class Draft:
    """Of content with a known SHA-256, beside its later name. `size` is how much of it is there."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def take_up(self, most_bytes: int, moved: Callable[[int], object]) -> None:
        """Count in what is there already; `moved` hears of each piece of it. More than `most_bytes` is no beginning."""
        if os.fstat(self._file.fileno()).st_size > most_bytes:
            self.begin_anew()
        self._file.seek(0)
        while data := self._file.read(_PIECE_BYTES):
            self._digest.update(data)
            self.size += len(data)
            moved(len(data))

    def write(self, data: bytes) -> None:
        """Append."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def begin_anew(self) -> None:
        """Forget all that is there."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.size = 0

    def place(self, target: Path, *, overwrite: bool) -> None:
        """Give the whole file its name, durably. Raises click.UsageError where that is taken."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if overwrite:
            self._path.replace(target)
        else:
            _name(self._path, target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def drafting(folder: Path, sha256: str) -> Iterator[Draft]:
    """The draft of this content in a folder, for one process at a time. What is not placed is kept for another try.

    Raises click.UsageError where another process has it.
    """
    path = folder / f".mediactl-{sha256[:32]}.part"
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise click.UsageError(f"another mediactl is downloading the same into {folder}") from None
            # Whoever had it before may just have given it its name.
            if _is(path, file):
                draft = Draft(path, file)
                try:
                    yield draft
                finally:
                    if not draft.size and _is(path, file):
                        path.unlink()
                return


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def require_free(target: Path) -> None:
    """Raises click.UsageError."""
    if target.exists() or target.is_symlink():
        raise click.UsageError(f"{target} exists: remove it, choose another folder, or replace it with --overwrite")


def _name(path: Path, target: Path) -> None:
    require_free(target)
    try:
        os.link(path, target)
    except FileExistsError:
        require_free(target)
        raise
    except OSError:
        # A filesystem without hard links.
        path.rename(target)
    else:
        path.unlink()
