"""The single box: embedded in a command, or in the foreground; how it begins, serves several and ends."""

import os
import signal
import stat
from pathlib import Path

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, only_job, reached, under_way, until

EXTRACT = ("--preset", "extract_audio", "--profile", "flac")
UP = "the box is up"


def test_two_runs_at_once(new_home: Home, recordings: Recordings) -> None:
    """Both succeed, in one box between them; it ends by itself, and its history can be read afterwards."""
    runs = [
        new_home.start(
            "run", recordings.minutes(), *EXTRACT, "--output", new_home.folder / f"{number}.flac", "-o", "json"
        )
        for number in range(2)
    ]
    ended = [run.ended() for run in runs]
    assert [ran.code for ran in ended] == [0, 0], ended
    ids = {ran.json["id"] for ran in ended}
    assert len(ids) == 2
    until(lambda: not new_home.processes(), "the box has ended by itself", within_s=5)
    assert new_home.log.read_text().count(UP) == 1
    assert stat.S_IMODE(new_home.data_dir.stat().st_mode) == 0o700
    listed = new_home.job("jobs", "list")
    assert {job["id"] for job in listed["jobs"]} == ids
    assert {job["state"] for job in listed["jobs"]} == {"JOB_STATE_COMPLETED"}
    assert listed["nextPageToken"] == ""
    until(lambda: not new_home.processes(), "the box that listed has ended too", within_s=5)
    assert new_home.log.read_text().count(UP) == 2


def test_submitting_without_a_box(home: Home, recordings: Recordings) -> None:
    """`submit` starts one and does not wait; the job is done with nobody connected, and then the box ends."""
    job_id = home.job("submit", recordings.minutes(), *EXTRACT, "--output", "out/")["id"]
    assert home.processes("controller.main")
    until(lambda: not home.processes(), "the job is done and the box has ended", within_s=60)
    assert home.job("jobs", "get", job_id)["state"] == "JOB_STATE_COMPLETED"
    assert (home.folder / "out" / "minutes.flac.flac").exists()


def test_many_commands_at_once_without_a_box(home: Home) -> None:
    """Five commands that all want to start the box get along: every one is answered."""
    asked = [home.start("presets", "list", "-o", "json") for _ in range(5)]
    answers = [one.ended() for one in asked]
    assert [answer.code for answer in answers] == [0] * 5, answers
    assert len({answer.stdout for answer in answers}) == 1


def test_a_run_uses_the_box_that_is_there(home: Home, recordings: Recordings) -> None:
    """With `up` running, `run` starts nothing of its own, the job is in that box, and that box stays."""
    box = home.up()
    before = home.processes("main")
    pid = home.box_pid()
    assert pid == box.process.pid
    job = home.job("run", recordings.synth("blip"), *EXTRACT, "--output", "out/")
    assert job["state"] == "JOB_STATE_COMPLETED"
    assert home.processes("main") == before
    assert home.box_pid() == pid
    with home.client() as client:
        assert client.get(job["id"]).id == job["id"]
    assert stat.S_IMODE(home.socket.stat().st_mode) == 0o600
    box.interrupt()
    ended = box.ended()
    assert ended.code == 0
    assert UP in ended.stderr
    assert not home.processes()
    assert not home.socket.exists()


def test_a_second_box_is_refused(home: Home) -> None:
    """Exit 2, with the process that has the place, and the first one is not disturbed."""
    box = home.up()
    refused = home.run("up", code=2)
    assert f"process {box.process.pid}" in refused.stderr
    assert home.job("agents", "list")["agents"][0]["state"] == "AGENT_STATE_READY"
    box.process.terminate()
    assert box.ended().code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_stopping_the_box_hands_the_work_back(home: Home, recordings: Recordings, number: signal.Signals) -> None:
    """An unfinished job waits, its attempt handed back and not failed; it is done after the next start.

    It has one attempt only, so that counting the first one as a failure would show.
    """
    box = home.up()
    asked = (recordings.minutes(), *EXTRACT, "--max-attempts", "1", "--output", "out/")
    job_id = home.job("submit", *asked)["id"]
    with home.client() as client:
        reached(client, job_id, under_way)
    os.kill(box.process.pid, number)
    assert box.ended().code == 0
    assert not home.processes()
    home.assert_tidy()
    assert not (home.folder / "out").exists()
    box = home.up()
    with home.client() as client:
        job = client.wait(job_id, timeout_s=60)
    assert [attempt.state for attempt in job.attempts] == ["handed_back", "completed"]
    assert (home.folder / "out" / "minutes.flac.flac").exists()
    box.process.terminate()
    assert box.ended().code == 0


def test_a_waiting_job_survives_the_box(home: Home, recordings: Recordings) -> None:
    """A job that was never begun is still there after a restart, and `explain` still says why it waits."""
    box = home.up()
    job_id = home.job("submit", recordings.synth("blip"), *EXTRACT, "--require", "colour=green", "--output", "out/")[
        "id"
    ]
    box.interrupt()
    assert box.ended().code == 0
    box = home.up()
    assert home.job("jobs", "get", job_id)["state"] == "JOB_STATE_PENDING"
    until(lambda: "colour=green" in home.run("jobs", "explain", job_id).stdout, "it is explained")
    home.run("jobs", "cancel", job_id)
    box.process.terminate()
    assert box.ended().code == 0


def test_the_box_ends_when_its_agent_dies(home: Home) -> None:
    """kill -9 of the agent: a message, exit 1, and no process left of the box."""
    box = home.up()
    [agent] = home.processes("agent.main")
    os.kill(agent, signal.SIGKILL)
    ended = box.ended()
    assert ended.code == 1
    assert "the agent ended (killed by signal 9)" in ended.stderr
    assert not home.processes()


def test_the_box_ends_when_its_controller_dies(home: Home) -> None:
    """kill -9 of the controller: a message, exit 1, and no process left of the box."""
    box = home.up()
    [controller] = home.processes("controller.main")
    os.kill(controller, signal.SIGKILL)
    ended = box.ended()
    assert ended.code == 1
    assert "the controller ended (killed by signal 9)" in ended.stderr
    until(lambda: not home.processes(), "everything has ended", within_s=10)


def test_nothing_outlives_the_box(home: Home, recordings: Recordings) -> None:
    """kill -9 of `up` itself while FFmpeg works: controller, agent and FFmpeg end with it."""
    box = home.up()
    job_id = home.job("submit", recordings.hours(), *EXTRACT, "--output", "out/")["id"]
    with home.client() as client:
        reached(client, job_id, under_way)
    assert home.encoders()
    box.process.kill()
    box.process.wait()
    until(lambda: not home.processes(), "everything has ended", within_s=10)
    home.job("jobs", "cancel", job_id)
    until(lambda: not home.processes(), "the box that cancelled has ended", within_s=10)


def test_a_power_cut(home: Home, recordings: Recordings) -> None:
    """kill -9 of every process at once, supervisors and FFmpeg too: the next command brings the interrupted job to its
    end, in the same attempt, which goes on from its workspace."""
    asked = (recordings.minutes(), *EXTRACT, "--max-attempts", "1", "--output", "out/")
    home.start("run", *asked)
    job_id = only_job(home)
    with home.client() as client:
        reached(client, job_id, under_way)
    home.kill()
    assert home.workspaces()
    after = home.job("run", recordings.synth("blip"), *EXTRACT, "--output", "out/")
    assert after["state"] == "JOB_STATE_COMPLETED"
    # The box stays for it, whether or not anybody is connected.
    until(lambda: not home.processes(), "the box has nothing more to do", within_s=60)
    job = home.job("jobs", "get", job_id)
    assert job["state"] == "JOB_STATE_COMPLETED"
    assert [attempt["state"] for attempt in job["attempts"]] == ["completed"]
    assert sorted(path.name for path in (home.folder / "out").iterdir()) == ["blip.flac.flac", "minutes.flac.flac"]


def test_a_data_directory_that_cannot_be_made(new_home: Home, tmp_path: Path) -> None:
    """Where a file stands in its way, that is said in one line."""
    (tmp_path / "file").touch()
    ran = new_home.run("--data-dir", tmp_path / "file" / "data", "jobs", "list", code=None)
    assert ran.code in {1, 2, 4}
    assert str(tmp_path / "file") in ran.stderr
    assert ran.stdout == ""
