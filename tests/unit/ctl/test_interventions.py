"""retry, replay, hold and release against a controller with invented answers."""

from pathlib import Path

import pytest

from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from presets.reasons import Reason
from tests.fakes.controller import FakeController
from tests.unit.ctl.conftest import Mediactl

BROKEN = ("a.wav", "--preset", "broken", "--output", "out/")
SLOW = ("a.wav", "--preset", "slow", "--output", "out/")


def test_retry_by_id(mediactl: Mediactl, fake: FakeController) -> None:
    """The ids on stdout; what was refused with its reason on stderr, exit code 2, and the others are done."""
    mediactl("submit", *BROKEN)
    mediactl("submit", *SLOW)
    ended = mediactl("jobs", "retry", "job-1", "job-2")
    assert (ended.code, ended.out) == (2, "job-1\n")
    assert ended.err == "mediactl: job-2: JOB_NOT_DEAD: not this one\n"
    assert fake.jobs["job-1"].state == job_pb2.JOB_STATE_PENDING
    alone = mediactl("jobs", "retry", "job-2")
    assert (alone.code, alone.out, alone.err) == (2, "", "mediactl: job-2: JOB_NOT_DEAD: not this one\n")


def test_retry_by_selector(mediactl: Mediactl, fake: FakeController) -> None:
    """Others are passed over; none at all is a remark. As data the answer of the API."""
    for job in (BROKEN, SLOW, BROKEN):
        mediactl("submit", *job)
    ended = mediactl("jobs", "retry", "--reason", "INPUT_NOT_FOUND", "-o", "json", "--request-id", "r")
    assert (ended.code, ended.json) == (0, {"jobIds": ["job-1", "job-3"], "refused": []})
    request = fake.named("RetryJobs")[0]
    assert ([*request.filter.reasons], request.request_id) == (["INPUT_NOT_FOUND"], "r")
    again = mediactl("jobs", "retry", "--state", "DEAD")
    assert (again.code, again.out, again.err) == (0, "", "no job was DEAD\n")
    assert fake.named("RetryJobs")[1].request_id


def test_data_tells_refusals_too(mediactl: Mediactl, fake: FakeController) -> None:
    """On stdout in the answer, on stderr in words."""
    mediactl("submit", *SLOW)
    ended = mediactl("jobs", "retry", "job-1", "-o", "json")
    assert ended.code == 2
    assert ended.json["refused"] == [{"jobId": "job-1", "reason": "JOB_NOT_DEAD", "message": "not this one"}]
    assert "JOB_NOT_DEAD" in ended.err


def test_replay(mediactl: Mediactl, fake: FakeController) -> None:
    """The new job's id, or the new job; the same request id gives the same job, a folder is a prefix."""
    mediactl("submit", *BROKEN)
    assert mediactl("jobs", "replay", "job-1", "--request-id", "r", "--output", "again", "--overwrite").out == "job-2\n"
    again = mediactl("jobs", "replay", "job-1", "--request-id", "r", "-o", "json").json
    assert (again["id"], again["replayOf"]) == ("job-2", "job-1")
    request = fake.named("ReplayJob")[0]
    assert (request.output_uri, request.overwrite, request.request_id) == (f"file://{Path.cwd()}/again/", True, "r")
    assert fake.named("ReplayJob")[1].output_uri == ""


def test_replay_of_several(mediactl: Mediactl, fake: FakeController) -> None:
    """Each is a job of its own, under an id that the same command makes again; one that never ran is refused."""
    mediactl("submit", *BROKEN)
    mediactl("submit", *BROKEN)
    mediactl("submit", *SLOW, "--hold")
    ended = mediactl("jobs", "replay", "job-1", "job-3", "job-2", "--request-id", "r")
    assert (ended.code, ended.out) == (2, "job-4\njob-5\n")
    assert "job-3: JOB_NOT_STARTED" in ended.err
    assert mediactl("jobs", "replay", "job-1", "job-2", "--request-id", "r").out == ended.out
    alone = mediactl("jobs", "replay", "job-3")
    assert (alone.code, alone.err) == (2, "mediactl: JOB_NOT_STARTED: it was never started\n")
    selected = mediactl("jobs", "replay", "--state", "DEAD", "--state", "HELD", "-o", "json")
    assert selected.code == 0
    assert [job["replayOf"] for job in selected.json["jobs"]] == ["job-2", "job-1"]


def test_hold_and_release(mediactl: Mediactl, fake: FakeController) -> None:
    """By id or selector, with a message for the history; one that has ended is refused."""
    mediactl("submit", *BROKEN)
    mediactl("submit", *SLOW, "--queue", "night")
    ended = mediactl("jobs", "hold", "job-1", "job-2", "--message", "disk")
    assert (ended.code, ended.out) == (2, "job-2\n")
    assert "job-1: JOB_ENDED" in ended.err
    assert fake.named("HoldJobs")[0].message == "disk"
    assert mediactl("jobs", "hold", "--queue", "night", "-o", "json").json["jobIds"] == ["job-2"]
    assert mediactl("jobs", "release", "--queue", "night").out == "job-2\n"
    over = mediactl("jobs", "release", "--queue", "night")
    assert (over.code, over.out, over.err) == (0, "", "no job was paused\n")
    assert mediactl("jobs", "release", "job-1").code == 2


@pytest.mark.parametrize("name", ["retry", "replay", "hold", "release", "cancel"])
def test_ids_or_a_selector(mediactl: Mediactl, fake: FakeController, name: str) -> None:
    """Exactly one of both, so that a slip does not mean every job."""
    for arguments in ((), ("job-1", "--queue", "q"), ("",)):
        assert mediactl("jobs", name, *arguments).code == 2
    assert fake.calls == []


def test_a_job_that_is_not_there(mediactl: Mediactl, fake: FakeController) -> None:
    """Exit code 3, whether the controller refuses the call or the one job."""
    fake.fail("RetryJobs", MediactlError(Reason.JOB_NOT_FOUND, "there is no job x"))
    ended = mediactl("jobs", "retry", "x")
    assert (ended.code, ended.err) == (3, "mediactl: JOB_NOT_FOUND: there is no job x\n")
    assert mediactl("jobs", "replay", "x").code == 3
