"""Two real agents, one of which is to leave: because a person says so, or because its host does."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mediactl.v1 import fleet_service_pb2, job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, reached, under_way, until
from tests.fakes.fleet import of_agents
from tests.fakes.imds import SPOT, FakeImds, imds_thread
from tests.fakes.programs import AgentProgram, ControllerProgram, reserved_port

EXTRACT = ("--preset", "extract_audio", "--profile", "flac")


@dataclass
class Two:
    """A controller and the agents `one` and `two`, which both see the inputs. `one` asks `host` for notices."""

    home: Home
    controller: ControllerProgram
    host: FakeImds
    media: Path

    def run(self, *arguments: object, code: int = 0) -> Any:
        """The JSON that `mediactl` prints; its standard error where it prints none."""
        ran = self.home.run("--controller", self.controller.address, *of_agents(*arguments), "-o", "json", code=code)
        return json.loads(ran.stdout) if ran.stdout else ran.stderr

    def agent(self, name: str) -> Any:
        return self.run("agents", "get", name)

    def working(self) -> tuple[str, str]:
        """A job that takes hours, and the name of the agent at whose FFmpeg it is."""
        job = self.run("submit", self.media / "hours.flac", *EXTRACT, "--output", f"{self.media}/out/")
        return job["id"], self.at_work(job["id"])

    def at_work(self, job_id: str, *, attempts: int = 1) -> str:
        """The name of the agent whose FFmpeg has done a part of it at the last of so many attempts."""
        with self.controller.client() as client:
            until(lambda: client.get(job_id).attempt_count == attempts, f"attempt {attempts} begins")
            attempt = client.get(job_id).attempts[-1]
            reached(client, job_id, lambda told: under_way(told) and told.progress.attempt_id == attempt.id)
            return client.agent(attempt.agent_id).name


@pytest.fixture
def two(home: Home, recordings: Recordings) -> Iterator[Two]:
    media = home.folder / "media"
    media.mkdir()
    os.link(recordings.hours(), media / "hours.flac")
    with ExitStack() as stack:
        stack.callback(home.kill)
        host = stack.enter_context(imds_thread())
        controller = ControllerProgram(
            home, stack.enter_context(reserved_port()), home.folder / "controller", "--http", "none"
        )
        controller.up()
        watching = ("--metadata-url", host.url, "--metadata-interval", "0.2")
        for name in ("one", "two"):
            AgentProgram(home, name, [controller.address], *(watching if name == "one" else ())).start()
        with controller.client() as client:
            until(lambda: len(client.agents()) == 2, "both are registered", within_s=60)
        yield Two(home, controller, host, media)


def test_a_drained_agent_hands_back_what_outlasts_the_deadline(two: Two) -> None:
    """The other one begins it anew, no attempt is used; resumed, the first is given work again."""
    job_id, first = two.working()
    other = "two" if first == "one" else "one"
    drained = two.run("agents", "drain", first)
    assert (drained["state"], drained["drainReason"]) == ("AGENT_STATE_DRAINING", "a person asked for it")
    assert len(drained["attemptIds"]) == 1
    drained = two.run("agents", "drain", first, "--deadline", "0s", "--wait")
    assert drained["attemptIds"] == []
    assert two.at_work(job_id, attempts=2) == other
    job = two.run("jobs", "get", job_id)
    assert [attempt["state"] for attempt in job["attempts"]] == ["handed_back", "running"]
    assert job["attempts"][0]["failure"]["reason"] == "AGENT_STOPPING"
    assert [task["attemptsUsed"] for task in job["tasks"]] == [0]
    listed = two.home.run("--controller", two.controller.address, "agents", "list").stdout
    assert "a person asked for it; what still runs at 20" in listed
    assert "AGENT_NOT_LOST" in two.run("agents", "remove", first, code=2)
    two.run("agents", "drain", other)
    waiting = two.run("submit", two.media / "hours.flac", *EXTRACT, "--output", f"{two.media}/second/")
    assert "is draining: a person asked for it" in two.run("jobs", "explain", waiting["id"])["summary"]
    assert two.run("agents", "resume", first)["state"] == "AGENT_STATE_READY"
    assert two.at_work(waiting["id"]) == first
    two.run("jobs", "cancel", job_id, waiting["id"])
    until(lambda: not two.home.encoders(), "FFmpeg has ended")


def test_a_spot_interruption_moves_the_work(two: Two) -> None:
    """Told in time, the agent takes nothing new; near the end it gives away what runs; withdrawn, it is ready again."""
    two.run("agents", "drain", "two")
    job_id, first = two.working()
    assert first == "one"
    two.run("agents", "resume", "two")
    two.host.spot(time.time() + 600)
    told = until(lambda: two.agent("one")["drainReason"], "the notice is told")
    assert told.startswith("EC2 spot interruption (terminate) at ")
    assert len(two.agent("one")["attemptIds"]) == 1
    two.host.spot(time.time() + 25)
    with two.controller.client() as client:
        assert two.at_work(job_id, attempts=2) == "two"
        job = client.get(job_id)
        assert [attempt.state for attempt in job.attempts] == ["handed_back", "running"]
        assert job.tasks[0].attempts_used == 0
        two.host.withdraw(SPOT)
        until(lambda: client.agent("one").state == fleet_service_pb2.AGENT_STATE_READY, "it takes work again")
        client.cancel(job_id)
        assert client.wait(job_id, timeout_s=20).state == job_pb2.JOB_STATE_CANCELLED
    until(lambda: not two.home.encoders(), "FFmpeg has ended")
