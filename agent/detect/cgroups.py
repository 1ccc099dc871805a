"""Limits of the control groups (version 2) that the agent runs in."""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def limits(name: str, *, mount: Path = CGROUPS, own: Path = OWN_CGROUP) -> Iterator[list[str]]:
    """The words of the file ``name`` in the agent's own group and in each of its parents, where there is one."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    group = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if group is None:
        return
    relative = Path(group.lstrip("/"))
    for folder in (relative, *relative.parents):
        try:
            words = (mount / folder / name).read_text().split()
        except OSError:
            continue
        if words:
            yield words
