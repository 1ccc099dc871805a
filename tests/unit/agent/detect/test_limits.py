"""Cores, memory and volumes, within the limits of control groups."""

import os
from pathlib import Path

import pytest

from agent.detect.cores import cores
from agent.detect.disks import disks
from agent.detect.memory import memory_bytes


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The agent's place among the groups: /system.slice/agent.service."""
    for folder in ("", "system.slice", "system.slice/agent.service"):
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
    file = tmp_path / "self"
    file.write_text("12:cpuset:/elsewhere\n0::/system.slice/agent.service\n")
    return file


def limit(tmp_path: Path, group: str, name: str, text: str) -> None:
    (tmp_path / "cgroup" / group / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("own_quota", "parent_quota", "expected"),
    [
        ("max 100000", "max 100000", 8),
        ("400000 100000", "max 100000", 4),
        ("max 100000", "250000 100000", 2),
        ("50000 100000", "max 100000", 1),
        ("1600000 100000", "max 100000", 8),
        ("nonsense", "200000", 8),
    ],
)
def test_cores(tmp_path: Path, own: Path, own_quota: str, parent_quota: str, expected: int) -> None:
    """The smallest quota among the group and its parents counts, in whole cores and at least one."""
    limit(tmp_path, "system.slice/agent.service", "cpu.max", own_quota)
    limit(tmp_path, "system.slice", "cpu.max", parent_quota)
    assert cores(usable=8, mount=tmp_path / "cgroup", own=own) == expected


def test_cores_follow_the_affinity() -> None:
    """Cores that the agent may not be scheduled on do not count."""
    assert 1 <= cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("hard", "soft", "parent", "expected"),
    [("max", "max", "max", 1000), ("600", "max", "max", 600), ("600", "500", "max", 500), ("600", "max", "400", 400)],
)
def test_memory(tmp_path: Path, own: Path, hard: str, soft: str, parent: str, expected: int) -> None:
    """The smallest limit counts: hard or soft, the group's or a parent's."""
    limit(tmp_path, "system.slice/agent.service", "memory.max", hard)
    limit(tmp_path, "system.slice/agent.service", "memory.high", soft)
    limit(tmp_path, "system.slice", "memory.max", parent)
    assert memory_bytes(installed=1000, mount=tmp_path / "cgroup", own=own) == expected


def test_without_control_groups(tmp_path: Path) -> None:
    """Where there is no version 2 group, or no /proc at all, nothing limits."""
    nowhere = tmp_path / "nowhere"
    assert cores(usable=8, mount=nowhere, own=nowhere) == 8
    (tmp_path / "self").write_text("12:cpuset:/elsewhere\n")
    assert memory_bytes(installed=1000, mount=nowhere, own=tmp_path / "self") == 1000
    assert memory_bytes(mount=nowhere, own=nowhere) > 2**28


def test_disks(tmp_path: Path) -> None:
    """The scratch volume is told before its folder exists; a media root that is absent is left out."""
    found = disks(tmp_path / "not" / "yet", [str(tmp_path), str(tmp_path / "absent")])
    assert [(disk.path, disk.purpose) for disk in found] == [(str(tmp_path), "scratch"), (str(tmp_path), "media")]
    assert 0 < found[0].free_bytes <= found[0].total_bytes
