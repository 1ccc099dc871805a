"""What a person does with the queue: dependencies, times, pauses, second tries, replays, weights and limits."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import ENDED, Home, reached, under_way, until
from tests.fakes.fleet import Fleet, of_agents

CONVERT = ("--preset", "convert", "--profile", "flac")
# No agent of these tests has it.
NOWHERE = ("--require", "colour=green")


def _submitted(box: Home, recordings: Recordings, folder: Path, name: str, *more: str) -> str:
    asked = ("submit", recordings.synth("blip"), *CONVERT, "--output", folder / f"{name}.flac")
    job_id: str = box.job(*asked, *more)["id"]
    return job_id


def _ended(box: Home, job_id: str) -> Any:
    def job() -> Any:
        found = box.job("jobs", "get", job_id)
        return found if found["state"] in ENDED else None

    return until(job, f"job {job_id} has ended", within_s=40)


def _events(box: Home, job_id: str) -> list[str]:
    return [event["type"] for event in box.job("jobs", "events", job_id)["events"]]


def test_after_another_job(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """BLOCKED while the other waits, which list and get tell; started once it has completed."""
    first = _submitted(box, recordings, tmp_path, "first", "--hold")
    second = _submitted(box, recordings, tmp_path, "second", "--after", first[:18], "--label", "test=after")
    job = box.job("jobs", "get", second)
    assert job["state"] == "JOB_STATE_BLOCKED"
    assert [task["waitsFor"] for task in job["tasks"]] == [1]
    assert [one["id"] for one in box.job("jobs", "list", "--state", "BLOCKED", "--label", "test=after")["jobs"]] == [
        second
    ]
    assert f"after {first[:13]}" in box.run("jobs", "list", "--label", "test=after").stdout
    assert box.run("jobs", "release", first).stdout == f"{first}\n"
    ended = [_ended(box, job_id) for job_id in (first, second)]
    assert [one["state"] for one in ended] == ["JOB_STATE_COMPLETED"] * 2
    assert ended[1]["startTime"] >= ended[0]["endTime"]


def test_after_a_job_that_fails(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """DEAD with DEPENDENCY_FAILED, and what waits for that one too; with --after-any-end it is done all the same."""
    first = _submitted(box, recordings, tmp_path, "first", *NOWHERE)
    second = _submitted(box, recordings, tmp_path, "second", "--after", first)
    third = _submitted(box, recordings, tmp_path, "third", "--after", second)
    fourth = _submitted(box, recordings, tmp_path, "fourth", "--after", first, "--after-any-end")
    box.run("jobs", "cancel", first)
    for job_id in (second, third):
        job = _ended(box, job_id)
        assert (job["state"], job["failure"]["reason"]) == ("JOB_STATE_DEAD", "DEPENDENCY_FAILED")
        assert job["attemptCount"] == 0
    assert _ended(box, fourth)["state"] == "JOB_STATE_COMPLETED"
    assert not (tmp_path / "second.flac").exists()


def test_after_a_job_that_is_not_there(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Refused, and nothing is stored."""
    asked = ("submit", recordings.synth("blip"), *CONVERT, "--output", f"{tmp_path}/", "--label", "test=nobody")
    ran = box.run(*asked, "--after", "0123456789abcdef", code=None)
    assert ran.code in {2, 3}
    assert "0123456789abcdef" in ran.stderr
    assert box.job("jobs", "list", "--label", "test=nobody")["jobs"] == []


def test_hold_and_release(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A held job is not started, however often it is held; released, it is done. Both are in its history."""
    job_id = _submitted(box, recordings, tmp_path, "held", "--hold")
    for _ in range(2):
        box.run("jobs", "hold", job_id, "--message", "wrong reel")
    job = box.job("jobs", "get", job_id)
    assert (job["state"], job["held"], job["attemptCount"]) == ("JOB_STATE_HELD", True, 0)
    assert "held" in box.run("jobs", "get", job_id).stdout
    assert box.run("jobs", "explain", job_id).stdout
    assert box.job("jobs", "release", job_id)["jobIds"] == [job_id]
    assert _ended(box, job_id)["state"] == "JOB_STATE_COMPLETED"
    over = box.run("jobs", "hold", job_id, code=2)
    assert (over.stdout, "JOB_ENDED" in over.stderr) == ("", True)


def test_hold_by_selector(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Those that are meant and no others; the overview counts them as HELD."""
    queue = ("--queue", "reels", *NOWHERE)
    meant = [_submitted(box, recordings, tmp_path, f"{number}", *queue) for number in range(2)]
    other = _submitted(box, recordings, tmp_path, "other", *NOWHERE)
    assert sorted(box.job("jobs", "hold", "--queue", "reels")["jobIds"]) == sorted(meant)
    assert box.job("jobs", "get", other)["state"] == "JOB_STATE_PENDING"
    depth = {one["name"]: one["depth"] for one in box.job("queue")["queues"]}
    assert depth["reels"]["HELD"] == "2"
    assert sorted(box.job("jobs", "release", "--state", "HELD", "--queue", "reels")["jobIds"]) == sorted(meant)
    box.run("jobs", "cancel", *meant, other)


def test_not_before(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """PENDING until then; a moment that has come is no obstacle."""
    later = _submitted(box, recordings, tmp_path, "later", "--not-before", "1h")
    soon = _ended(box, _submitted(box, recordings, tmp_path, "soon", "--not-before", "2s"))
    assert soon["state"] == "JOB_STATE_COMPLETED"
    assert soon["startTime"] >= soon["spec"]["notBefore"]
    assert _ended(box, _submitted(box, recordings, tmp_path, "past", "--not-before", "2020-01-01T00:00:00Z"))[
        "artifacts"
    ]
    job = box.job("jobs", "get", later)
    assert (job["state"], job["attemptCount"]) == ("JOB_STATE_PENDING", 0)
    assert "not before" in box.run("jobs", "get", later).stdout
    box.run("jobs", "cancel", later)


def test_a_timeout_stops_a_job(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """DEAD with TIMED_OUT, FFmpeg gone, nothing published."""
    asked = (recordings.hours(), "--preset", "loudness_podcast", "--output", f"{tmp_path}/out/")
    job = box.job("submit", *asked, "--job-timeout", "2s", "--wait", code=1)
    assert (job["state"], job["failure"]["reason"]) == ("JOB_STATE_DEAD", "TIMED_OUT")
    until(lambda: not box.encoders(), "FFmpeg is gone")
    assert not [*tmp_path.rglob("*.m4a")]


def test_a_deadline_stops_a_waiting_job(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Nobody can run it: at the deadline it is DEAD."""
    job = _ended(box, _submitted(box, recordings, tmp_path, "late", *NOWHERE, "--deadline", "1s"))
    assert (job["state"], job["failure"]["reason"]) == ("JOB_STATE_DEAD", "TIMED_OUT")
    assert job["endTime"] >= job["spec"]["deadline"]
    assert job["attemptCount"] == 0


def test_retry(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Dead jobs are listed with their reason; once the reason is gone, retry by selector completes them."""
    absent = tmp_path / "absent.wav"
    asked = ("submit", absent, *CONVERT, "--output", f"{tmp_path}/out/", "--label", "test=retry")
    job_id = box.job(*asked, "--wait", code=1)["id"]
    dead = ("--state", "dead", "--reason", "input_not_found", "--label", "test=retry")
    assert [job["id"] for job in box.job("jobs", "list", *dead)["jobs"]] == [job_id]
    assert "INPUT_NOT_FOUND" in box.run("jobs", "list", *dead).stdout
    assert box.job("jobs", "list", "--reason", "STALLED", "--label", "test=retry")["jobs"] == []
    os.link(recordings.synth("blip"), absent)
    assert box.run("jobs", "retry", *dead).stdout == f"{job_id}\n"
    job = _ended(box, job_id)
    assert job["state"] == "JOB_STATE_COMPLETED"
    assert not job.get("failure", {}).get("reason")
    assert job["attemptCount"] == 2
    again = box.run("jobs", "retry", job_id, code=2)
    assert (again.stdout, "JOB_NOT_DEAD" in again.stderr) == ("", True)
    assert box.run("jobs", "retry", *dead).stdout == ""


def test_retry_is_idempotent(box: Home, tmp_path: Path) -> None:
    """The same request again tells what the first one did, and does nothing."""
    job_id = box.job("submit", tmp_path / "absent.wav", *CONVERT, "--output", f"{tmp_path}/", "--wait", code=1)["id"]
    asked = ("jobs", "retry", job_id, "--request-id", f"again-{job_id}")
    assert box.job(*asked)["jobIds"] == [job_id]
    assert _ended(box, job_id)["state"] == "JOB_STATE_DEAD"
    before = _events(box, job_id)
    assert box.job(*asked) == {"jobIds": [job_id], "refused": []}
    assert _events(box, job_id) == before


def test_replay(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A new job that names the first one, with the same pinned preset, and the same bytes from a lossless profile."""
    source = tmp_path / "talk.wav"
    source.write_bytes(recordings.synth("blip").read_bytes())
    first = box.job("run", source, *CONVERT, "--output", f"{tmp_path}/out/")
    asked = ("jobs", "replay", first["id"], "--output", f"{tmp_path}/again/", "--request-id", f"r-{first['id']}")
    second = box.job(*asked)
    assert (second["replayOf"], second["presetDigest"]) == (first["id"], first["presetDigest"])
    assert box.job(*asked)["id"] == second["id"]
    done = _ended(box, second["id"])
    assert done["state"] == "JOB_STATE_COMPLETED"
    assert [one["sha256"] for one in done["artifacts"]] == [one["sha256"] for one in first["artifacts"]]
    assert [one["uri"] for one in done["artifacts"]] != [one["uri"] for one in first["artifacts"]]
    shown = box.run("jobs", "get", second["id"]).stdout
    assert first["id"] in shown
    assert "bit-identical" in shown
    binaries = [box.job("jobs", "get", one["id"])["attempts"][-1]["plan"]["binarySha256"] for one in (first, second)]
    assert binaries[0] == binaries[1]
    source.write_bytes(recordings.synth("speech").read_bytes())
    changed = _ended(box, box.job("jobs", "replay", first["id"], "--overwrite")["id"])
    assert (changed["state"], changed["failure"]["reason"]) == ("JOB_STATE_DEAD", "INPUT_CHANGED")


def test_replay_of_a_job_that_never_ran(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """There is nothing to replay: exit 2."""
    job_id = _submitted(box, recordings, tmp_path, "never", "--hold")
    assert "JOB_NOT_STARTED" in box.run("jobs", "replay", job_id, code=2).stderr
    box.run("jobs", "cancel", job_id)


def test_limits_and_weights(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A limit of 0 stops a queue and nothing else, explain says so, and without the limit it goes on."""
    assert box.job("queue", "set", "stopped", "--weight", "2.5")["weight"] == 2.5
    assert box.job("queue", "limit", "queue:stopped", "0")["maximum"] == 0
    try:
        waiting = _submitted(box, recordings, tmp_path, "waiting", "--queue", "stopped")
        assert _ended(box, _submitted(box, recordings, tmp_path, "free"))["state"] == "JOB_STATE_COMPLETED"
        assert box.job("jobs", "get", waiting)["state"] == "JOB_STATE_PENDING"
        assert "limit" in box.run("jobs", "explain", waiting).stdout
        overview = box.job("queue")
        queues = {queue["name"]: queue for queue in overview["queues"]}
        assert (queues["stopped"]["weight"], queues["stopped"]["depth"]["PENDING"]) == (2.5, "1")
        assert "oldestWait" in queues["stopped"]
        [limit] = [one for one in overview["limits"] if one["key"] == "queue:stopped"]
        assert limit["maximum"] == 0
        shown = box.run("queue").stdout
        assert "queue:stopped" in shown
        assert "2.5" in shown
    finally:
        assert box.job("queue", "limit", "queue:stopped", "none") == {}
    assert _ended(box, waiting)["state"] == "JOB_STATE_COMPLETED"


@pytest.mark.parametrize("key", ["", "queue", "planet:mars", "global:x", "label:"])
def test_a_limit_on_nothing(box: Home, key: str) -> None:
    """A key that is none is refused with what one looks like."""
    assert box.run("queue", "limit", key, "1", code=2).stderr


def test_what_runs_where(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A running job is in the overview with its agent, its cores and how far it is."""
    asked = (recordings.hours(), "--preset", "loudness_podcast", "--output", f"{tmp_path}/out/")
    job_id = box.job("submit", *asked)["id"]
    with box.client() as client:
        reached(client, job_id, under_way)
        [running] = [one for one in box.job("queue")["running"] if one["jobId"] == job_id]
        assert running["agentName"]
        assert running["cores"] >= 1
        assert running["state"] == "running"
        assert job_id in box.run("queue").stdout
        box.run("jobs", "cancel", job_id)
        client.wait(job_id, timeout_s=10)
    assert job_id not in {one["jobId"] for one in box.job("queue")["running"]}


def test_times_that_are_none(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Exit 2 before anything is stored."""
    asked = ("submit", recordings.synth("blip"), *CONVERT, "--output", f"{tmp_path}/", "--label", "test=times")
    for more in (
        ("--not-before", "2030-01-01T00:00:00"),
        ("--deadline", "soon"),
        ("--deadline", "2020-01-01T00:00:00Z"),
        ("--job-timeout", "0s"),
        ("--after-any-end",),
    ):
        box.run(*asked, *more, code=2)
    assert box.job("jobs", "list", "--label", "test=times")["jobs"] == []


@pytest.fixture
def fleet(home: Home) -> Iterator[Fleet]:
    with ExitStack() as stack:
        stack.callback(home.kill)
        yield Fleet(home)


def test_waiting_survives_the_controller(fleet: Fleet, recordings: Recordings) -> None:
    """`submit --wait` goes on while the controller is killed and started again, and tells how the job ended."""
    source = fleet.home.folder / "minutes.flac"
    os.link(recordings.minutes(), source)
    controller = fleet.controller()
    fleet.agent()
    asked = ("submit", source, *CONVERT, "--output", f"{fleet.home.folder}/out/", "--wait", "-o", "json")
    waiting = fleet.home.start("--controller", f"localhost:1,{fleet.address}", *of_agents(*asked))
    with fleet.client() as client:
        job_id = until(lambda: [job.id for job in client.list()], "the job is there")[0]
        reached(client, job_id, under_way)
    controller.process.kill()
    controller.process.wait()
    fleet.controller()
    ended = waiting.ended()
    assert (ended.code, ended.json["state"]) == (0, "JOB_STATE_COMPLETED"), ended
