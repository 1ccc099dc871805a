"""Artifacts in an S3 bucket, from outside: by URLs that need no credentials, and downloaded whole."""

import asyncio
import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, Running, until
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.http_faults import Fault, Kind, Plan
from tests.fakes.object_server import ObjectServer

EXTRACT = ("--preset", "extract_audio", "--profile", "flac", "--profile", "aac_192")
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A running box whose agent has the server as its store s3, and a bucket."""

    home: Home
    box: Running
    server: ObjectServer
    bucket: str

    def published(self, recording: Path, output: str = "") -> Any:
        uri = output or f"s3://{self.bucket}/out/"
        job = self.home.job("submit", recording, *EXTRACT, "--output", uri, "--wait")
        assert job["state"] == "JOB_STATE_COMPLETED"
        return job

    def stop(self) -> None:
        self.box.process.terminate()
        assert self.box.ended().code == 0


@pytest.fixture
async def proxy(object_server: ObjectServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(object_server.address, slow_s=60.0) as proxy:
        yield proxy


@pytest.fixture
def scene(home: Home, object_server: ObjectServer) -> Iterator[Scene]:
    with _scene(home, object_server, object_server.endpoint) as scene:
        yield scene


@contextmanager
def _scene(home: Home, object_server: ObjectServer, endpoint: str) -> Iterator[Scene]:
    credentials, stores = home.folder / "credentials", home.folder / "stores.toml"
    credentials.write_text(
        f"[default]\naws_access_key_id={object_server.access_key}\naws_secret_access_key={object_server.secret_key}\n"
    )
    stores.write_text(
        f'[store.s3]\nkind = "s3"\nendpoint = "{endpoint}"\npath_style = true\ncredentials_file = "{credentials}"\n'
    )
    home.environment["MEDIACTL_STORES"] = str(stores)
    yield Scene(home, home.up(), object_server, object_server.make_bucket())
    for process in home._started:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE_S)


def _fetched(url: str) -> tuple[int, bytes]:
    # As anybody would: no credentials, no library of the store's.
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - a server of ours
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


def _urls(home: Home, job_id: str, lifetime: str) -> list[str]:
    ran = home.run("jobs", "artifacts", job_id, "--presign", lifetime)
    assert ran.stderr == ""
    return ran.stdout.split()


def test_urls_that_anybody_can_use_for_a_while(scene: Scene, recordings: Recordings) -> None:
    """Each gives its artifact without credentials; altered or expired, nothing. No trace of them is left."""
    job = scene.published(recordings.synth("speech"))
    urls = _urls(scene.home, job["id"], "1h")
    assert len(urls) == len(job["artifacts"]) == 3
    for url, artifact in zip(urls, job["artifacts"], strict=True):
        status, content = _fetched(url)
        assert status == 200
        assert len(content) == int(artifact["sizeBytes"])
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
    altered = [urls[0].replace(".flac?", ".m4a?"), urls[0].replace("Expires=3600", "Expires=36000"), urls[0][:-1]]
    assert [_fetched(url)[0] for url in (*altered, urls[0].partition("?")[0])] == [403] * 4
    [first, *_] = _urls(scene.home, job["id"], "1s")
    ends = time.monotonic() + PATIENCE_S
    while (status := _fetched(first)[0]) == 200 and time.monotonic() < ends:
        time.sleep(0.1)
    assert status == 403
    told = scene.home.run("jobs", "artifacts", job["id"], "--presign", "7d", "-o", "json").json["artifacts"]
    assert [_fetched(one["url"])[0] for one in told] == [200] * 3
    scene.stop()
    for file in (path for path in scene.home.data_dir.rglob("*") if path.is_file() and not path.is_socket()):
        content = file.read_bytes()
        assert b"X-Amz-Signature" not in content, file
        assert scene.server.secret_key.encode() not in content, file


def test_downloading(scene: Scene, recordings: Recordings, tmp_path: Path) -> None:
    """Whole and as published; what is there already is left alone unless it may be replaced. Also by a box that starts
    for it alone.
    """
    job = scene.published(recordings.synth("speech"))
    digests = {name: artifact["sha256"] for artifact in job["artifacts"] for name in [artifact["uri"].split("/")[-1]]}
    folder = tmp_path / "results"
    download = ("jobs", "artifacts", job["id"], "--download", folder)
    ran = scene.home.run(*download)
    assert sorted(ran.stdout.split()) == sorted(f"{folder}/{name}" for name in digests)
    assert _digests(folder) == digests
    (folder / "mine.txt").write_text("mine")
    one = min(digests)
    (folder / one).write_bytes(b"something else")
    assert "--overwrite" in scene.home.run(*download, code=2).stderr
    assert (folder / one).read_bytes() == b"something else"
    scene.home.run(*download, "--overwrite")
    assert _digests(folder) == digests | {"mine.txt": hashlib.sha256(b"mine").hexdigest()}
    scene.stop()
    told = scene.home.run("jobs", "artifacts", job["id"], "--download", tmp_path / "2", "--only", "flac", "-o", "json")
    [artifact] = told.json["artifacts"]
    assert _digests(tmp_path / "2") == {Path(artifact["file"]).name: artifact["sha256"]}


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_files_have_no_url_but_are_copied(scene: Scene, recordings: Recordings, tmp_path: Path) -> None:
    """Signing says so for each; downloading copies what this machine has, and refuses what it has no more."""
    job = scene.published(recordings.synth("blip"), f"{tmp_path}/out/")
    ran = scene.home.run("jobs", "artifacts", job["id"], "--presign", "1h", code=1)
    assert ran.stdout == ""
    assert ran.stderr.count("ARTIFACT_UNAVAILABLE") == 3
    scene.home.run("jobs", "artifacts", job["id"], "--download", tmp_path / "copies")
    assert _digests(tmp_path / "copies") == _digests(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    with scene.home.client() as client:
        [agent] = client.agents()
    ran = scene.home.run("jobs", "artifacts", job["id"], "--download", tmp_path / "2", code=1)
    assert f"not on this machine: agent {agent.name}" in ran.stderr
    assert list((tmp_path / "2").iterdir()) == []


async def test_what_is_stopped_goes_on(
    home: Home, object_server: ObjectServer, proxy: FaultProxy, recordings: Recordings, tmp_path: Path
) -> None:
    """Killed or interrupted in the middle, a download leaves no file that could be taken for one; the same command
    brings the rest.
    """

    folder = tmp_path / "results"

    def came() -> int:
        return sum(path.stat().st_size for path in folder.glob(".*.part"))

    def stopped(job_id: str, how: Callable[[Running], None]) -> int:
        proxy.restart(Plan([Fault(1, Kind.SLOW, on=True)]))
        before = came()
        running = home.start("jobs", "artifacts", job_id, "--download", folder, "--only", "flac")
        until(lambda: came() > before, "it is under way")
        how(running)
        code = running.ended().code
        assert came() > before
        assert len([*folder.iterdir()]) == len([*folder.glob(".*.part")]) == 1
        return code

    def all_of_it() -> None:
        with _scene(home, object_server, proxy.endpoint) as scene:
            job = scene.published(recordings.synth("speech"))
            assert stopped(job["id"], lambda running: running.process.kill()) == -9
            assert stopped(job["id"], lambda running: running.interrupt()) == 130
            before = came()
            proxy.restart(Plan())
            home.run("jobs", "artifacts", job["id"], "--download", folder, "--only", "flac")
            [exchange] = proxy.exchanges
            assert exchange.range == f"bytes={before}-"
            [artifact] = (one for one in job["artifacts"] if one["name"] == "flac")
            assert list(_digests(folder).values()) == [artifact["sha256"]]
            scene.stop()

    await asyncio.to_thread(all_of_it)
