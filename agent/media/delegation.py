"""Where the agent may make control groups: in its own group if that was handed to it, else in one that systemd makes.

Whoever manages the machine's groups owns them; a program that makes some where it was not allowed to fights with
systemd. A place is proved by making a group there and starting a process in it.
"""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent.detect.command import Answer, ask
from agent.media.groups import Groups, Hierarchies, entering

#: What version 2 wants: a group that has groups with limits below it holds no processes itself.
_LEAF = "agent"
_TRIAL = "trial"
_TRIAL_BYTES = 64 << 20
_NEEDED = ("memory", "cpu")


class Unusable(Exception):
    """Why there can be no groups, in words."""


@dataclass(frozen=True, slots=True)
class Host:
    """What of the machine decides where groups can be made."""

    hierarchies: Hierarchies
    groups: dict[str, str]
    """The agent's own group by controller, as ``/proc/self/cgroup`` has it; version 2 under the empty name."""
    pid: int = field(default_factory=os.getpid)
    user: int = field(default_factory=os.geteuid)
    systemd: bool = field(default_factory=lambda: Path("/run/systemd/system").is_dir())
    ask: Callable[[list[str]], Answer] = ask

    @classmethod
    def here(cls) -> "Host":
        """This machine.

        :raises OSError: the kernel does not tell.
        """
        return cls(Hierarchies.read(), own_groups(Path("/proc/self/cgroup").read_text()))


def own_groups(text: str) -> dict[str, str]:
    """The group of a process in each hierarchy, by controller, from its ``/proc/PID/cgroup``."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def own_group(host: Host, owner: str) -> Groups:
    """Groups below the agent's own group of version 2, which the unit's ``Delegate=yes`` or a container handed to it.

    The agent moves to the group ``agent`` beside them, unless systemd put it into one (``DelegateSubgroup=``).

    :raises Unusable: it was not handed over, lacks the controller of memory, or others live in it.
    """
    mount = host.hierarchies.unified
    if mount is None or "" not in host.groups:
        raise Unusable("there are no control groups of version 2")
    folder = mount / host.groups[""].lstrip("/")
    parent = folder.parent
    is_leaf = folder != mount and (folder.name == _LEAF or parent.suffix in {".service", ".scope"})
    if is_leaf and _entitled(parent, host):
        try:
            return _opened(parent, owner)
        except OSError as error:
            raise Unusable(_told(error)) from None
    if not _entitled(folder, host):
        raise Unusable("its control group was not delegated to it (Delegate=yes in its unit does that)")
    leaf = folder / _LEAF
    try:
        _wanted(folder)
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(host.pid))
        return _opened(folder, owner)
    except (OSError, Unusable) as error:
        # Not to be left where nobody looks for it.
        if leaf.is_dir():
            with suppress(OSError):
                (folder / "cgroup.procs").write_text(str(host.pid))
                leaf.rmdir()
        raise Unusable(_told(error)) from None


def of_systemd(host: Host, owner: str) -> Groups:
    """Groups below that of a unit which systemd makes for the purpose; needs root. It outlives the agent.

    A service rather than a scope: systemd starts its one process itself, so that it is no child of the agent, and
    answers once it runs. The unit is used again by the next life of the agent; :func:`end_unit` ends it.

    :raises Unusable: systemd is not there or refuses.
    """
    if host.user != 0 or not host.systemd:
        raise Unusable("the agent is not root under systemd, so it can have no unit of its own made")
    unit = unit_of(owner)
    if not (path := _group_of(unit, host)):
        # What was killed with the machine or by hand must not stand in the way of the name.
        host.ask(["systemctl", "reset-failed", unit])
        words = ("Delegate=yes", "OOMPolicy=continue", "Type=exec", "Description=Processes of mediactl-agent's tasks")
        settings = [f"--property={word}" for word in words]
        made = host.ask(["systemd-run", "--quiet", "--collect", f"--unit={unit}", *settings, "sleep", "infinity"])
        path = _group_of(unit, host)
        if made.code != 0 or not path:
            raise Unusable(f"systemd makes no unit for its tasks: {made.stderr.strip() or 'it is not to be seen'}")
    try:
        return _below(path, host, owner)
    except OSError as error:
        raise Unusable(f"the unit {unit} cannot be used: {_told(error)}") from None


def of_root(host: Host, owner: str) -> Groups:
    """Groups of version 1 below the agent's own, where it is root and no systemd manages them (a container).

    :raises Unusable: any of this is not so.
    """
    memory = host.hierarchies.controllers.get("memory")
    if host.user != 0 or host.systemd or memory is None or "memory" not in host.groups:
        raise Unusable("there are no control groups of version 1 that are its own")
    cpu = host.hierarchies.controllers.get("cpu")
    return _proved(
        Groups(
            memory / host.groups["memory"].lstrip("/"),
            cpu / host.groups["cpu"].lstrip("/") if cpu is not None and "cpu" in host.groups else None,
            unified=False,
            owner=owner,
        )
    )


def unit_of(owner: str) -> str:
    """The name of the unit that :func:`of_systemd` makes."""
    return f"mediactl-tasks-{owner}.service"


def end_unit(host: Host, owner: str) -> None:
    """Ends the unit that :func:`of_systemd` made, and every process in it; where there is none, nothing is done."""
    if host.user == 0 and host.systemd:
        host.ask(["systemctl", "stop", unit_of(owner)])


def _group_of(unit: str, host: Host) -> str:
    return host.ask(["systemctl", "show", "--property=ControlGroup", "--value", unit]).stdout.strip()


def _below(path: str, host: Host, owner: str) -> Groups:
    relative = path.lstrip("/")
    unified = host.hierarchies.unified
    if unified is not None and "memory" in (unified / relative / "cgroup.controllers").read_text().split():
        folder = unified / relative
        leaf = folder / _LEAF
        leaf.mkdir(exist_ok=True)
        for pid in (folder / "cgroup.procs").read_text().split():
            (leaf / "cgroup.procs").write_text(pid)
        return _opened(folder, owner)
    memory, cpu = (host.hierarchies.controllers.get(name) for name in _NEEDED)
    if memory is None:
        raise Unusable("the kernel has no controller of memory")
    return _proved(Groups(memory / relative, cpu / relative if cpu is not None else None, unified=False, owner=owner))


def _entitled(folder: Path, host: Host) -> bool:
    """Whether whoever manages the groups gave this one to the agent."""
    try:
        if folder.stat().st_uid != host.user:
            return False
    except OSError:
        return False
    if host.user != 0 or not host.systemd:
        return True
    # Everything is root's, so that the owner says nothing; systemd marks what it has delegated.
    for name in ("trusted.delegate", "user.delegate"):
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _opened(folder: Path, owner: str) -> Groups:
    """Lets the groups below a folder have limits."""
    (folder / "cgroup.subtree_control").write_text(_wanted(folder))
    return _proved(Groups(folder, folder, unified=True, owner=owner))


def _wanted(folder: Path) -> str:
    there = (folder / "cgroup.controllers").read_text().split()
    if "memory" not in there:
        raise Unusable("its control group has no controller of memory")
    return " ".join(f"+{name}" for name in _NEEDED if name in there)


def _proved(groups: Groups) -> Groups:
    """A process can be started in a group there, with a limit that the kernel took.

    :raises Unusable: it can't.
    """
    try:
        files = groups.make(_TRIAL, 1, _TRIAL_BYTES)
        done = subprocess.run(
            [*entering(files), "cat", "/proc/self/cgroup"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"no limited group can be made: {_told(error)}") from None
    finally:
        with suppress(OSError):
            groups.remove(_TRIAL)
    if done.returncode != 0 or files[0].parent.name not in done.stdout:
        raise Unusable(f"no process can be started in a group: {done.stderr.strip()}")
    return groups


def _told(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
