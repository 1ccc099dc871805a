"""Jobs over one object in a store: how often an agent downloads it, whatever becomes of the agent."""

import asyncio
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mediactl.client import Client
from mediactl.v1 import fleet_service_pb2, job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import living_in, until
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.http_faults import Fault, Kind, Plan
from tests.fakes.object_server import ObjectServer
from tests.fakes.programs import UP_S, AgentProgram, ControllerProgram, reserved_port

KEY = "in/talk.wav"


@contextmanager
def _proxy(target: str) -> Iterator[FaultProxy]:
    """A fault proxy that runs beside the test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = FaultProxy(target)
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        yield proxy
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Studio:
    """One controller and one agent, which reaches a bucket of the S3 server by way of the proxy."""

    client: Client
    agent: AgentProgram
    folder: Path
    http: str
    server: ObjectServer
    proxy: FaultProxy
    bucket: str
    jobs: int = 0

    @property
    def input(self) -> str:
        return f"archive://{self.bucket}/{KEY}"

    def put(self, content: bytes) -> None:
        """The object, past the proxy."""
        self.server.put(self.bucket, KEY, content)

    def submit(self) -> job_pb2.Job:
        self.jobs += 1
        output = (self.folder / f"{self.jobs}.flac").as_uri()
        return self.client.submit(
            {
                "inputs": [{"uri": self.input}],
                "preset": "loudness_podcast",
                "outputs": [{"uri": output, "profile": "flac"}],
            }
        )

    def done(self, job: job_pb2.Job) -> str:
        """The SHA-256 of its artifact."""
        ended = self.client.wait(job.id, timeout_s=90)
        assert ended.state == job_pb2.JOB_STATE_COMPLETED, ended
        return ended.artifacts[0].sha256

    @property
    def downloads(self) -> int:
        """Requests for the content since the proxy was told its plan."""
        return sum(one.method == "GET" and one.path.endswith(KEY) for one in self.proxy.exchanges)

    def cached(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "studio" / "cache").iterdir())

    def figures(self, hits: int, misses: int) -> fleet_service_pb2.CacheStatus:
        """What the agent says of its cache, once it says these."""

        def said() -> fleet_service_pb2.CacheStatus | None:
            cache = self.client.agent("studio").cache
            return cache if (cache.hits, cache.misses) == (hits, misses) else None

        told = until(said, f"{hits} hits and {misses} misses are told")
        assert told is not None
        return told


@pytest.fixture
def studio(tmp_path: Path, recordings: Recordings, object_server: ObjectServer) -> Iterator[Studio]:
    credentials, stores = tmp_path / "credentials", tmp_path / "stores.toml"
    credentials.write_text(
        f"[default]\naws_access_key_id={object_server.access_key}\naws_secret_access_key={object_server.secret_key}\n"
    )
    with ExitStack() as stack:
        home = stack.enter_context(living_in(tmp_path / "user"))
        proxy = stack.enter_context(_proxy(object_server.address))
        stores.write_text(
            f'[store.archive]\nkind = "s3"\nendpoint = "{proxy.endpoint}"\npath_style = true\n'
            f'region = "{object_server.region}"\ncredentials_file = "{credentials}"\n'
        )
        http = f"127.0.0.1:{stack.enter_context(reserved_port())}"
        port = stack.enter_context(reserved_port())
        controller = ControllerProgram(home, port, home.folder / "controller", "--http", http)
        controller.up()
        agent = AgentProgram(home, "studio", [controller.address], "--stores", stores, "--scratch-reserve", "0")
        agent.start()
        client = stack.enter_context(controller.client())
        until(client.agents, "the agent registers", within_s=UP_S)
        yield Studio(client, agent, home.folder, http, object_server, proxy, object_server.make_bucket())
        agent.terminate()
        assert agent.ended().code == 0
        controller.terminate()
        assert controller.ended().code == 0


def test_jobs_over_one_object_download_it_once(studio: Studio, recordings: Recordings) -> None:
    """One after the other, at once, and in another life of the agent. A changed object is downloaded anew. It is shown
    and counted."""
    speech = recordings.synth("speech").read_bytes()
    studio.put(speech)
    made = {studio.done(job) for job in [studio.submit() for _ in range(3)]}
    made.add(studio.done(studio.submit()))
    assert (studio.downloads, len(made)) == (1, 1)
    told = studio.figures(3, 1)
    assert (told.held_bytes, told.saved_bytes, told.limit_bytes) == (len(speech), 3 * len(speech), 10 << 30)
    with urllib.request.urlopen(f"http://{studio.http}/metrics", timeout=10) as answer:
        scraped = answer.read().decode()
    [line] = [line for line in scraped.splitlines() if line.startswith("mediactl_agent_cache_hits_total{")]
    assert 'agent="studio"' in line
    assert line.endswith(" 3.0")

    studio.agent.kill()
    studio.agent.start()
    assert {studio.done(studio.submit())} == made
    assert studio.downloads == 1

    studio.put(recordings.synth("blip").read_bytes())
    changed = {studio.done(studio.submit()) for _ in range(2)}
    assert (studio.downloads, len(changed)) == (2, 1)
    assert changed.isdisjoint(made)
    studio.figures(2, 1)
    assert len(studio.cached()) == 2


def test_an_agent_killed_in_the_middle_of_a_fetch(studio: Studio, recordings: Recordings) -> None:
    """Its next life leaves nothing half of it, and the job is done."""
    speech = recordings.synth("speech")
    studio.put(speech.read_bytes())
    # Looked for by the attempt, by the cache and by the download; then nothing comes any more.
    studio.proxy.restart(Plan([Fault(4, Kind.SILENT, on=True)]))
    job = studio.submit()
    until(lambda: studio.downloads, "the download has begun")
    until(studio.cached, "it has come to the cache")
    assert all(name.startswith(".") for name in studio.cached())
    studio.agent.kill()
    studio.proxy.restart(Plan())
    studio.agent.start()
    studio.done(job)
    studio.done(studio.submit())
    assert studio.downloads == 1
    [kept] = studio.cached()
    assert (studio.folder / "studio" / "cache" / kept).read_bytes() == speech.read_bytes()
