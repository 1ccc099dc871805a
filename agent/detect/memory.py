"""How much memory the agent may use."""

import os
from pathlib import Path

from agent.detect.cgroups import CGROUPS, OWN_CGROUP, limits


def memory_bytes(*, installed: int | None = None, mount: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Bytes: what is ``installed``, less where a control group limits it (hard, or by slowing down above)."""
    # sysconf rather than /proc/meminfo, which services with ProcSubset=pid cannot see.
    counts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if installed is None else installed]
    for name in ("memory.max", "memory.high"):
        counts.extend(int(words[0]) for words in limits(name, mount=mount, own=own) if words[0].isdigit())
    return min(counts)
