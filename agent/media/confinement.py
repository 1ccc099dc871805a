"""How the processes of a task are held to what was leased: memory, a share of the processors, manners on the disk."""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Self

from agent.detect.command import ask
from agent.media.delegation import Host, Unusable, end_unit, of_root, of_systemd, own_group
from agent.media.groups import Groups, entering
from agent.media.memory import MemoryLimit

NICE = 5
_TRIAL_BYTES = 32 << 20
_WAYS = {
    own_group: "its own control group",
    of_systemd: "the control group of a unit of systemd",
    of_root: "control groups of version 1",
}


@dataclass(frozen=True, slots=True)
class Confinement:
    """One way for all tasks of an agent. ``words`` say what is in force, and why nothing better is."""

    groups: Groups | None
    rlimits: bool
    manners: tuple[str, ...]
    words: str
    _close: Callable[[], None] | None = None

    @classmethod
    def find(cls, owner: str, *, nice: int = NICE, host: Host | None = None) -> Self:
        """Tries the ways, best first, and takes the first that works: control groups of its own, of a unit that
        systemd makes, of a container; rlimits; none.

        Call it while the agent has started no other process. ``owner`` is the agent's id, the same in every life of
        it: groups of a former life are found again by it. ``nice`` 0 leaves the priority alone.
        """
        manners, told = _manners(nice)
        against: list[str] = []
        try:
            host = host or Host.here()
            for way, name in _WAYS.items():
                try:
                    groups = way(host, owner)
                except Unusable as error:
                    against.append(str(error))
                    continue
                close = partial(end_unit, host, owner) if way is of_systemd else None
                return cls(groups, False, manners, f"memory and processors by {name}{told}", close)
        except OSError as error:
            against.append(f"the kernel does not show them: {error}")
        why = "; ".join(dict.fromkeys(against))
        if _rlimits_bind():
            return cls(None, True, manners, f"memory by rlimits{told}; no control groups: {why}")
        return cls(None, False, manners, f"no limit of memory: rlimits do not work here{told}; {why}")

    def prefix(self, attempt_id: str, cores: int, memory_bytes: int) -> list[str]:
        """Words before a command that hold it to the resources of its attempt; for each of its steps.

        The command replaces them: its process id is that of the prefix. What cannot join its group ends with 126.

        :raises OSError: the kernel refuses the group.
        """
        if self.groups is not None:
            limit = MemoryLimit.of_group(memory_bytes)
            return [*entering(self.groups.make(attempt_id, cores, limit.limit_bytes)), *self.manners]
        rlimit = MemoryLimit.of_rlimit(memory_bytes).limit_bytes if self.rlimits else None
        return [*entering((), rlimit), *self.manners]

    def memory(self, attempt_id: str, memory_bytes: int) -> MemoryLimit | None:
        """What was in force for a command that ended, to be asked before :meth:`release`. None: nothing."""
        if self.groups is not None:
            return MemoryLimit.of_group(memory_bytes, self.groups.oom_kills(attempt_id))
        return MemoryLimit.of_rlimit(memory_bytes) if self.rlimits else None

    def kill(self, attempt_id: str) -> None:
        """Kills every process of an attempt, where it has a group; also one that left its session or process group."""
        if self.groups is not None:
            self.groups.kill(attempt_id)

    def release(self, attempt_id: str) -> bool:
        """Removes what was made for an attempt; waits for what dies late. False: something in it will not die."""
        return self.groups is None or self.groups.remove(attempt_id)

    def sweep(self, keep: Collection[str]) -> list[str]:
        """Ends what former lives of this agent left, but of these attempts; returns the ids of those removed."""
        if self.groups is None:
            return []
        return [old for old in self.groups.attempts() if old not in keep and self.groups.remove(old)]

    def close(self) -> None:
        """Gives back what was made for all tasks. Only where none runs and none is to go on: it would be killed."""
        if self._close is not None and self.groups is not None and not self.groups.attempts():
            self._close()


def _manners(nice: int) -> tuple[tuple[str, ...], str]:
    """Words before a command, and how they are told; a tool that is missing or forbidden is left out."""
    words: list[str] = []
    told = ""
    for name, argv in (
        (f"nice {nice}", ("nice", "-n", str(nice))),
        ("low disk priority", ("ionice", "-c", "2", "-n", "7")),
    ):
        if name == "nice 0" or shutil.which(argv[0]) is None:
            continue
        # Where it is not permitted, nice complains and starts the command all the same.
        tried = ask([*argv, "true"])
        if tried.code == 0 and not tried.stderr:
            words += argv
            told += f", {name}"
    return tuple(words), told


def _rlimits_bind() -> bool:
    """Whether a program is refused memory above the limit, and gets what is below it."""
    limited = [*entering((), _TRIAL_BYTES), "dd", "if=/dev/zero", "of=/dev/null", "count=1"]
    return ask([*limited, "bs=1M"]).code == 0 and ask([*limited, f"bs={2 * _TRIAL_BYTES}"]).code not in {0, 126, None}
