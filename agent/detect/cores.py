"""How many processor cores the agent may use."""

import os
from pathlib import Path

from agent.detect.cgroups import CGROUPS, OWN_CGROUP, limits


def cores(*, usable: int | None = None, mount: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Whole cores, at least 1: those the agent may be scheduled on (``usable``), fewer where a quota allows less."""
    counts = [len(os.sched_getaffinity(0)) if usable is None else usable]
    for words in limits("cpu.max", mount=mount, own=own):
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            counts.append(int(words[0]) // int(words[1]))
    return max(1, min(counts))
