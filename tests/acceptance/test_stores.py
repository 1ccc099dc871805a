"""Jobs whose inputs and outputs are in stores."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, living_in
from tests.fakes.object_server import ObjectServer

PODCAST = ("--preset", "loudness_podcast", "--profile", "flac")


@contextmanager
def _serving(folder: Path) -> Iterator[int]:
    """A web server with the files of a folder; gives its port."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(web.Application())
    runner.app.router.add_static("/", folder)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def stored(tmp_path: Path, recordings: Recordings, object_server: ObjectServer) -> Iterator[tuple[Home, str, int]]:
    """A box that knows the S3 server as `archive`, a bucket there, and the port of a web server with the recordings."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[default]\naws_access_key_id={object_server.access_key}\naws_secret_access_key={object_server.secret_key}\n"
    )
    with _serving(recordings.folder) as port:
        file = tmp_path / "stores.toml"
        file.write_text(
            f'[store.archive]\nkind = "s3"\nendpoint = "{object_server.endpoint}"\npath_style = true\n'
            f'region = "{object_server.region}"\ncredentials_file = "{credentials}"\n'
            f'[store.https]\nkind = "https"\nendpoint = "http://127.0.0.1:{port}"\n'
        )
        with living_in(tmp_path / "user") as home:
            home.environment["MEDIACTL_STORES"] = str(file)
            box = home.up()
            yield home, object_server.make_bucket(), port
            box.process.terminate()
            assert box.ended().code == 0


def test_one_job_from_everywhere(
    stored: tuple[Home, str, int], recordings: Recordings, object_server: ObjectServer, tmp_path: Path
) -> None:
    """From a file, from S3 and from the web, to files and to S3, the artifact is the same bit for bit."""
    home, bucket, port = stored
    source = recordings.synth("speech")
    object_server.put(bucket, "in/a talk.wav", source.read_bytes())
    inputs = [str(source), f"archive://{bucket}/in/a%20talk.wav", f"http://127.0.0.1:{port}/{source.name}?sig=secret"]
    made = []
    for number, given in enumerate(inputs):
        job = home.job("run", given, *PODCAST, "--output", f"archive://{bucket}/{number}.flac")
        [artifact] = job["artifacts"]
        assert artifact["uri"] == f"archive://{bucket}/{number}.flac"
        assert "secret" not in str(job)
        content = object_server.read(bucket, f"{number}.flac")
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        made.append(artifact["sha256"])
    [artifact] = home.job("run", inputs[1], *PODCAST, "--output", tmp_path / "x.flac")["artifacts"]
    assert {*made, artifact["sha256"]} == {made[0]}
    assert object_server.uploads(bucket) == []
    assert sorted(object_server.keys(bucket)) == ["0.flac", "1.flac", "2.flac", "in/a talk.wav"]


def test_what_goes_wrong_is_said(
    stored: tuple[Home, str, int], recordings: Recordings, object_server: ObjectServer
) -> None:
    """No such store, object or bucket, and a name that is taken: each has its reason, and nothing holds a key."""
    home, bucket, _ = stored
    object_server.put(bucket, "talk.wav", recordings.synth("blip").read_bytes())
    target = ("--output", f"archive://{bucket}/talk.wav.flac")
    for given, reason in (
        ("archiv://b/talk.wav", "NO_CAPABLE_AGENT"),
        (f"archive://{bucket}/gone.wav", "INPUT_NOT_FOUND"),
        ("archive://no-such-bucket/talk.wav", "INPUT_NOT_FOUND"),
    ):
        ran = home.run("run", given, *PODCAST, *target, code=1)
        assert reason in ran.stderr
    home.run("run", f"archive://{bucket}/talk.wav", *PODCAST, *target)
    assert "OUTPUT_EXISTS" in home.run("run", f"archive://{bucket}/talk.wav", *PODCAST, *target, code=1).stderr
    home.run("run", f"archive://{bucket}/talk.wav", *PODCAST, *target, "--overwrite")
    for kept in home.data_dir.rglob("*"):
        if kept.is_file():
            content = kept.read_bytes()
            assert object_server.secret_key.encode() not in content
            assert object_server.access_key.encode() not in content
