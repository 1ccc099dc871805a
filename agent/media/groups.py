"""Control groups, one for each attempt, below a group in which the agent may make them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

#: How long a group may take to become empty once all in it was killed: a process that waits for a disk dies late.
EMPTY_S = 5.0
_POLL_S = 0.005
#: Before the agent and everything else that has no score.
_OOM_SCORE = 500


@dataclass(frozen=True, slots=True)
class Groups:
    """Makes groups, says what the kernel did in them, and removes them.

    ``memory`` and ``cpu`` are the folders that hold them: one folder in version 2, where ``unified`` is true; in
    version 1 one in the hierarchy of each controller, and ``cpu`` may be missing. ``owner`` tells the agents apart
    that share the folders.
    """

    memory: Path
    cpu: Path | None
    unified: bool
    owner: str

    def make(self, attempt_id: str, cores: int, memory_bytes: int) -> list[Path]:
        """Makes the group of an attempt or sets its limits anew; the files that take the ids of its processes.

        What is in it may occupy ``memory_bytes``, swap not at all, and gets CPU time in proportion to ``cores``
        wherever others want it too: a limit would leave cores idle.

        :raises OSError: the kernel refuses.
        """
        folders = list(self._folders(attempt_id))
        for folder in folders:
            folder.mkdir(exist_ok=True)
        memory, cpu = folders[0], folders[-1]
        if self.unified:
            _write(memory / "memory.max", memory_bytes)
            # Of an attempt only the process that is too large is killed, so that the others can tell.
            _write_if_there(memory / "memory.oom.group", 0)
            _write_if_there(memory / "memory.swap.max", 0)
            _write_if_there(cpu / "cpu.weight", min(10_000, 100 * cores))
        else:
            _write(memory / "memory.limit_in_bytes", memory_bytes)
            _write_if_there(memory / "memory.swappiness", 0)
            if self.cpu is not None:
                _write_if_there(cpu / "cpu.shares", 1024 * cores)
        return [folder / "cgroup.procs" for folder in folders]

    def oom_kills(self, attempt_id: str) -> int:
        """How many processes of the attempt the kernel killed because they were over its limit of memory."""
        folder = next(self._folders(attempt_id))
        try:
            words = (folder / ("memory.events" if self.unified else "memory.oom_control")).read_text().split()
        except OSError:
            return 0
        return sum(int(count) for name, count in pairwise(words) if name == "oom_kill")

    def kill(self, attempt_id: str) -> None:
        """Kills everything in the group; what it forks meanwhile too. Where there is no group, nothing is done."""
        for folder in self._folders(attempt_id):
            with suppress(OSError):
                _write_if_there(folder / "cgroup.kill", 1)
            for pid in _members(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self, attempt_id: str) -> bool:
        """Kills what is left in the group and removes it. False: something in it would not die within EMPTY_S."""
        deadline = time.monotonic() + EMPTY_S
        while any(not _removed(folder) for folder in self._folders(attempt_id)):
            if time.monotonic() > deadline:
                return False
            self.kill(attempt_id)
            time.sleep(_POLL_S)
        return True

    def attempts(self) -> list[str]:
        """The ids of the attempts that have a group, also those of this agent's former lives."""
        prefix = self._name("")
        return sorted(folder.name.removeprefix(prefix) for folder in self.memory.glob(f"{prefix}*"))

    def _folders(self, attempt_id: str) -> Iterator[Path]:
        if not attempt_id or "/" in attempt_id or "\0" in attempt_id:
            raise ValueError(f"attempt id {attempt_id!r} cannot be part of a group's name")
        yield self.memory / self._name(attempt_id)
        if self.cpu is not None and self.cpu != self.memory:
            yield self.cpu / self._name(attempt_id)

    def _name(self, attempt_id: str) -> str:
        return f"mediactl-{self.owner}.{attempt_id}"


def entering(files: Sequence[Path], rlimit_bytes: int | None = None) -> list[str]:
    """Words before a command by which it joins the groups of ``files``, or gets that rlimit, before it is executed.

    It ends with 126 where that fails. It also becomes the first that the kernel ends when the whole machine is out of
    memory.
    """
    steps = [f'echo $$ > "${number}"' for number in range(1, len(files) + 1)]
    # The shell's own word for RLIMIT_DATA, in KiB: a program less to start than with prlimit.
    steps += [f"ulimit -d {rlimit_bytes // 1024}"] if rlimit_bytes is not None else []
    script = " && ".join([*steps, f"shift {len(files)}"])
    score = f"echo {_OOM_SCORE} 2>/dev/null >/proc/self/oom_score_adj"
    return ["/bin/sh", "-c", f'{{ {script}; }} || exit 126; {score}; exec "$@"', "sh", *map(str, files)]


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the kernel shows control groups: version 2, and of version 1 the controllers that are mounted."""

    unified: Path | None
    controllers: dict[str, Path]

    @classmethod
    def read(cls, mountinfo: Path = Path("/proc/self/mountinfo")) -> Self:
        """As this process sees them.

        :raises OSError: the kernel does not tell.
        """
        unified: Path | None = None
        controllers: dict[str, Path] = {}
        for line in mountinfo.read_text().splitlines():
            mount, _, kind = line.partition(" - ")
            where = Path(mount.split()[4])
            match kind.split():
                case ["cgroup2", *_]:
                    unified = where
                case ["cgroup", _, options]:
                    controllers |= dict.fromkeys(options.split(","), where)
                case _:
                    pass
        return cls(unified, controllers)


def _members(folder: Path) -> list[int]:
    try:
        return [int(word) for word in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(file: Path, value: int) -> None:
    file.write_text(str(value))


def _write_if_there(file: Path, value: int) -> None:
    """Kernels without swap accounting, or without the controller, lack the file."""
    with suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(file, os.O_WRONLY)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(str(value))
