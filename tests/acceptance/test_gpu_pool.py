"""One box with GPUs, one without: who does what, and what becomes of it when a GPU is used up or lost.

Real programs; the GPUs are simulated (tests.fakes.gpu_host): the first has no encoder, the second has three sessions,
of which the agent may use one.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mediactl.client import Client
from mediactl.v1 import fleet_service_pb2, job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import living_in, until
from tests.fakes.fleet import Fleet
from tests.fakes.gpu_host import GpuHost, SimulatedGpu

REPOSITORY = Path(__file__).parents[2]
PREFER, REQUIRE, SOUND = "h264_mp4", "h264_nvenc_mp4", "flac"
GPU = 1
"""The index of the one that encodes."""
SESSIONS = 3
LACKS = "lacks encoder:h264_nvenc"
WAITS = "may take it from 30 s after submission on, if none preferred has by then"


@dataclass
class Pool:
    """A controller and the two agents."""

    fleet: Fleet
    host: GpuHost
    client: Client
    clip: Path
    sound: Path

    def submit(self, profile: str, **facts: Any) -> str:
        """A job that has one attempt."""
        return self.submit_all(profile, 1, **facts)[0]

    def submit_all(self, profile: str, count: int, **facts: Any) -> list[str]:
        """As many, of the picture or, in a profile of sound, of that."""
        out = self.fleet.home.folder / "out" / uuid4().hex
        source, preset = (self.sound, "extract_audio") if profile == SOUND else (self.clip, "video_convert")
        jobs = self.client.submit_all(
            [
                {
                    "inputs": [{"uri": source.as_uri()}],
                    "preset": preset,
                    "outputs": [{"profile": profile, "uri": f"{(out / str(number)).as_uri()}/"}],
                    "max_attempts": 1,
                    **facts,
                }
                for number in range(count)
            ]
        )
        return [job.id for job in jobs]

    def done(self, job_id: str) -> "Done":
        job = self.client.wait(job_id, timeout_s=30)
        assert job.state == job_pb2.JOB_STATE_COMPLETED, job
        return Done(job, self)

    def agent(self, name: str) -> fleet_service_pb2.Agent:
        [agent] = [agent for agent in self.client.agents() if agent.name == name]
        return agent

    def works(self) -> bool:
        """Whether the agent believes in its GPU."""
        trials = self.agent("gpus").capabilities.binaries[0].trials
        return any(trial.works for trial in trials if (trial.encoder, trial.device) == ("h264_nvenc", f"gpu {GPU}"))

    def why(self, job_id: str) -> dict[str, list[str]]:
        """What `jobs explain` tells of each agent."""
        told = self.fleet.run("jobs", "explain", job_id)
        return {agent["name"]: agent["reasons"] for agent in told["agents"]}

    def failures(self, job_id: str) -> list[str]:
        """Why attempts of it ended, so far."""
        return [attempt.failure.reason for attempt in self.client.get(job_id).attempts if attempt.HasField("failure")]


@dataclass
class Done:
    """A job that completed."""

    job: job_pb2.Job
    pool: Pool

    @property
    def tries(self) -> list[tuple[str, str]]:
        """Where each attempt was made, and why it failed."""
        names = {agent.id: agent.name for agent in self.pool.client.agents()}
        return [(names[attempt.agent_id], attempt.failure.reason) for attempt in self.job.attempts]

    def options(self, name: str) -> list[str]:
        """The values of an option in what the last attempt ran."""
        steps = [list(step.arguments) for step in self.job.attempts[-1].plan.steps]
        return [value for step in steps for option, value in pairwise(step) if option == name]

    @property
    def by_gpu(self) -> bool:
        """Whether its picture was encoded on the GPU that encodes, or by the processor and no GPU."""
        encoded = (self.options("-c:v"), self.options("-gpu"))
        assert encoded in ((["h264_nvenc"], [str(GPU)]), (["libx264"], []))
        assert self.job.artifacts[0].streams[0] == "h264 320x180 25 fps"
        return encoded[1] != []


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, recordings: Recordings) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("pool")
    host = GpuHost(folder / "host", [SimulatedGpu("NVIDIA A100", encoders=()), SimulatedGpu(sessions=SESSIONS)])
    with living_in(folder / "user") as home:
        fleet = Fleet(home)
        ours = os.pathsep.join([str(REPOSITORY), home.environment.get("PYTHONPATH", "")])
        started = [
            fleet.controller(),
            fleet.agent("processor", environment={"CUDA_VISIBLE_DEVICES": ""}),
            fleet.agent(
                *("gpus", "--encoder-sessions", "1"),
                environment=host.environment(home.environment | {"PYTHONPATH": ours}),
                module="tests.fakes.hasty_agent",
            ),
        ]
        media = []
        # NVENC takes no picture whose sides are shorter than 146 pixels.
        for source in (recordings.synth("quarters"), recordings.synth("blip")):
            media.append(home.folder / source.name)
            os.link(source, media[-1])
        with fleet.client() as client:
            yield Pool(fleet, host, client, *media)
        for running in reversed(started):
            running.process.terminate()
            assert running.ended().code == 0
        for name in ("gpus", "processor"):
            assert not [*(home.data_dir / name / "scratch").iterdir()]


@pytest.fixture(autouse=True)
def whole(pool: Pool) -> None:
    """Each test finds a GPU that is free, whole and believed in."""
    pool.host.change(GPU, lost=False, held=False)
    until(pool.works, "the agent proves its GPU")
    until(lambda: pool.host.sessions_in_use(GPU) == 0, "the GPU is free")


def test_a_free_gpu_is_used(pool: Pool) -> None:
    """By a job that prefers one and by a job that requires one: the one that encodes, with the first attempt."""
    gpus = pool.agent("gpus").capabilities.gpus
    assert [gpu.encoder_sessions for gpu in gpus] == [0, 1]
    for profile in (PREFER, REQUIRE):
        done = pool.done(pool.submit(profile))
        assert done.tries == [("gpus", "")]
        assert done.by_gpu


def test_a_session_is_counted_while_it_is_used(pool: Pool) -> None:
    """The next jobs wait for it, though the driver would bear more, and it is told what is lacking where. Sound is not
    hidden by a hundred of them.
    """
    pool.host.change(GPU, held=True)
    first = pool.submit(REQUIRE)
    until(lambda: pool.host.sessions_in_use(GPU) == 1, "the first job encodes")
    waiting = pool.submit_all(REQUIRE, 100, priority=9)
    prefers = pool.submit(PREFER)
    assert pool.done(pool.submit(SOUND, priority=0)).tries == [("processor", "")]
    assert pool.host.sessions_in_use(GPU) == 1
    assert {pool.client.get(job_id).state for job_id in waiting} == {job_pb2.JOB_STATE_PENDING}
    why = pool.why(waiting[0])
    assert why["processor"][0].startswith(LACKS)
    assert any(reason.startswith("has no GPU with 1 encoder sessions") for reason in why["gpus"])
    assert pool.why(prefers)["processor"] == [
        "may take it from 30 s after submission on, if none preferred has by then"
    ]
    for job_id in waiting[1:]:
        pool.client.cancel(job_id)
    pool.host.change(GPU, held=False)
    for job_id in (first, waiting[0], prefers):
        done = pool.done(job_id)
        assert done.tries == [("gpus", "")]
        assert done.by_gpu


def test_a_gpu_that_others_use_up(pool: Pool) -> None:
    """What prefers it is done by the processor, what requires it once it is free again, and neither pays for it. The
    agent goes on believing in the GPU.
    """
    with pool.host.others_encode(GPU, SESSIONS):
        prefers = pool.done(pool.submit(PREFER))
        requires = pool.submit(REQUIRE)
        until(lambda: pool.failures(requires), "the other job meets the limit")
        assert pool.works()
    assert prefers.tries == [("gpus", "ENCODER_SESSION_LIMIT"), ("processor", "")]
    assert not prefers.by_gpu
    required = pool.done(requires)
    assert {*required.tries[:-1]} == {("gpus", "ENCODER_SESSION_LIMIT")}
    assert required.tries[-1] == ("gpus", "")
    assert required.by_gpu


def test_a_gpu_that_is_lost_and_comes_back(pool: Pool) -> None:
    """The first job to meet it is done by the processor; the agent looks again and says so, and those that follow don't
    even try it, nor wait for it, but what requires it. Once it is back, it is used again.
    """
    pool.host.change(GPU, lost=True)
    met = pool.done(pool.submit(PREFER))
    assert met.tries == [("gpus", "GPU_UNAVAILABLE"), ("processor", "")]
    assert not met.by_gpu
    until(lambda: not pool.works(), "the agent looks again")
    [agent] = [agent for agent in pool.fleet.run("agents", "list")["agents"] if agent["name"] == "gpus"]
    [binary] = pool.fleet.run("agents", "get", agent["id"])["capabilities"]["binaries"]
    [message] = [
        trial["message"]
        for trial in binary["trials"]
        if (trial["encoder"], trial["device"]) == ("h264_nvenc", f"gpu {GPU}")
    ]
    assert message.startswith("the GPU is missing or no longer answers")
    requires = pool.submit(REQUIRE)
    prefers = pool.done(pool.submit(PREFER))
    assert [why for _, why in prefers.tries] == [""]
    assert not prefers.by_gpu
    assert prefers.job.attempts[0].queue_wait.ToTimedelta().total_seconds() < 10
    assert all(reasons[0].startswith(LACKS) for reasons in pool.why(requires).values())
    pool.host.change(GPU, lost=False)
    until(pool.works, "the agent looks once more")
    for job_id in (requires, pool.submit(PREFER)):
        done = pool.done(job_id)
        assert done.tries == [("gpus", "")]
        assert done.by_gpu
