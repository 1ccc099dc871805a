"""Downloading from an S3 server behind a proxy that spoils requests: whole and right, or not at all."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event
from typing import Any

import click
import pytest

from ctl import downloading, web
from ctl.downloading import download
from ctl.draft import drafting
from ctl.settings import Format, Settings
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2, job_service_pb2
from presets.reasons import Reason
from presets.uris import object_uri
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.http_faults import Fault, Kind, Plan
from tests.fakes.object_server import ObjectServer
from tests.fakes.object_stores import S3Driver

CONTENT = random.Random(1).randbytes(3 * 2**20 + 12_345)  # noqa: S311 - no secret
NAME = "out/talk.aac_192.m4a"
_NONE = ("tls_ca", "tls_cert", "tls_key", "token_file")
SETTINGS = Settings(
    controller="unix:nowhere",
    format=Format.TABLE,
    data_dir=Path("nowhere"),
    quiet=True,
    color=False,
    **dict.fromkeys(_NONE),
)


class Signer:
    """A client whose controller has an agent that signs for the store; `spoilt` URLs come before good ones."""

    def __init__(self, driver: S3Driver) -> None:
        self.driver = driver
        self.calls = 0
        self.spoilt = 0
        self.loop = asyncio.get_running_loop()

    def sign_artifacts(self, job_id: str, *, lifetime_s: int) -> job_service_pb2.SignArtifactsResponse:
        self.calls += 1
        uri = self.driver.uri(NAME)
        signing = asyncio.run_coroutine_threadsafe(self.driver.store.sign(uri, lifetime_s), self.loop)
        url = signing.result(30).url
        if self.calls <= self.spoilt:
            url = url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601")
        answer = job_service_pb2.SignArtifactsResponse()
        answer.artifacts.add(name="aac_192", uri=uri, url=url)
        return answer

    def agent(self, agent_id: str) -> Any:
        raise MediactlError(Reason.AGENT_NOT_FOUND, agent_id)


class Bench:
    def __init__(self, driver: S3Driver, folder: Path) -> None:
        self.driver = driver
        self.folder = folder
        self.client = Signer(driver)
        self.job = job_pb2.Job(id="j1", state=job_pb2.JOB_STATE_COMPLETED)
        self.job.attempts.add(agent_id="a1", state="completed")
        self.job.artifacts.add(
            name="aac_192",
            uri=driver.uri(NAME),
            size_bytes=len(CONTENT),
            sha256=hashlib.sha256(CONTENT).hexdigest(),
        )
        driver.put(NAME, CONTENT)

    async def download(self, **options: Any) -> Path:
        client: Any = self.client
        [(_, path)] = await asyncio.to_thread(download, SETTINGS, client, self.job, self.folder, **options)
        return path

    async def refusal(self, **options: Any) -> str:
        """Why it failed; there is no file then but, perhaps, a hidden one."""
        with pytest.raises(MediactlError) as caught:
            await self.download(**options)
        assert caught.value.reason is Reason.ARTIFACT_UNAVAILABLE
        assert [path.name for path in self.folder.iterdir() if not path.name.startswith(".")] == []
        assert "X-Amz" not in caught.value.message
        return caught.value.message

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
async def bench(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(downloading, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(downloading, "_LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(web, "SILENCE_S", 1.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "keys").mkdir()
    async with FaultProxy(object_server.address) as proxy:
        yield Bench(S3Driver(object_server, proxy, tmp_path / "keys"), tmp_path / "results")


async def test_a_whole_artifact_under_its_name(bench: Bench) -> None:
    """And nothing else, in a folder that may not have been there; one request."""
    path = await bench.download()
    assert path == bench.folder / "talk.aac_192.m4a"
    assert path.read_bytes() == CONTENT
    assert bench.names() == [path.name]
    assert len(bench.driver.proxy.exchanges) == bench.client.calls == 1


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.STALE, Kind.CONFLICT, Kind.CUT_IN_REQUEST}))
@pytest.mark.parametrize("at", [1, 2])
async def test_one_fault_costs_a_request(bench: Bench, kind: Kind, at: int) -> None:
    """The second fault of two meets the request that goes on. Never a wrong byte, never one too few."""
    first = [Fault(1, Kind.CUT_IN_ANSWER)] if at == 2 else []
    bench.driver.proxy.restart(Plan([*first, Fault(at, kind)]))
    assert (await bench.download()).read_bytes() == CONTENT
    assert kind in bench.driver.proxy.befell
    assert bench.names() == ["talk.aac_192.m4a"]


async def test_what_came_is_not_asked_for_again(bench: Bench) -> None:
    """A broken connection goes on where it broke, by a range."""
    bench.driver.proxy.restart(Plan([Fault(at, Kind.CUT_IN_ANSWER) for at in (1, 2, 3)]))
    assert (await bench.download()).read_bytes() == CONTENT
    starts = [int(str(one.range).removeprefix("bytes=").rstrip("-")) for one in bench.driver.proxy.exchanges]
    assert len(starts) == 4
    assert starts == sorted(set(starts))
    assert starts[-1] >= len(CONTENT) // 2


@pytest.mark.parametrize("kind", [Kind.CUT_BEFORE, Kind.ERROR, Kind.SLOW_DOWN, Kind.REDIRECT, Kind.WRONG_BYTES])
async def test_what_stays_broken_leaves_no_file(bench: Bench, kind: Kind) -> None:
    """After so many tries in a row it says why."""
    bench.driver.proxy.restart(Plan([Fault(1, kind, on=True)]))
    told = await bench.refusal()
    assert ("SHA-256 differs" if kind is Kind.WRONG_BYTES else "6 times in a row") in told
    assert bench.names() == []


async def test_another_run_goes_on(bench: Bench) -> None:
    """What an earlier one left hidden is the beginning; what is no beginning is found out."""
    bench.driver.proxy.restart(Plan([Fault(1, Kind.CUT_IN_ANSWER), Fault(2, Kind.CUT_BEFORE, on=True)]))
    assert "once more goes on" in await bench.refusal()
    [part] = bench.folder.iterdir()
    came = part.stat().st_size
    assert 0 < came < len(CONTENT)
    bench.driver.proxy.restart(Plan())
    assert (await bench.download()).read_bytes() == CONTENT
    [again] = bench.driver.proxy.exchanges
    assert again.range == f"bytes={came}-"
    assert bench.names() == ["talk.aac_192.m4a"]
    for beginning in (b"something else", CONTENT + b"!", CONTENT[:-1] + b"!"):
        part.write_bytes(beginning)
        (bench.folder / "talk.aac_192.m4a").unlink()
        assert (await bench.download()).read_bytes() == CONTENT
        assert bench.names() == ["talk.aac_192.m4a"]


async def test_an_expired_url_is_signed_anew(bench: Bench) -> None:
    """Once; where the new one is refused too, the store is asked no more."""
    bench.client.spoilt = 1
    assert (await bench.download()).read_bytes() == CONTENT
    assert bench.client.calls == 2
    (bench.folder / "talk.aac_192.m4a").unlink()
    bench.client.spoilt = 100
    assert "403 SignatureDoesNotMatch" in await bench.refusal()
    assert bench.client.calls == 4


async def test_another_object_under_the_name_is_refused(bench: Bench) -> None:
    """Longer, shorter, of the same length, or gone."""
    for content, told in (
        (CONTENT + b"!", "bytes now"),
        (CONTENT[:-1], "bytes now"),
        (b"", "not what was published"),
        (CONTENT[:-1] + b"!", "SHA-256 differs"),
    ):
        bench.driver.put(NAME, content)
        assert told in await bench.refusal()
        assert bench.names() == []
    bench.driver.server.client.delete_object(Bucket=bench.driver.bucket, Key=NAME)
    assert "not there any more" in await bench.refusal()


async def test_existing_files_are_left_alone(bench: Bench) -> None:
    """Unless they may be replaced; then one that is the artifact already is not fetched again."""
    path = await bench.download()
    path.write_bytes(b"mine")
    bench.driver.proxy.restart(Plan())
    with pytest.raises(click.UsageError, match="--overwrite"):
        await bench.download()
    assert path.read_bytes() == b"mine"
    assert bench.driver.proxy.exchanges == []
    assert (await bench.download(overwrite=True)).read_bytes() == CONTENT
    assert len(bench.driver.proxy.exchanges) == 1
    await bench.download(overwrite=True)
    assert len(bench.driver.proxy.exchanges) == 1
    link = bench.folder / "elsewhere"
    path.rename(link)
    path.symlink_to(link)
    assert not (await bench.download(overwrite=True)).is_symlink()
    assert link.read_bytes() == CONTENT


async def test_a_name_taken_meanwhile_is_not_overwritten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was first keeps it; what came is kept hidden."""

    def receive(*arguments: Any) -> None:
        real(*arguments)
        (bench.folder / "talk.aac_192.m4a").write_bytes(b"first")

    real = downloading._receive
    monkeypatch.setattr(downloading, "_receive", receive)
    with pytest.raises(click.UsageError, match="exists"):
        await bench.download()
    assert (bench.folder / "talk.aac_192.m4a").read_bytes() == b"first"


async def test_two_at_once_do_not_mix(bench: Bench) -> None:
    """The second one is told so."""
    bench.folder.mkdir()
    with (
        drafting(bench.folder, bench.job.artifacts[0].sha256),
        pytest.raises(click.UsageError, match="another mediactl"),
    ):
        await bench.download()
    assert bench.names() == []


async def test_an_interrupted_one_ends_soon_and_can_go_on(bench: Bench) -> None:
    """Also while it waits to ask again; what came is kept."""
    stop = Event()
    bench.driver.proxy.restart(Plan([Fault(1, Kind.SLOW, on=True)]))
    downloading_ = asyncio.create_task(bench.download(stop=stop))
    part = bench.folder / f".mediactl-{bench.job.artifacts[0].sha256[:32]}.part"
    async with asyncio.timeout(20):
        while not (part.exists() and part.stat().st_size):  # noqa: ASYNC110 - a thread wakes nobody
            await asyncio.sleep(0.01)
    stop.set()
    with pytest.raises(MediactlError, match="interrupted"):
        await downloading_
    assert bench.names() == [part.name]
    bench.driver.proxy.restart(Plan([Fault(1, Kind.CUT_BEFORE, on=True)]))
    with pytest.raises(MediactlError, match="interrupted"):
        await bench.download(stop=stop)
    bench.driver.proxy.restart(Plan())
    assert (await bench.download()).read_bytes() == CONTENT
    assert bench.driver.proxy.exchanges[0].range != "bytes=0-"


async def test_files_of_this_machine_are_copied(bench: Bench, tmp_path: Path) -> None:
    """One that is not here, or is another than was published, is refused, and the agent is named."""
    artifact = bench.job.artifacts[0]
    published = tmp_path / "published" / "talk.m4a"
    artifact.uri = published.as_uri()
    assert "not on this machine: agent a1" in await bench.refusal()
    published.parent.mkdir()
    for content, told in ((CONTENT[:-1], "not what agent a1 published"), (CONTENT[:-1] + b"!", "SHA-256 differs")):
        published.write_bytes(content)
        assert told in await bench.refusal()
    published.write_bytes(CONTENT)
    assert (await bench.download()).read_bytes() == CONTENT
    assert published.read_bytes() == CONTENT
    assert bench.client.calls == 0


async def test_only_what_is_named(bench: Bench) -> None:
    """Unknown names are refused with those there are; two of one name need two folders."""
    other = bench.job.artifacts.add(name="mp3", uri=bench.driver.uri("gone.mp3"), size_bytes=1, sha256="0" * 64)
    assert (await bench.download(only=("aac_192",))).read_bytes() == CONTENT
    with pytest.raises(MediactlError, match="it has aac_192, mp3"):
        await bench.download(only=("flac",))
    other.uri = bench.driver.uri("elsewhere/talk.aac_192.m4a")
    with pytest.raises(click.UsageError, match="two artifacts"):
        await bench.download(overwrite=True)
    other.uri, other.sha256 = bench.driver.uri("b.mp3"), "../../" + "0" * 58
    with pytest.raises(MediactlError, match="no SHA-256"):
        await bench.download(only=("mp3",))
    other.uri, other.sha256 = bench.driver.uri(".."), "0" * 64
    with pytest.raises(MediactlError, match="no name"):
        await bench.download(only=("mp3",))
    del bench.job.artifacts[:]
    bench.job.state = job_pb2.JOB_STATE_PROCESSING
    with pytest.raises(MediactlError, match="PROCESSING"):
        await bench.download()


async def test_urls_of_anything_but_the_web_are_not_opened(bench: Bench, tmp_path: Path) -> None:
    """Whatever an agent says: no file of this machine gets out by a URL."""
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    urls = iter(
        [secret.as_uri(), "data:,x", "ftp://127.0.0.1/x", "http://127.0.0.1/a b?X-Amz-Signature=1", "http://[::1"]
    )

    def forged(job_id: str, *, lifetime_s: int) -> job_service_pb2.SignArtifactsResponse:
        answer = job_service_pb2.SignArtifactsResponse()
        answer.artifacts.add(name="aac_192", uri=object_uri("s3", f"{bench.driver.bucket}/{NAME}"), url=next(urls))
        return answer

    bench.client.sign_artifacts = forged  # type: ignore[method-assign]
    for _ in range(5):
        assert "no URL of the web" in await bench.refusal()
