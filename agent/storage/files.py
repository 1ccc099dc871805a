"""The store behind ``file:`` URIs: folders of the agent's machine, local or mounted."""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from agent.storage.faults import Fault, Kind, unsigned
from agent.storage.placing import place, sync_folder
from agent.storage.threads import in_thread
from agent.storage.values import Identity, SignedUrl, Staged
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import FILE, path_to_uri, uri_to_path

_SUFFIX = ".mediactl"
_NAME_MAX = 255  # bytes; of every filesystem in use, and the least where it differs
_BUFFER_BYTES = 1024 * 1024

_UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})

T = TypeVar("T")


class FileStore:
    """Reads and writes below ``roots`` only, wherever symbolic links lead. See :class:`ObjectStore`."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    async def fetch(self, uri: str, into: Path) -> Identity:
        return await in_thread(lambda _: self._fetch(uri, into))

    async def identify(self, uri: str) -> Identity:
        return await in_thread(lambda _: self._identify(uri)[1])

    async def check_target(self, uri: str, *, overwrite: bool) -> None:
        await in_thread(lambda _: self._check_target(uri, overwrite))

    async def stage(self, source: Path, uri: str, attempt_id: str) -> Staged:
        return await in_thread(
            lambda abandoned: self._stage(source, uri, attempt_id, abandoned),
            undo=lambda staged: self._discard(staged.staged_uri),
        )

    async def complete(self, final_uri: str, staged_uri: str, *, sha256: str, size: int, overwrite: bool) -> None:
        await in_thread(lambda _: self._complete(final_uri, staged_uri, sha256, size, overwrite))

    async def bears(self, uri: str, *, sha256: str, size: int) -> bool:
        def compare(_: threading.Event) -> bool:
            try:
                self._check_published(self._target(uri), sha256, size)
            except MediaFailure:
                return False
            return True

        return await in_thread(compare)

    async def discard(self, staged_uri: str) -> None:
        await in_thread(lambda _: self._discard(staged_uri))

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        def remove(_: threading.Event) -> bool:
            target = self._target(uri)
            staged = target.with_name(_staged_name(target.name, attempt_id))
            there = os.path.lexists(staged)
            self._discard(path_to_uri(str(staged)))
            return there

        return await in_thread(remove)

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        raise unsigned(uri, FILE, Fault(Kind.REFUSED, "a file of an agent's machine has no URL"))

    # --- inputs

    def _fetch(self, uri: str, into: Path) -> Identity:
        path, identity = self._identify(uri)
        into.unlink(missing_ok=True)
        into.symlink_to(path)
        return identity

    def _identify(self, uri: str) -> tuple[Path, Identity]:
        path = _path_of(uri, Reason.INPUT_UNAVAILABLE)
        try:
            real = self._within_roots(path.resolve(), path, Reason.INPUT_UNAVAILABLE)
            status = real.stat()
            if stat.S_ISREG(status.st_mode):
                # Proves the permission. Should a FIFO have taken its place, O_NONBLOCK keeps it from waiting.
                os.close(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
        except FileNotFoundError as error:
            raise MediaFailure(Reason.INPUT_NOT_FOUND, f"{path}: there is no such file") from error
        except NotADirectoryError as error:
            message = f"{path}: there is no such file: a part of the path is no directory"
            raise MediaFailure(Reason.INPUT_NOT_FOUND, message) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: how Path.resolve tells of a loop of links
            raise MediaFailure(Reason.INPUT_UNAVAILABLE, f"{path}: {_words(error)}") from error
        if not stat.S_ISREG(status.st_mode):
            raise MediaFailure(Reason.INPUT_UNAVAILABLE, f"{path} is {_kind(status.st_mode)}, not a regular file")
        if status.st_size == 0:
            raise MediaFailure(Reason.INPUT_EMPTY, f"{path} is empty (0 bytes)")
        token = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
        return real, Identity(status.st_size, token)

    # --- outputs

    def _check_target(self, uri: str, overwrite: bool) -> None:
        target = self._target(uri)
        try:
            _check_name(target, overwrite)
            folder = target.parent
            while not folder.exists():
                folder = folder.parent
            if not folder.is_dir():
                raise MediaFailure(Reason.OUTPUT_UNWRITABLE, f"{target}: {folder} is no directory")
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                message = f"{target}: the agent may not write to {folder}"
                raise MediaFailure(Reason.OUTPUT_UNWRITABLE, message)
        except OSError as error:
            raise MediaFailure(Reason.OUTPUT_UNWRITABLE, f"{target}: {_words(error)}") from error

    def _stage(self, source: Path, uri: str, attempt_id: str, abandoned: threading.Event) -> Staged:
        target = self._target(uri)
        staged = target.with_name(_staged_name(target.name, attempt_id))
        try:
            _make_folders(target.parent)
            # Of an earlier try of this same attempt.
            staged.unlink(missing_ok=True)
            try:
                if _link(source, staged):
                    size, digest = _digest(staged, abandoned)
                else:
                    size, digest = _copy(source, staged, abandoned)
                sync_folder(target.parent)
            except BaseException:
                with suppress(OSError):
                    staged.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _publishing_failure(target, error) from error
        return Staged(path_to_uri(str(staged)), size, digest)

    def _complete(self, final_uri: str, staged_uri: str, sha256: str, size: int, overwrite: bool) -> None:
        final, staged = self._target(final_uri), self._staged(staged_uri)
        try:
            if not os.path.lexists(staged):
                self._check_published(final, sha256, size)
            elif staged.lstat().st_size != size:
                raise MediaFailure(Reason.PUBLISH_FAILED, f"{final}: what was staged for it has been altered")
            elif overwrite:
                _check_name(final, overwrite)
                staged.replace(final)
                # Renaming one name of a file to another name of it does nothing at all.
                staged.unlink(missing_ok=True)
            else:
                place(staged, final)
            sync_folder(final.parent)
        except OSError as error:
            if isinstance(error, FileExistsError | FileNotFoundError) and not os.path.lexists(staged):
                # Another agent completed, or discarded, at the same time.
                self._check_published(final, sha256, size)
            elif isinstance(error, FileExistsError):
                raise MediaFailure(Reason.OUTPUT_EXISTS, _exists(final)) from error
            else:
                raise _publishing_failure(final, error) from error

    def _discard(self, staged_uri: str) -> None:
        staged = self._staged(staged_uri)
        try:
            staged.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise MediaFailure(Reason.PUBLISH_FAILED, f"{staged} cannot be removed: {_words(error)}") from error

    def _check_published(self, final: Path, sha256: str, size: int) -> None:
        try:
            status = final.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size == size and _digest(final)[1] == sha256:
                return
        except FileNotFoundError:
            message = f"{final}: what was staged for it is gone and nothing was published"
        except OSError as error:
            message = f"{final}: {_words(error)}"
        else:
            message = f"{final}: what was staged for it is gone and the name bears other content"
        raise MediaFailure(Reason.PUBLISH_FAILED, message)

    def _target(self, uri: str) -> Path:
        """The path that an output has once its folder's symbolic links are followed; its own name is taken as is."""
        path = _path_of(uri, Reason.OUTPUT_UNWRITABLE)
        if uri.endswith("/") or path.name in {"", ".."}:
            raise MediaFailure(Reason.OUTPUT_UNWRITABLE, f"{uri} names a folder, not a file")
        try:
            folder = path.parent.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: how Path.resolve tells of a loop of links
            raise MediaFailure(Reason.OUTPUT_UNWRITABLE, f"{path}: {_words(error)}") from error
        return self._within_roots(folder / path.name, path, Reason.OUTPUT_UNWRITABLE)

    def _staged(self, uri: str) -> Path:
        """As :meth:`_target`; what was not made by staging is refused, so that no other file can be removed."""
        staged = self._target(uri)
        if not (staged.name.startswith(".") and staged.name.endswith(_SUFFIX)):
            raise MediaFailure(Reason.PUBLISH_FAILED, f"{staged} was not made by staging")
        return staged

    def _within_roots(self, real: Path, asked: Path, reason: Reason) -> Path:
        if any(real.is_relative_to(root.resolve()) for root in self._roots):
            return real
        roots = ", ".join(map(str, self._roots)) or "none"
        leads = "" if real == asked else f" (it leads to {real})"
        raise MediaFailure(reason, f"{asked} is outside the folders that this agent may use: {roots}{leads}")


def _path_of(uri: str, reason: Reason) -> Path:
    try:
        return Path(uri_to_path(uri))
    except ValueError as error:
        raise MediaFailure(reason, str(error)) from error


def _check_name(target: Path, overwrite: bool) -> None:
    """Refuses a target that is there and must not be, or cannot be, replaced."""
    if len(os.fsencode(target.name)) > _NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        mode = target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise MediaFailure(Reason.OUTPUT_UNWRITABLE, f"{target} is {_kind(mode)}, not a regular file")
    if not overwrite:
        raise MediaFailure(Reason.OUTPUT_EXISTS, _exists(target))


def _staged_name(name: str, attempt_id: str) -> str:
    """A hidden name of the attempt's own, cut where it would be too long for a filesystem."""
    if "/" in attempt_id or not attempt_id:
        raise ValueError(f"attempt id {attempt_id!r} cannot be part of a file name")
    room = _NAME_MAX - len(os.fsencode(f"..{attempt_id}{_SUFFIX}"))
    encoded = os.fsencode(name)
    if len(encoded) > room:
        # Names of one attempt that differ only behind the cut must stay different.
        mark = hashlib.sha256(encoded).hexdigest()[:16]
        name = encoded[: room - len(mark)].decode(errors="ignore") + mark
    return f".{name}.{attempt_id}{_SUFFIX}"


def _make_folders(folder: Path) -> None:
    """Creates ``folder`` and its parents, each durable in its own parent."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return
    except FileNotFoundError as error:
        # The parent is there: it is a file system that takes no folders, such as /proc.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), os.fspath(folder)) from error
    sync_folder(folder.parent)


def _link(source: Path, staged: Path) -> bool:
    """Gives ``source`` the further name ``staged`` where that is as good as a copy; False where it is not.

    It is not where the folder passes on its group or an access list, which only files created there receive.
    """
    file, folder = source.lstat(), staged.parent.stat()
    private = stat.S_ISREG(file.st_mode) and file.st_nlink == 1 and file.st_uid == os.geteuid()
    if not private or file.st_dev != folder.st_dev or folder.st_mode & stat.S_ISGID:
        return False
    try:
        if "system.posix_acl_default" in os.listxattr(staged.parent):
            return False
        os.link(source, staged)
    except OSError:  # no access lists, no links, or another mount of the same device: copying shows any real fault
        return False
    return True


def _digest(path: Path, abandoned: threading.Event | None = None) -> tuple[int, str]:
    """Size and SHA-256 of a file, after making it durable."""
    with path.open("rb") as file:
        size, digest = _pump(file.fileno(), None, abandoned)
        os.fsync(file.fileno())
    return size, digest


def _copy(source: Path, staged: Path, abandoned: threading.Event) -> tuple[int, str]:
    """Copies into a new file, durably; mode and owner are those of any file created there."""
    with source.open("rb") as read:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            size, digest = _pump(read.fileno(), descriptor, abandoned)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return size, digest


def _pump(read: int, write: int | None, abandoned: threading.Event | None) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while count := os.readv(read, [buffer]):
        if abandoned is not None and abandoned.is_set():
            raise InterruptedError(errno.EINTR, "abandoned")
        size += count
        digest.update(buffer[:count])
        written = 0
        while write is not None and written < count:
            written += os.write(write, buffer[written:count])
    return size, digest.hexdigest()


def _publishing_failure(target: Path, error: OSError) -> MediaFailure:
    reason = Reason.OUTPUT_UNWRITABLE if error.errno in _UNWRITABLE else Reason.PUBLISH_FAILED
    return MediaFailure(reason, f"{target}: {_words(error)}")


def _exists(target: Path) -> str:
    return f"{target} exists; overwrite (--overwrite) replaces it"


def _words(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((words for test, words in kinds if test(mode)), "a special file")
