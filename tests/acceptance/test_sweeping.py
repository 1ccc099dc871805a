"""What agents leave staged that die between staging and their report, and that nothing of it is left in the end."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mediactl.v1 import job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import STAGED, Home, reached, under_way, until
from tests.fakes.fleet import Fleet
from tests.fakes.object_server import ObjectServer

TIMERS = ("--heartbeat", "0.25", "--unreachable-after", "1", "--lost-after", "2", "--sweep-after", "1")


@dataclass(frozen=True, slots=True)
class Place:
    """Where outputs go: how many are staged there, and what is published, by name."""

    uri: str
    staged: Callable[[], int]
    published: Callable[[], dict[str, bytes]]


@pytest.fixture
def fleet(home: Home, recordings: Recordings) -> Iterator[Fleet]:
    os.link(recordings.minutes(), home.folder / "minutes.flac")
    yield Fleet(home, controller_flags=TIMERS)
    home.kill()


@pytest.fixture(params=["files", "s3"])
def place(request: pytest.FixtureRequest, home: Home) -> Place:
    if request.param == "files":
        folder = home.folder / "out"
        return Place(
            f"{folder}/",
            lambda: len([*folder.glob(STAGED)]),
            lambda: {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")},
        )
    server: ObjectServer = request.getfixturevalue("object_server")
    bucket = server.make_bucket()
    home.environment["MEDIACTL_STORES"] = str(_stores(home.folder, server))
    return Place(
        f"archive://{bucket}/",
        lambda: len(server.uploads(bucket)),
        lambda: {key: server.read(bucket, key) for key in server.keys(bucket)},
    )


def _stores(folder: Path, server: ObjectServer) -> Path:
    credentials, file = folder / "credentials", folder / "stores.toml"
    credentials.write_text(
        f"[default]\naws_access_key_id={server.access_key}\naws_secret_access_key={server.secret_key}\n"
    )
    file.write_text(
        f'[store.archive]\nkind = "s3"\nendpoint = "{server.endpoint}"\npath_style = true\n'
        f'region = "{server.region}"\ncredentials_file = "{credentials}"\n'
    )
    return file


def test_nothing_is_left_of_an_agent_that_died(fleet: Fleet, place: Place) -> None:
    """It had staged all, the manifest too, and could not say so; another agent does the job, and its sweep ends the
    rest: neither an open upload nor a hidden file stays."""
    controller, first = fleet.controller(), fleet.agent("first")
    asked = ("--preset", "extract_audio", "--profile", "flac", "--profile", "wav_16", "--output", place.uri)
    job_id = str(fleet.run("submit", fleet.home.folder / "minutes.flac", *asked)["id"])
    with fleet.client() as client:
        reached(client, job_id, under_way)
    controller.process.kill()
    controller.process.wait()
    until(lambda: _journalled(fleet) == 3, "two outputs and the manifest are staged", within_s=60)
    assert place.staged() == 3
    first.process.kill()
    first.process.wait()
    fleet.controller()
    fleet.agent("second")
    with fleet.client() as client:
        job = client.wait(job_id, timeout_s=90)
        assert job.state == job_pb2.JOB_STATE_COMPLETED, job.failure
        assert [attempt.state for attempt in job.attempts] == ["lost", "completed"]
    until(lambda: not place.staged(), "all is swept", within_s=30)
    made = place.published()
    digests = {artifact.uri.rpartition("/")[2]: artifact.sha256 for artifact in job.artifacts}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in made.items()} == digests


def _journalled(fleet: Fleet) -> int:
    return sum(
        journal.read_bytes().count(b'"staged"')
        for journal in (fleet.home.data_dir / "first" / "scratch").glob("*/journal.jsonl")
    )
