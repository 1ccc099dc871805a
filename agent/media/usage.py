"""What a process has used so far, from /proc."""

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

    def followed_by(self, used: "Usage") -> "Usage":
        """Both, one after the other."""
        return Usage(
            self.cpu_seconds + used.cpu_seconds,
            max(self.peak_memory_bytes, used.peak_memory_bytes),
            self.bytes_read + used.bytes_read,
            self.bytes_written + used.bytes_written,
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
