"""Work in hand when the agent's unit is restarted, killed and stopped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.fakes.cli import until
from tests.systemd.conftest import AGENT_SETTINGS
from tests.systemd.machine import Machine

CONTROLLER = "mediactl-controller.service"
AGENT = "mediactl-agent.service"
END_S = 60.0
SLOW = """#!/bin/sh
# FFmpeg, but encodes that begin while this file is there go at the speed of the recording.
case "$*" in
    *-progress*) [ -e /srv/slow/now ] && exec /usr/bin/ffmpeg -re "$@" ;;
esac
exec /usr/bin/ffmpeg "$@"
"""

_numbers = count(1)


@pytest.fixture
def fleet(machine: Machine) -> Iterator[Machine]:
    """Controller and agent run, with nothing in hand, neither before nor after."""
    tone = ("-f", "lavfi", "-i", "sine=f=300:r=8000:d=10", "-c:a", "flac")
    machine.run("ffmpeg", "-v", "error", "-y", *tone, "/srv/media/long.flac")
    machine.path("/etc/mediactl/agent.toml").write_text(f"{AGENT_SETTINGS}drain-timeout = 60\n", encoding="utf-8")
    machine.configure(AGENT, "slow", machine.stand_in("/srv/slow", SLOW))
    machine.systemctl("start", CONTROLLER, AGENT)
    yield machine
    machine.systemctl("stop", AGENT)
    assert encoders(machine, "-progress|supervisor") == set()
    assert [*machine.path("/var/lib/mediactl-agent/scratch").iterdir()] == []


def encoders(machine: Machine, pattern: str = "-progress") -> set[str]:
    """Pids of every FFmpeg that encodes."""
    return {*machine.run("pgrep", "--full", "--", pattern, code=None).stdout.split()}


def begun(machine: Machine, source: str = "long.flac") -> Any:
    """A job whose first encode takes as long as its recording; further ones don't."""
    until(lambda: "connected to" in machine.property(AGENT, "StatusText"), "the agent is connected")
    slow = machine.path("/srv/slow/now")
    slow.touch()
    target = f"/srv/media/out-{next(_numbers)}.m4a"
    job = machine.mediactl("submit", f"/srv/media/{source}", "--preset", "convert", "--output", target)
    until(lambda: encoders(machine), "FFmpeg runs")
    slow.unlink()
    return job


def state(machine: Machine, job: Any) -> str:
    return str(machine.mediactl("jobs", "get", job["id"])["state"]).removeprefix("JOB_STATE_")


def assert_completes_at_first(machine: Machine, job: Any) -> None:
    """With one attempt."""
    machine.run("mediactl", "--controller", "127.0.0.1:7420", "jobs", "watch", job["id"], code=None, within_s=END_S)
    ended = machine.mediactl("jobs", "get", job["id"])
    assert (ended["state"], ended["attemptCount"]) == ("JOB_STATE_COMPLETED", 1), machine.journal(AGENT)


def test_an_encode_survives_its_agents(fleet: Machine) -> None:
    """The same FFmpeg goes on while the agent is restarted, as at an upgrade, and killed; the job has one attempt."""
    job = begun(fleet)
    before, first = encoders(fleet), fleet.pid(AGENT)
    fleet.systemctl("restart", AGENT, within_s=15)
    second = fleet.pid(AGENT)
    assert second != first
    fleet.kill(second, "KILL")
    fleet.until_active(AGENT, but_not=second)
    assert before & encoders(fleet)
    assert state(fleet, job) == "PROCESSING"
    assert_completes_at_first(fleet, job)


def test_stop_is_a_drain(fleet: Machine) -> None:
    """`stop` waits until what was in hand is done, and only then ends the agent."""
    job = begun(fleet, "short.flac")
    fleet.systemctl("stop", AGENT, within_s=END_S)
    assert "Deactivated successfully." in fleet.journal(AGENT)
    assert_completes_at_first(fleet, job)


def test_what_does_not_end_in_time_is_handed_back(fleet: Machine) -> None:
    """After the time to drain its FFmpeg is ended and another agent may have it at once, here the next life."""
    fleet.path("/etc/mediactl/agent.toml").write_text(f"{AGENT_SETTINGS}drain-timeout = 0.5\n", encoding="utf-8")
    fleet.restart(AGENT)
    job = begun(fleet)
    fleet.systemctl("stop", AGENT, within_s=30)
    assert encoders(fleet) == set()
    assert state(fleet, job) in {"PENDING", "FAILED"}
    fleet.systemctl("start", AGENT)
    fleet.run("mediactl", "--controller", "127.0.0.1:7420", "jobs", "watch", job["id"], within_s=END_S)
    assert state(fleet, job) == "COMPLETED"
