"""An agent that is killed, restarted or left alone in the middle of work, and what becomes of that work."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediactl.v1 import job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, Running, reached, under_way, until
from tests.fakes.fleet import Fleet

MASTER = ("--preset", "loudness_podcast", "--profile", "flac")
EXTRACT = ("--preset", "extract_audio", "--profile", "flac")


@pytest.fixture
def fleet(home: Home, recordings: Recordings) -> Iterator[Fleet]:
    for path in (recordings.synth("speech"), recordings.minutes(), recordings.hours()):
        os.link(path, home.folder / path.name)
    yield Fleet(home)
    home.kill()


def submit(fleet: Fleet, name: str, *how: str, output: str = "out/") -> str:
    job = fleet.run(
        "submit",
        str(fleet.home.folder / name),
        *how,
        "--max-attempts",
        "1",
        "--output",
        f"{fleet.home.folder}/{output}",
    )
    return str(job["id"])


def begun(fleet: Fleet, job_id: str) -> float:
    """Waits until FFmpeg works on it; the progress by then."""
    with fleet.client() as client:
        return reached(client, job_id, under_way).progress.fraction


def ended(fleet: Fleet, job_id: str, *, within_s: float = 90.0) -> job_pb2.Job:
    with fleet.client() as client:
        return client.wait(job_id, timeout_s=within_s)


def decoded(path: Path) -> str:
    """Digest of the samples, by FFmpeg alone."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s32le", "-c:a", "pcm_s32le", "-"]
    return hashlib.sha256(subprocess.run(command, check=True, capture_output=True).stdout).hexdigest()


def check_log(fleet: Fleet, job: job_pb2.Job) -> None:
    """Every step's log is there from its command to its last line, once, and the agent's lines are in order."""
    with fleet.client() as client:
        pieces = list(client.logs(job.id))
    said = {"agent": b"", "ffmpeg": b""}
    for piece in pieces:
        said[piece.stream] += piece.data
    commands = re.findall(rb"^\$ ffmpeg ", said["ffmpeg"], re.MULTILINE)
    assert len(commands) == len(job.attempts[0].plan.steps)
    assert said["ffmpeg"].count(b"Input #0") == len(commands)
    times = [float(line.split()[0]) for line in said["agent"].splitlines() if re.match(rb" *[\d.]+ s  ", line)]
    assert times == sorted(times)
    assert len(set(said["agent"].splitlines())) == len(said["agent"].splitlines())
    assert b"published" in said["agent"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR1], ids=["killed", "told to leave"])
def test_ffmpeg_outlives_its_agent(fleet: Fleet, how: signal.Signals) -> None:
    """The next life of the agent goes on with the same process, in the same attempt, and progress continues."""
    fleet.controller()
    agent = fleet.agent()
    job_id = submit(fleet, "hours.flac", *EXTRACT)
    before_kill = begun(fleet, job_id)
    before = encoder(fleet)
    os.kill(agent.process.pid, how)
    agent.process.wait(10)
    assert before is not None
    assert encoder(fleet) == before
    fleet.agent()
    with fleet.client() as client:
        reached(client, job_id, lambda update: update.progress.fraction > before_kill)
        assert len(client.get(job_id).attempts) == 1
    assert encoder(fleet) == before
    fleet.run("jobs", "cancel", job_id)
    assert ended(fleet, job_id, within_s=10).state == job_pb2.JOB_STATE_CANCELLED
    tidy(fleet)


def test_it_ends_while_nobody_watches(fleet: Fleet) -> None:
    """What FFmpeg did while its agent was away counts: the step is not run again."""
    fleet.controller()
    agent = fleet.agent()
    job_id = submit(fleet, "minutes.flac", *EXTRACT)
    begun(fleet, job_id)
    agent.process.kill()
    until(lambda: encoder(fleet) is None, "FFmpeg has ended", within_s=60)
    fleet.agent()
    job = ended(fleet, job_id)
    assert job.state == job_pb2.JOB_STATE_COMPLETED, job.failure
    assert len(job.attempts) == 1
    check_log(fleet, job)
    tidy(fleet)


def test_ended_while_the_agent_was_away(fleet: Fleet) -> None:
    """A job that was cancelled meanwhile is stopped when the agent is back, and publishes nothing."""
    fleet.controller()
    agent = fleet.agent()
    job_id = submit(fleet, "minutes.flac", *EXTRACT)
    begun(fleet, job_id)
    agent.process.kill()
    fleet.run("jobs", "cancel", job_id)
    until(lambda: encoder(fleet) is None, "FFmpeg has ended", within_s=60)
    fleet.agent()
    assert ended(fleet, job_id, within_s=10).state == job_pb2.JOB_STATE_CANCELLED
    tidy(fleet)
    assert not list((fleet.home.folder / "out").glob("*"))


def test_a_controller_that_is_away(fleet: Fleet) -> None:
    """The agent works on, and what it did and said meanwhile arrives when the controller is back."""
    controller = fleet.controller()
    fleet.agent()
    job_id = submit(fleet, "minutes.flac", *EXTRACT)
    begun(fleet, job_id)
    controller.process.kill()
    controller.process.wait()
    until(fleet.home.staged, "the output is staged", within_s=60)
    fleet.controller()
    job = ended(fleet, job_id)
    assert job.state == job_pb2.JOB_STATE_COMPLETED, job.failure
    assert len(job.attempts) == 1
    check_log(fleet, job)
    tidy(fleet)


def test_what_is_staged_is_what_is_published(fleet: Fleet) -> None:
    """Though FFmpeg was replaced since: the controller may have been told of what is there."""
    controller, agent = fleet.controller(), fleet.agent()
    job_id = submit(fleet, "minutes.flac", *EXTRACT)
    begun(fleet, job_id)
    controller.process.kill()
    controller.process.wait()
    [staged] = until(fleet.home.staged, "the output is staged", within_s=60)
    made = staged.stat().st_ino
    [journal] = fleet.home.scratch.glob("*/journal.jsonl")
    until(lambda: b'"staged"' in journal.read_bytes(), "the journal says so")
    agent.process.kill()
    agent.process.wait()
    detected = fleet.home.data_dir / "agent" / "detected.json"
    known = json.loads(detected.read_text())
    for found in known["binaries"].values():
        found["binary"]["sha256"] = "0" * 64
    detected.write_text(json.dumps(known))
    fleet.controller()
    fleet.agent()
    job = ended(fleet, job_id)
    assert job.state == job_pb2.JOB_STATE_COMPLETED, job.failure
    [published] = (fleet.home.folder / "out").iterdir()
    assert published.stat().st_ino == made
    assert hashlib.sha256(published.read_bytes()).hexdigest() == job.artifacts[0].sha256
    tidy(fleet)


def test_both_killed(fleet: Fleet) -> None:
    """Controller and agent die together in the middle of an encode and come back: one attempt."""
    controller, agent = fleet.controller(), fleet.agent()
    job_id = submit(fleet, "minutes.flac", *EXTRACT)
    begun(fleet, job_id)
    for running in (controller, agent):
        running.process.kill()
        running.process.wait()
    fleet.controller()
    fleet.agent()
    job = ended(fleet, job_id)
    assert job.state == job_pb2.JOB_STATE_COMPLETED, job.failure
    assert len(job.attempts) == 1
    check_log(fleet, job)
    tidy(fleet)


def test_drained_by_a_signal(fleet: Fleet) -> None:
    """SIGTERM with time to finish: the work in hand is done, nothing new is begun, then the agent ends."""
    fleet.agent_flags = ("--drain-timeout", "60")
    fleet.controller()
    agent = fleet.agent()
    job_id = submit(fleet, "minutes.flac", *EXTRACT)
    begun(fleet, job_id)
    agent.process.terminate()
    later = submit(fleet, "speech.wav", *EXTRACT)
    assert agent.ended().code == 0
    assert ended(fleet, job_id).state == job_pb2.JOB_STATE_COMPLETED
    with fleet.client() as client:
        assert client.get(later).state == job_pb2.JOB_STATE_PENDING
    tidy(fleet)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_killed_at_random(fleet: Fleet, seed: int) -> None:
    """kill -9 at any moment of a job of many steps: one attempt, and sample for sample what it would have been."""
    fleet.controller()
    agent = fleet.agent()
    undisturbed = ended(fleet, submit(fleet, "minutes.flac", *MASTER))
    whole = decoded(fleet.home.folder / "out" / "minutes.flac.flac")
    span_s = undisturbed.end_time.ToNanoseconds() - undisturbed.create_time.ToNanoseconds()
    check_kill(fleet, agent, whole, random.Random(seed).random() * span_s / 1e9, "again/")  # noqa: S311 - a seed, no secret


def check_kill(fleet: Fleet, agent: Running, whole: str, after_s: float, output: str) -> Running:
    """Submit, kill the agent after so many seconds, start it again; returns the new one."""
    job_id = submit(fleet, "minutes.flac", *MASTER, output=output)
    try:
        agent.process.wait(after_s)
    except subprocess.TimeoutExpired:
        agent.process.kill()
    agent.process.wait()
    agent = fleet.agent()
    job = ended(fleet, job_id)
    assert job.state == job_pb2.JOB_STATE_COMPLETED, job.failure
    assert len(job.attempts) == 1
    assert decoded(fleet.home.folder / output / "minutes.flac.flac") == whole
    check_log(fleet, job)
    tidy(fleet)
    return agent


def encoder(fleet: Fleet) -> int | None:
    """The FFmpeg that runs."""
    found = [
        pid for pid, line in fleet.home.encoders().items() if "supervisor.py" not in line and "ffprobe" not in line
    ]
    return found[0] if found else None


def tidy(fleet: Fleet) -> None:
    until(lambda: not fleet.home.encoders(), "nothing runs in the scratch folder", within_s=5)
    fleet.home.assert_tidy()
    until(lambda: not list((fleet.home.data_dir / "agent" / "outbox").glob("*")), "all is acknowledged", within_s=10)
