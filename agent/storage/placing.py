"""Giving a file its final name without replacing another, on whatever the filesystem can do.

Every function may be repeated after a crash at any point of it.
"""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

#: What filesystems without hard links (exFAT, many network ones) answer to link(2).
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EXDEV})
#: What filesystems answer that know no RENAME_NOREPLACE.
_NO_FLAG = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_libc = ctypes.CDLL(None, use_errno=True)


def place(staged: Path, final: Path) -> None:
    """Gives ``staged`` the name ``final``, which must be free, and takes its old name away.

    :raises FileExistsError: something else bears the name.
    :raises FileNotFoundError: ``staged`` is gone.
    """
    try:
        _place_anew(staged, final)
    except FileExistsError:
        # What an earlier try of this same publication left when it was interrupted is no obstacle.
        if _same_file(staged, final):
            staged.unlink()
        elif _is_claim(final, staged):
            staged.replace(final)
        else:
            raise


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems cannot, and keep names durable themselves.
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
    finally:
        os.close(descriptor)


def _place_anew(staged: Path, final: Path) -> None:
    try:
        os.link(staged, final, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        staged.unlink()
        return
    try:
        _rename_noreplace(staged, final)
    except OSError as error:
        if error.errno not in _NO_FLAG:
            raise
    else:
        return
    staged.lstat()  # without anything to put there, nothing is reserved
    # The last resort reserves the name first, and says in it whose it is. Should the machine stop just between making
    # the reservation and writing into it, an empty file stays and has to be removed by hand.
    descriptor = os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.write(descriptor, _claim(staged))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    staged.replace(final)


def _same_file(one: Path, other: Path) -> bool:
    """Whether both names are one file; symbolic links are not followed."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False


def _rename_noreplace(staged: Path, final: Path) -> None:
    """rename(2) that fails where ``final`` exists: renameat2(2), which the standard library does not offer."""
    if not hasattr(_libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(final))
    if _libc.renameat2(_AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(final), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(staged), None, str(final))


def _claim(staged: Path) -> bytes:
    return b"mediactl is publishing here from " + os.fsencode(staged.name) + b"\n"


def _is_claim(final: Path, staged: Path) -> bool:
    expected = _claim(staged)
    try:
        if not (final.is_file() and not final.is_symlink() and final.stat().st_size == len(expected)):
            return False
        return final.read_bytes() == expected
    except OSError:
        return False
