"""What a failed attempt left can be fetched, from outside, as one archive that explains the failure."""

import json
import tarfile
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home

EXTRACT = ("--preset", "extract_audio", "--profile", "flac")


def _cut_short(folder: Path, recordings: Recordings) -> Path:
    path = folder / "cut.mp4"
    whole = recordings.synth("video_with_speech").read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    return path


def _failed(home: Home, input_: Path, tmp_path: Path) -> Any:
    job = home.job("submit", input_, *EXTRACT, "--output", f"{tmp_path}/out/", "--wait", code=1)
    assert job["state"] == "JOB_STATE_DEAD"
    return job


def _contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive, "r:gz") as tar:
        assert all(member.isreg() and not member.name.startswith(("/", "..")) for member in tar.getmembers())
        files = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_an_archive_that_explains_the_failure(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Logs, plan, media facts, the failure itself and what was written so far; not the input."""
    job = _failed(box, _cut_short(tmp_path, recordings), tmp_path)
    [attempt] = job["attempts"]
    assert int(attempt["keptBytes"]) > 0
    assert " kept (" in box.run("jobs", "get", job["id"]).stdout
    told = box.run("jobs", "artifacts", job["id"], "--failed", "-o", "json", cwd=tmp_path).json
    assert told["file"] == f"{job['id']}.failed.tar.gz"
    assert told["attemptId"] == attempt["id"]
    found = _contents(tmp_path / told["file"])
    assert int(attempt["keptBytes"]) == sum(map(len, found.values()))
    failure = json.loads(found["failure.json"])
    assert failure["reason"] == job["failure"]["reason"] == "INPUT_TRUNCATED"
    assert (failure["job"], failure["attempt"]) == (job["id"], attempt["id"])
    assert json.loads(found["plan.json"])["steps"] == attempt["plan"]["steps"]
    [facts] = json.loads(found["probe.json"])["inputs"]
    assert facts["facts"]["streams"]
    assert b"INPUT_TRUNCATED" in found["agent.log"]
    [log] = [text for name, text in found.items() if name.endswith("/stderr.log")]
    assert b"Input #0" in log
    assert [name for name in found if name.startswith("out/")]
    assert not [name for name in found if name.startswith("in/")]


def test_the_archive_outlives_the_box(home: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A job that failed in one life of the box is explained in the next, where somebody asks then."""
    cut = _cut_short(tmp_path, recordings)
    job = home.job("run", cut, *EXTRACT, "--output", f"{tmp_path}/out/", code=1)
    ran = home.run("jobs", "artifacts", job["id"][:10], "--failed", cwd=tmp_path)
    assert "failure.json" in _contents(tmp_path / ran.stdout.strip())


def test_what_did_not_fail_left_nothing(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Neither in the scratch folder nor kept; asking says so, with exit code 3."""
    done = box.job("submit", recordings.synth("speech"), *EXTRACT, "--output", f"{tmp_path}/out/", "--wait")
    assert done["attempts"][0]["keptBytes"] == "0"
    ran = box.run("jobs", "artifacts", done["id"], "--failed", cwd=tmp_path, code=3)
    assert "REMAINS_NOT_FOUND" in ran.stderr
    assert not [*tmp_path.glob("*.tar.gz")]


def test_a_cancelled_job_left_nothing(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A person wanted no more of it."""
    job = box.job("submit", recordings.hours(), *EXTRACT, "--output", f"{tmp_path}/out/")
    box.run("jobs", "cancel", job["id"])
    with box.client() as client:
        ended = client.wait(job["id"], timeout_s=30)
    assert [attempt.kept_bytes for attempt in ended.attempts if attempt.kept_bytes] == []
    assert not [*(box.data_dir / "agent" / "remains").glob(f"*{job['id']}*")]
