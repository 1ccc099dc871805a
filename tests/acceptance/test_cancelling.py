"""Stopping jobs: quickly, wholly, and without anything published."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mediactl.v1 import job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, Running, only_job, reached, under_way, until

PODCAST = ("--preset", "loudness_podcast", "--profile", "aac_192")


def _interrupt(running: Running) -> None:
    running.interrupt()


def _terminate(running: Running) -> None:
    running.process.terminate()


def test_cancel_during_a_run(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """CANCELLED within two seconds; then neither FFmpeg nor workspace nor any output is there, nor anything staged."""
    out = tmp_path / "out"
    job_id = box.job("submit", recordings.hours(), *PODCAST, "--output", f"{out}/")["id"]
    with box.client() as client:
        reached(client, job_id, under_way)
        assert box.encoders()
        assert box.workspaces()
        asked = box.job("jobs", "cancel", job_id, "--message", "wrong take")
        assert asked["cancelRequested"] is True
        job = client.wait(job_id, timeout_s=10)
        assert job_pb2.JobState.Name(job.state) == "JOB_STATE_CANCELLED"
        box.assert_tidy()
        assert not out.exists()
        history = [*client.events(job_id)]
    at = {event.type: event.time.ToMicroseconds() for event in history}
    assert history[-1].type == "cancelled"
    assert at["cancelled"] - at["cancel_requested"] < 2_000_000
    assert any("wrong take" in event.message for event in history)
    assert job.attempts[0].state == "cancelled"
    again = box.run("jobs", "cancel", job_id, "-o", "json", code=None)
    assert (again.code, "JOB_ENDED" in again.stderr) in {(0, False), (2, True)}


def test_cancel_before_an_agent_has_it(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A job that waits is CANCELLED at once, by the answer to the request."""
    asked = (recordings.synth("blip"), *PODCAST, "--require", "colour=green", "--output", f"{tmp_path}/out/")
    job_id = box.job("submit", *asked)["id"]
    cancelled = box.job("jobs", "cancel", job_id)
    assert cancelled["state"] == "JOB_STATE_CANCELLED"
    assert cancelled["attemptCount"] == 0


def test_cancel_by_selector(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Several jobs by a label, and no other."""
    asked = (recordings.synth("blip"), "--preset", "convert", "--require", "colour=green")
    ids = {
        label: box.job("submit", *asked, "--label", f"show={label}", "--output", tmp_path / label)["id"]
        for label in ("news", "sports")
    }
    stopped = box.job("jobs", "cancel", "--label", "show=news")["jobs"]
    assert [job["id"] for job in stopped] == [ids["news"]]
    assert box.job("jobs", "get", ids["sports"])["state"] == "JOB_STATE_PENDING"
    box.run("jobs", "cancel", ids["sports"])


def test_cancel_of_a_completed_job(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Refused with JOB_ENDED, exit 2; what was published stays."""
    target = tmp_path / "talk.m4a"
    job = box.job("run", recordings.synth("blip"), "--preset", "convert", "--output", target)
    assert "JOB_ENDED" in box.run("jobs", "cancel", job["id"], code=2).stderr
    assert target.exists()


@pytest.mark.parametrize("stop", [_interrupt, _terminate], ids=["Ctrl-C", "SIGTERM"])
def test_stopping_a_run(home: Home, recordings: Recordings, stop: Callable[[Running], None]) -> None:
    """The embedded run cancels its job, exits with 130 and leaves no process, no file; its history tells of it."""
    running = home.start("run", recordings.hours(), *PODCAST, "--output", "out/")
    job_id = only_job(home)
    with home.client() as client:
        reached(client, job_id, under_way)
    assert home.encoders()
    begun = time.monotonic()
    stop(running)
    ended = running.ended()
    assert ended.code == 130
    assert time.monotonic() - begun < 5
    assert ended.stdout == ""
    until(lambda: not home.processes(), "the embedded box has ended", within_s=5)
    home.assert_tidy()
    assert not (home.folder / "out").exists()
    job = home.job("jobs", "get", job_id)
    assert job["state"] == "JOB_STATE_CANCELLED"


def test_stopping_a_run_that_has_only_begun(home: Home, recordings: Recordings) -> None:
    """Ctrl-C while the embedded box starts: 130, and nothing is left running."""
    running = home.start("run", recordings.hours(), *PODCAST, "--output", "out/")
    until(lambda: home.processes("controller.main"), "the box starts")
    running.interrupt()
    assert running.ended().code == 130
    until(lambda: not home.processes(), "the embedded box has ended", within_s=5)
    assert all(job["state"] == "JOB_STATE_CANCELLED" for job in home.job("jobs", "list")["jobs"])


def test_stopping_one_of_two_runs(home: Home, recordings: Recordings) -> None:
    """Ctrl-C on one command cancels its own job alone; the box goes on for the other."""
    other = home.start("run", recordings.minutes(), "--preset", "extract_audio", "--output", "kept/", "-o", "json")
    only_job(home)
    running = home.start("run", recordings.hours(), *PODCAST, "--output", "out/")

    def second() -> str:
        with home.client() as client:
            return next((job.id for job in client.list() if "hours" in job.spec.inputs[0].uri), "")

    job_id = until(second, "the second job was submitted")
    running.interrupt()
    assert running.ended().code == 130
    kept = other.ended()
    assert kept.code == 0, kept
    assert kept.json["state"] == "JOB_STATE_COMPLETED"
    assert home.job("jobs", "get", job_id)["state"] == "JOB_STATE_CANCELLED"


@pytest.mark.parametrize("command", [("jobs", "watch"), ("jobs", "logs", "-f")], ids=" ".join)
def test_stopping_to_look(box: Home, recordings: Recordings, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Ctrl-C on `watch` and `logs -f` ends them with 130 and does nothing to the job."""
    job_id = box.job("submit", recordings.hours(), *PODCAST, "--output", f"{tmp_path}/out/")["id"]
    with box.client() as client:
        reached(client, job_id, under_way)
    looking = box.start(*command, job_id)
    until(looking.lines, "it has begun to tell")
    looking.interrupt()
    assert looking.ended(within_s=5).code == 130
    assert box.job("jobs", "get", job_id)["state"] == "JOB_STATE_PROCESSING"
    box.run("jobs", "cancel", job_id)
    with box.client() as client:
        client.wait(job_id, timeout_s=10)


def test_stopping_to_wait(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Ctrl-C on `submit --wait` gives up waiting; unlike `run` it leaves the job in the queue."""
    label = f"test={tmp_path.name}"
    asked = (recordings.hours(), *PODCAST, "--output", f"{tmp_path}/out/", "--label", label)
    waiting = box.start("submit", *asked, "--wait")

    def submitted() -> str:
        with box.client() as client:
            return next((job.id for job in client.list({"labels": {"test": tmp_path.name}})), "")

    job_id = until(submitted, "the job was submitted")
    with box.client() as client:
        reached(client, job_id, under_way)
    waiting.interrupt()
    assert waiting.ended(within_s=5).code == 130
    assert box.job("jobs", "get", job_id)["state"] == "JOB_STATE_PROCESSING"
    box.run("jobs", "cancel", job_id)
    with box.client() as client:
        client.wait(job_id, timeout_s=10)


def test_a_run_that_is_killed(home: Home, recordings: Recordings) -> None:
    """kill -9 of `run` takes nothing with it: the job completes, and then the box ends."""
    running = home.start("run", recordings.minutes(), "--preset", "extract_audio", "--output", "out/")
    job_id = only_job(home)
    with home.client() as client:
        reached(client, job_id, under_way)
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    until(lambda: not home.processes(), "the job is done and the box has ended", within_s=60)
    assert home.job("jobs", "get", job_id)["state"] == "JOB_STATE_COMPLETED"
    assert (home.folder / "out" / "minutes.audio_only_master.wav").exists()
