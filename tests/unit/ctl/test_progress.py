"""What is said of tries that fail while somebody waits."""

from pathlib import Path

import pytest

from ctl import waiting
from ctl.progress import Progress
from ctl.settings import Settings, resolve
from mediactl.v1 import job_pb2


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return resolve({"data_dir": tmp_path, "color": False}, {}, ())


def _failed(job_id: str, message: str) -> job_pb2.Event:
    return job_pb2.Event(job_id=job_id, job_state=job_pb2.JOB_STATE_FAILED, reason="STALLED", message=message)


def test_the_same_failure_is_said_once(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each job; another failure of it is news."""
    with Progress(settings, {"1": "talk.wav", "2": "film.mov"}) as progress:
        for job_id, message in (("1", "it hangs"), ("1", "it hangs"), ("2", "it hangs"), ("1", "it is gone")):
            progress.happened(_failed(job_id, message))
    said = capsys.readouterr().err.splitlines()
    news = ("talk.wav: it hangs", "film.mov: it hangs", "talk.wav: it is gone")
    assert said == [f"{what}; it will be tried again" for what in news]


def test_the_verdict_counts_the_tries(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there were several."""
    job = job_pb2.Job(id="1", state=job_pb2.JOB_STATE_DEAD, attempt_count=3)
    job.failure.reason, job.failure.message = "STALLED", "it hangs"
    waiting.tell_failure(job, settings)
    assert capsys.readouterr().err.splitlines()[0] == "1: DEAD after 3 tries: STALLED: it hangs"
    job.attempt_count = 1
    waiting.tell_failure(job, settings)
    assert capsys.readouterr().err.splitlines()[0] == "1: DEAD: STALLED: it hangs"
