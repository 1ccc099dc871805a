"""`mediactl jobs artifacts` with --presign and --download: what is printed where, and how it ends."""

import hashlib
import time
from pathlib import Path

import pytest

from mediactl.v1 import job_pb2
from tests.fakes.controller import FakeController
from tests.unit.ctl.conftest import Mediactl

CONTENT = b"what was published"


@pytest.fixture
def job(mediactl: Mediactl, fake: FakeController, tmp_path: Path) -> job_pb2.Job:
    """A completed one, with an artifact of this machine and one in a store, for which there is a URL."""
    mediactl("submit", "talk.wav", "--preset", "slow", "--output", "out/")
    [job] = fake.jobs.values()
    job.state = job_pb2.JOB_STATE_COMPLETED
    published = tmp_path / "published.flac"
    published.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    del job.artifacts[:]
    job.artifacts.add(name="flac", uri=published.as_uri(), size_bytes=len(CONTENT), sha256=digest)
    job.artifacts.add(name="aac_192", uri="s3://bucket/talk.m4a", size_bytes=5, sha256="00" * 32)
    for artifact in job.artifacts:
        signed = fake.signed.artifacts.add(name=artifact.name, uri=artifact.uri)
        if artifact.name == "flac":
            signed.failure.reason, signed.failure.message = "ARTIFACT_UNAVAILABLE", "a file has no URL"
        else:
            signed.url = "https://s3.example/talk.m4a?X-Amz-Signature=1"
            signed.expire_time.FromSeconds(int(time.time()) + 3600)
    return job


def test_urls_go_to_stdout_one_a_line(mediactl: Mediactl, fake: FakeController, job: job_pb2.Job) -> None:
    """What has none is told of on stderr, and is the exit code."""
    ended = mediactl("jobs", "artifacts", job.id, "--presign", "1h")
    assert (ended.code, ended.out) == (1, "https://s3.example/talk.m4a?X-Amz-Signature=1\n")
    assert ended.err == "mediactl: ARTIFACT_UNAVAILABLE: a file has no URL\n"
    [request] = fake.named("SignArtifacts")
    assert (request.job_id, request.lifetime.seconds) == (job.id, 3600)
    ended = mediactl("jobs", "artifacts", job.id, "--presign", "1h", "--only", "aac_192")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") == 1


def test_urls_as_data(mediactl: Mediactl, job: job_pb2.Job) -> None:
    """The API's message."""
    told = mediactl("jobs", "artifacts", job.id, "--presign", "1h", "-o", "json").json["artifacts"]
    assert [one["url"] for one in told] == ["", "https://s3.example/talk.m4a?X-Amz-Signature=1"]
    assert told[0]["failure"]["reason"] == "ARTIFACT_UNAVAILABLE"
    assert told[1]["expireTime"].endswith("Z")
    assert "url: https://" in mediactl("jobs", "artifacts", job.id, "--presign", "1h", "-o", "yaml").out


def test_a_url_that_ends_early_is_told_of(mediactl: Mediactl, job: job_pb2.Job) -> None:
    """Credentials of a role may last for less than what was asked for."""
    ended = mediactl("jobs", "artifacts", job.id, "--presign", "2d", "--only", "aac_192")
    assert ended.code == 0
    assert "with the credentials of the agent" in ended.err
    assert mediactl("--quiet", "jobs", "artifacts", job.id, "--presign", "2d", "--only", "aac_192").err == ""


def test_files_of_this_machine_are_downloaded(mediactl: Mediactl, fake: FakeController, job: job_pb2.Job) -> None:
    """Where each is goes to stdout; nothing is signed for them."""
    ended = mediactl("jobs", "artifacts", job.id, "--download", "new/results", "--only", "flac")
    assert (ended.code, ended.out, ended.err) == (0, "new/results/published.flac\n", "")
    assert Path("new/results/published.flac").read_bytes() == CONTENT
    told = mediactl("jobs", "artifacts", job.id, "--download", "b", "--only", "flac", "-o", "json").json
    assert [(one["name"], one["file"]) for one in told["artifacts"]] == [("flac", "b/published.flac")]
    assert fake.named("SignArtifacts") == []
    ended = mediactl("jobs", "artifacts", job.id, "--download", "b", "--only", "flac")
    assert ended.code == 2
    assert "--overwrite" in ended.err
    assert mediactl("jobs", "artifacts", job.id, "--download", "b", "--only", "flac", "--overwrite").code == 0


def test_a_store_that_no_agent_reaches(mediactl: Mediactl, fake: FakeController, job: job_pb2.Job) -> None:
    """The agents' reason is the command's; nothing is left in the folder."""
    failure = fake.signed.artifacts[1].failure
    failure.reason, failure.message = "NO_CAPABLE_AGENT", "no agent reaches the store 's3'"
    ended = mediactl("jobs", "artifacts", job.id, "--download", "b", "--only", "aac_192")
    assert (ended.code, ended.out) == (1, "")
    assert "NO_CAPABLE_AGENT: no agent reaches the store 's3'" in ended.err
    assert list(Path("b").iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--presign", "0s"),
        ("--presign", "8d"),
        ("--presign", "1.5s"),
        ("--presign", "soon"),
        ("--presign", "1h", "--download", "b"),
        ("--download", "b", "--failed"),
        ("--presign", "1h", "--overwrite"),
        ("--only", "flac"),
        ("--download", "b", "--only", "mp3"),
        ("--download", "b", "--attempt", "a1"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together(mediactl: Mediactl, job: job_pb2.Job, options: tuple[str, ...]) -> None:
    """Usage errors, exit code 2, and nothing happens."""
    ended = mediactl("jobs", "artifacts", job.id, *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err
    assert list(Path().iterdir()) == []


def test_nothing_published_yet(mediactl: Mediactl, fake: FakeController) -> None:
    """It says how the job stands."""
    mediactl("submit", "talk.wav", "--preset", "slow", "--output", "out/")
    for options in (("--download", "b"), ("--presign", "1h")):
        ended = mediactl("jobs", "artifacts", "job-1", *options)
        assert ended.code == 1
        assert "has published nothing: it is" in ended.err
