"""Controller and agent as services of a real systemd: they start, hang, die, run out of disk and memory, and go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cli import until
from tests.systemd.conftest import AGENT_SETTINGS
from tests.systemd.machine import Machine

CONTROLLER = "mediactl-controller.service"
AGENT = "mediactl-agent.service"

_numbers = count(1)


@pytest.fixture
def fleet(machine: Machine) -> Machine:
    """The machine with both units running, and the agent connected."""
    machine.systemctl("start", CONTROLLER, AGENT)
    until(lambda: ready(machine), "the agent is ready")
    return machine


def ready(machine: Machine) -> bool:
    """Whether the agent is connected; it says so itself, for the controller remembers its former life."""
    return "connected to" in machine.property(AGENT, "StatusText")


def submit(machine: Machine, source: str = "short.flac", profile: str = "flac", *flags: str) -> Any:
    """A job that is new; with `--wait` its end."""
    target = f"/srv/media/out-{next(_numbers)}.{'wav' if profile == 'audio_only_master' else 'flac'}"
    arguments = (f"/srv/media/{source}", "--preset", "convert", "--profile", profile, "--output", target)
    return machine.mediactl("submit", *arguments, *flags, code=None)


def assert_works(machine: Machine) -> None:
    """A job that is submitted now completes, the first time it is tried."""
    job = submit(machine, "short.flac", "flac", "--wait", "--wait-timeout", "30s")
    assert job is not None, machine.journal(CONTROLLER)
    assert job["state"] == "JOB_STATE_COMPLETED", (job, machine.journal(AGENT))
    assert job["attemptCount"] == 1


@contextmanager
def configured(machine: Machine, unit: str, *lines: str) -> Iterator[None]:
    """The unit runs with these lines more within the block, and without them after it."""
    machine.configure(unit, "this-test", *lines)
    machine.restart(unit)
    try:
        yield
    finally:
        machine.configure(unit, "this-test")
        machine.restart(unit)


def test_the_units_are_well_formed(machine: Machine) -> None:
    """systemd has nothing to say about them: it says what it doesn't know and goes on, exit status 0."""
    folder = "/usr/local/lib/systemd/system"
    units = [f"{folder}/mediactl-{name}.service" for name in ("controller", "agent", "box")]
    said = machine.run("systemd-analyze", "verify", *units)
    assert (said.stdout, said.stderr) == ("", "")


def test_nothing_is_given_up(machine: Machine) -> None:
    """However often a unit ends, for instance because the database is away, it is tried again."""
    for unit in (CONTROLLER, AGENT, "mediactl-box.service"):
        assert machine.property(unit, "Restart") == "always"
        assert machine.property(unit, "StartLimitIntervalUSec") == "0"


def test_a_job_is_done(fleet: Machine, media: Path) -> None:
    """Both run as the user mediactl, say how they fare, and what a job makes is others' to read."""
    for unit in (CONTROLLER, AGENT):
        assert fleet.run("ps", "-o", "user=", "-p", fleet.pid(unit)).stdout.strip() == "mediactl"
    assert_works(fleet)
    made = next(media.glob("out-*"))
    assert made.stat().st_mode & 0o777 == 0o644
    until(lambda: "1 agent connected" in fleet.property(CONTROLLER, "StatusText"), "the controller tells of its agent")
    told = "0 attempts, connected to 127.0.0.1:7420"
    until(lambda: fleet.property(AGENT, "StatusText") == told, "the agent tells of its controller")


def test_the_agent_is_ready_without_a_controller(fleet: Machine) -> None:
    """That a controller is away is no failure of the agent's unit."""
    fleet.systemctl("stop", CONTROLLER)
    fleet.restart(AGENT)
    assert fleet.active(AGENT)
    assert "no controller answers" in fleet.property(AGENT, "StatusText")
    fleet.systemctl("start", CONTROLLER)
    until(lambda: ready(fleet), "the agent has found the controller")


def test_what_hangs_or_dies_is_started_anew(fleet: Machine) -> None:
    """Stopped in their tracks both give no sign of life, which their watchdogs end; so it is after SIGKILL."""
    with configured(fleet, CONTROLLER, "WatchdogSec=3"), configured(fleet, AGENT, "WatchdogSec=3"):
        for signal_name in ("STOP", "KILL"):
            struck = {unit: fleet.pid(unit) for unit in (CONTROLLER, AGENT)}
            fleet.run("kill", f"-{signal_name}", *struck.values())
            for unit, pid in struck.items():
                fleet.until_active(unit, but_not=pid)
                assert "Watchdog timeout" in fleet.journal(unit)
            until(lambda: ready(fleet), "the agent is ready")
            assert_works(fleet)


def test_stopped_in_order(fleet: Machine) -> None:
    """`stop` ends both by themselves, well within their time, the agent with nothing in hand first."""
    for unit in (AGENT, CONTROLLER):
        fleet.systemctl("stop", unit, within_s=15)
        assert f"{unit}: Deactivated successfully." in fleet.journal(unit).splitlines()[-2], fleet.journal(unit)


PROBE = """
import os, signal, sys
from pathlib import Path
from mediactl.notify import Notifier

CONTROLLER = "memory"

def told(number, frame):
    print("told", signal.Signals(number).name, flush=True)
    sys.exit(0)

for name in ("SIGTERM", "SIGUSR1"):
    signal.signal(getattr(signal, name), told)
line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
group = Path("/sys/fs/cgroup" + line[3:])
divisible = (group / "cgroup.controllers").exists() and CONTROLLER in (group / "cgroup.controllers").read_text()

def move(name):
    if divisible:
        (group / name).mkdir(exist_ok=True)
        (group / name / "cgroup.procs").write_text(str(os.getpid()))

move("agent")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        move("attempt")
        os.execvp("sleep", ["left-over", "600"])
    os._exit(0)
os.wait()
if divisible:
    (group / "cgroup.subtree_control").write_text("+" + CONTROLLER)
    print("divided", flush=True)
Notifier()._tell(READY="1")
while True:
    signal.pause()
"""


def test_who_is_told_what(machine: Machine) -> None:
    """Under the agent's unit `restart` sends SIGUSR1, `stop` SIGTERM, and what left the agent's session lives on.

    So it does, and the unit starts, where it had divided its control group, which needs version 2 for memory.
    """
    machine.path("/srv/probe.py").write_text(PROBE, encoding="utf-8")
    left = ("pgrep", "--full", "--exact", "left-over 600")
    with configured(machine, AGENT, "ExecStart=", "ExecStart=/opt/mediactl/current/bin/python /srv/probe.py"):
        [first] = machine.run(*left).stdout.split()
        machine.restart(AGENT)
        after_restart = machine.run(*left).stdout.split()
        machine.systemctl("stop", AGENT)
        after_stop = machine.run(*left).stdout.split()
        machine.systemctl("start", AGENT)
    said = [line for line in machine.journal(AGENT).splitlines() if "told SIG" in line]
    machine.run("pkill", "--full", "--exact", "left-over 600")
    assert [line.split()[-1] for line in said] == ["SIGUSR1", "SIGTERM", "SIGUSR1"]
    assert first in after_restart
    assert {*after_restart} <= {*after_stop}
    assert len(after_stop) == 2


def test_a_full_scratch_disk(fleet: Machine) -> None:
    """The job is not blamed, the agent lives and does what fits."""
    options = "size=24m,mode=700,uid=mediactl,gid=mediactl"
    fleet.path("/srv/scratch").mkdir()
    fleet.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", "/srv/scratch")
    silence = ("-f", "lavfi", "-i", "anullsrc=r=48000:cl=stereo:d=900", "-c:a", "flac")
    fleet.run("ffmpeg", "-v", "error", *silence, "/srv/media/long.flac")
    settings = fleet.path("/etc/mediactl/agent.toml")
    settings.write_text(f'{AGENT_SETTINGS}scratch-dir = "/srv/scratch"\n', encoding="utf-8")
    try:
        with configured(fleet, AGENT, "ReadWritePaths=/srv/scratch"):
            until(lambda: ready(fleet), "the agent is ready")
            agent = fleet.pid(AGENT)
            job = submit(fleet, "long.flac", "audio_only_master")

            def told() -> bool:
                events = fleet.run("mediactl", "--controller", "127.0.0.1:7420", "jobs", "events", job["id"]).stdout
                return "SCRATCH_FULL" in events or "scratch" in str(fleet.mediactl("jobs", "explain", job["id"]))

            until(told, "the job tells that scratch space is short")
            assert fleet.mediactl("jobs", "get", job["id"])["state"] != "JOB_STATE_DEAD"
            fleet.mediactl("jobs", "cancel", job["id"])
            until(lambda: not [*fleet.path("/srv/scratch").iterdir()], "the workspace is gone")
            assert_works(fleet)
            assert fleet.pid(AGENT) == agent
    finally:
        settings.write_text(AGENT_SETTINGS, encoding="utf-8")
        fleet.restart(AGENT)


HUNGRY = """#!/bin/sh
# FFmpeg, but encodes with an appetite that no plan foresaw.
case "$*" in
    *-progress*) [ -e /srv/hungry/now ] && exec /usr/bin/python3 -c '[b"x" * (n + 1000000) for n in range(2000)]' ;;
esac
exec /usr/bin/ffmpeg "$@"
"""


def test_an_encode_that_eats_the_memory(fleet: Machine) -> None:
    """The kernel ends FFmpeg alone: the job says what happened, and the agent, in the same group, goes on."""
    names = fleet.stand_in("/srv/hungry", HUNGRY)
    now = fleet.path("/srv/hungry/now")
    with configured(fleet, AGENT, names, "MemoryMax=500M", "MemorySwapMax=0"):
        until(lambda: ready(fleet), "the agent is ready")
        agent = fleet.pid(AGENT)
        now.touch()
        job = submit(fleet, "short.flac", "flac", "--max-attempts", "1", "--wait", "--wait-timeout", "30s")
        assert job["state"] == "JOB_STATE_DEAD", job
        assert "memory" in job["failure"]["message"]
        now.unlink()
        assert_works(fleet)
        assert fleet.pid(AGENT) == agent
        assert fleet.property(AGENT, "NRestarts") == "0"
