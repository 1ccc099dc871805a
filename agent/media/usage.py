"""What a process has used, from /proc. Standard library only: the supervisor of FFmpeg needs it."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children that have ended used so far.

    ``cpu_seconds`` is user and system time, ``peak_memory_bytes`` the largest resident set of one process.
    ``bytes_read`` and ``bytes_written`` went through its system calls, to a disk or to the cache of files.
    """

    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Of two that ran one after the other."""
        return Usage(
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
        )


def reap(pid: int) -> tuple[int, Usage]:
    """Waits for a child of this process; its exit code, or minus the number of the signal that ended it, and its use.

    Of itself and of all of its children that were waited for. What the kernel tells of the bytes of a process that has
    ended it tells root alone, but adds them to the parent's own when it is waited for: nothing else may be read or
    written meanwhile. The resident set begins with that of this process, if that is larger.
    """
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    before = _fields(PROC / "self" / "io")
    _, status, used = os.wait4(pid, 0)
    after = _fields(PROC / "self" / "io")
    return os.waitstatus_to_exitcode(status), Usage(
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak_memory_bytes=used.ru_maxrss * 1024,
        bytes_read=after.get("rchar", 0) - before.get("rchar", 0),
        bytes_written=after.get("wchar", 0) - before.get("wchar", 0),
    )


def read_usage(pid: int, proc: Path = PROC) -> Usage:
    """What a process has used while it runs; zero where it is gone or the kernel does not tell."""
    folder = proc / str(pid)
    # The name in parentheses may hold anything. Fields 14 to 17 are the times of it and of its children.
    times = _text(folder / "stat").rpartition(")")[2].split()[11:15]
    io = _fields(folder / "io")
    return Usage(
        cpu_seconds=sum(int(time) for time in times) * _TICK_S,
        peak_memory_bytes=_fields(folder / "status").get("VmHWM", 0) * 1024,
        bytes_read=io.get("rchar", 0),
        bytes_written=io.get("wchar", 0),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _fields(file: Path) -> dict[str, int]:
    """The lines of ``name: number`` and whatever follows."""
    found = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            found[name] = int(number[0])
    return found
