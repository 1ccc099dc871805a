"""Where groups can be made, on machines made of plain files; and what is put before a command."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.detect.command import Answer
from agent.media.confinement import Confinement
from agent.media.delegation import Host, Unusable, of_root, of_systemd, own_group, own_groups
from agent.media.groups import Groups, Hierarchies, entering
from agent.media.memory import MemoryLimit

ME = os.geteuid()
SOMEBODY = ME + 1
UNIT = "system.slice/mediactl-agent.service"


def no_answer(argv: Sequence[str]) -> Answer:
    raise AssertionError(f"nobody was to be asked: {argv}")


def machine(
    root: Path,
    *,
    group: str = UNIT,
    controllers: str = "cpu memory pids",
    user: int = ME,
    systemd: bool = False,
    ask: Callable[[list[str]], Answer] = no_answer,
) -> Host:
    """A machine with version 2 below ``root``, and the agent in ``group``; ``user`` is who the agent is."""
    folder = root / group
    folder.mkdir(parents=True, exist_ok=True)
    for one in (folder, *folder.parents[: len(Path(group).parts)]):
        (one / "cgroup.controllers").write_text(controllers)
        (one / "cgroup.procs").touch()
    hierarchies = Hierarchies(root, {})
    return Host(hierarchies, {"": f"/{group}"}, pid=4711, user=user, systemd=systemd, ask=ask)


@pytest.fixture(autouse=True)
def proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process cannot join a plain file: what is proved on a real kernel elsewhere is taken as proved."""
    monkeypatch.setattr("agent.media.delegation._proved", lambda groups: groups)


def test_a_delegated_group_is_divided(tmp_path: Path) -> None:
    """The agent moves beside the groups of its tasks, which may then be limited."""
    groups = own_group(machine(tmp_path), "x")
    assert groups == Groups(tmp_path / UNIT, tmp_path / UNIT, unified=True, owner="x")
    assert (tmp_path / UNIT / "agent" / "cgroup.procs").read_text() == "4711"
    assert (tmp_path / UNIT / "cgroup.subtree_control").read_text() == "+memory +cpu"


@pytest.mark.parametrize("leaf", ["agent", "main"])
def test_a_leaf_made_before_is_kept(tmp_path: Path, leaf: str) -> None:
    """Where systemd (DelegateSubgroup=) or a former life put the agent into a leaf, it stays there."""
    groups = own_group(machine(tmp_path, group=f"{UNIT}/{leaf}"), "x")
    assert groups.memory == tmp_path / UNIT
    assert not (tmp_path / UNIT / leaf / "agent").exists()


def test_a_group_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """Without delegation nothing is made or moved, and the words say what to do."""
    with pytest.raises(Unusable, match="Delegate=yes"):
        own_group(machine(tmp_path, user=SOMEBODY), "x")
    assert not (tmp_path / UNIT / "agent").exists()


def test_root_under_systemd_owns_groups_that_are_not_its_own(tmp_path: Path) -> None:
    """That a folder is root's says nothing there: only systemd's mark does."""
    host = machine(tmp_path, systemd=True)
    if ME != 0:
        pytest.skip("needs root: it is about folders of root")
    with pytest.raises(Unusable, match="Delegate=yes"):
        own_group(host, "x")
    try:
        os.setxattr(tmp_path / UNIT, "trusted.delegate", b"1")
    except OSError as error:
        pytest.skip(f"this filesystem keeps no marks: {error}")
    assert own_group(host, "x").memory == tmp_path / UNIT


def test_without_a_controller_of_memory_nothing_is_moved(tmp_path: Path) -> None:
    """What can't help is not begun."""
    with pytest.raises(Unusable, match="no controller of memory"):
        own_group(machine(tmp_path, controllers="cpu pids"), "x")
    assert (tmp_path / UNIT / "cgroup.procs").read_text() == ""


def test_a_group_that_others_live_in_is_left_as_it_was(tmp_path: Path) -> None:
    """The kernel divides no group that holds processes: the agent moves back."""
    host = machine(tmp_path)
    (tmp_path / UNIT / "cgroup.subtree_control").mkdir()
    with pytest.raises(Unusable):
        own_group(host, "x")
    assert (tmp_path / UNIT / "cgroup.procs").read_text() == "4711"


def test_systemd_makes_a_unit_once(tmp_path: Path) -> None:
    """Root under systemd gets a unit of its own, which its next life finds again; its first process moves to a leaf."""
    asked: list[str] = []

    def answer(argv: list[str]) -> Answer:
        asked.append(argv[0] if argv[0] != "systemctl" else argv[1])
        running = "systemd-run" in asked
        return Answer(0, "/system.slice/mediactl-tasks-x.service\n" if running and argv[1] == "show" else "", "")

    host = machine(tmp_path, user=0, systemd=True, ask=answer)
    made = tmp_path / "system.slice/mediactl-tasks-x.service"
    made.mkdir()
    (made / "cgroup.controllers").write_text("cpu memory")
    (made / "cgroup.procs").write_text("99\n")
    assert of_systemd(host, "x") == of_systemd(host, "x") == Groups(made, made, unified=True, owner="x")
    assert asked.count("systemd-run") == 1
    assert (made / "agent" / "cgroup.procs").read_text() == "99"


def test_a_unit_may_be_of_version_1(tmp_path: Path) -> None:
    """Where the controllers are of version 1, so are the groups."""
    unit = "system.slice/mediactl-tasks-x.service"
    (tmp_path / "memory" / unit).mkdir(parents=True)
    hierarchies = Hierarchies(None, {"memory": tmp_path / "memory", "cpu": tmp_path / "cpu"})
    host = Host(hierarchies, {}, user=0, systemd=True, ask=lambda _: Answer(0, f"/{unit}\n", ""))
    groups = of_systemd(host, "x")
    assert groups == Groups(tmp_path / "memory" / unit, tmp_path / "cpu" / unit, unified=False, owner="x")


def test_systemd_that_refuses_is_quoted(tmp_path: Path) -> None:
    """Its own words are passed on."""
    host = machine(tmp_path, user=0, systemd=True, ask=lambda _: Answer(1, "", "Access denied\n"))
    with pytest.raises(Unusable, match="Access denied"):
        of_systemd(host, "x")


@pytest.mark.parametrize(("user", "systemd"), [(1000, False), (0, True)])
def test_groups_of_version_1_are_made_only_where_nobody_manages_them(tmp_path: Path, user: int, systemd: bool) -> None:
    """Neither a user nor anybody under systemd makes them."""
    host = Host(Hierarchies(None, {"memory": tmp_path}), {"memory": "/"}, user=user, systemd=systemd, ask=no_answer)
    with pytest.raises(Unusable):
        of_root(host, "x")


def test_own_groups_are_read_from_the_kernels_words() -> None:
    """Hybrid machines have both versions at once; a path may contain colons."""
    text = "4:memory:/a/b\n2:cpu,cpuacct:/c\n1:name=systemd:/d:e\n0::/u\n"
    found = {"memory": "/a/b", "cpu": "/c", "cpuacct": "/c", "name=systemd": "/d:e", "": "/u"}
    assert own_groups(text) == found


def test_hierarchies_are_read_from_the_kernels_words(tmp_path: Path) -> None:
    """Only mounts of control groups count."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:30 / /proc rw,relatime shared:12 - proc proc rw\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
    )
    cpu = Path("/sys/fs/cgroup/cpu")
    found = Hierarchies.read(mounts)
    assert found.unified == Path("/sys/fs/cgroup/unified")
    assert {name: found.controllers[name] for name in ("cpu", "cpuacct")} == {"cpu": cpu, "cpuacct": cpu}
    assert "proc" not in found.controllers


def test_limits_of_version_2(tmp_path: Path) -> None:
    """Memory is bounded without swap, processors are shared by weight, and one process is killed rather than all."""
    group = tmp_path / "mediactl-x.a1"
    group.mkdir()
    for name in ("memory.oom.group", "memory.swap.max", "cpu.weight"):
        (group / name).touch()
    groups = Groups(tmp_path, tmp_path, unified=True, owner="x")
    assert groups.make("a1", 4, 1 << 30) == [group / "cgroup.procs"]
    written = {file.name: file.read_text() for file in group.iterdir()}
    assert written == {"memory.max": "1073741824", "memory.oom.group": "0", "memory.swap.max": "0", "cpu.weight": "400"}
    assert groups.attempts() == ["a1"]
    assert Groups(tmp_path, tmp_path, unified=True, owner="x.a").attempts() == []
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n")
    assert groups.oom_kills("a1") == 2
    assert groups.oom_kills("another") == 0


def test_what_an_older_kernel_lacks_is_not_missed(tmp_path: Path) -> None:
    """Only the limit of memory is indispensable."""
    groups = Groups(tmp_path, tmp_path, unified=True, owner="x")
    groups.make("a1", 1, 1 << 30)
    assert [file.name for file in (tmp_path / "mediactl-x.a1").iterdir()] == ["memory.max"]


@pytest.mark.parametrize("attempt_id", ["", "../a", "a\0"])
def test_attempts_that_are_no_names_are_refused(tmp_path: Path, attempt_id: str) -> None:
    """Nothing outside the folder can be reached."""
    with pytest.raises(ValueError, match="cannot be part"):
        Groups(tmp_path, None, unified=True, owner="x").make(attempt_id, 1, 1)


def test_words_before_a_command(tmp_path: Path) -> None:
    """Groups bound memory by themselves; without them an rlimit does, with more room; without both nothing does."""
    groups = Groups(tmp_path, tmp_path, unified=True, owner="x")
    manners = ("nice", "-n", "5")
    procs = tmp_path / "mediactl-x.a1" / "cgroup.procs"
    assert Confinement(groups, False, manners, "").prefix("a1", 1, 256 << 20) == [*entering([procs]), *manners]
    assert (procs.parent / "memory.max").read_text() == str((320 + 256) << 20)
    limited = [*entering([], (384 + 256) << 20), *manners]
    assert Confinement(None, True, manners, "").prefix("a1", 1, 256 << 20) == limited
    assert "ulimit -d 655360 " in limited[2]
    assert Confinement(None, False, manners, "").prefix("a1", 1, 256 << 20) == [*entering([]), *manners]


def test_what_was_in_force_is_told(tmp_path: Path) -> None:
    """For the words of a failure: grant, limit, means, and whether the kernel killed for it."""
    (tmp_path / "mediactl-x.a1").mkdir()
    (tmp_path / "mediactl-x.a1" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    groups = Groups(tmp_path, None, unified=False, owner="x")
    grant = 256 << 20
    assert Confinement(groups, False, (), "").memory("a1", grant) == MemoryLimit(grant, 576 << 20, "control group", 1)
    assert Confinement(None, True, (), "").memory("a1", grant) == MemoryLimit(grant, 640 << 20, "rlimit", None)
    assert Confinement(None, False, (), "").memory("a1", grant) is None


def test_the_first_way_that_works_is_taken(tmp_path: Path) -> None:
    """Words say what is in force; where there are no groups, also why."""
    found = Confinement.find("x", host=machine(tmp_path))
    assert found.groups is not None
    assert found.words.startswith("memory and processors by its own control group")
    found = Confinement.find("x", nice=0, host=machine(tmp_path, user=SOMEBODY))
    assert found.groups is None
    assert "Delegate=yes" in found.words
    assert "nice" not in found.manners
