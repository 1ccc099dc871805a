"""URLs of artifacts, through a real controller from agents whose words a test decides."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from controller.server import running
from controller.settings import Settings
from mediactl import AsyncClient, Client, Credentials, MediactlError
from mediactl.channel import aio_channel
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_service_pb2
from presets.reasons import Reason
from tests.fakes.agent_peer import AgentPeer, capabilities
from tests.fakes.postgres import Postgres
from tests.fakes.running import Controller, controller, migrate

SPEC: dict[str, Any] = {
    "inputs": [{"uri": "s3://bucket/talk.wav"}],
    "preset": "loudness_podcast",
    "outputs": [{"uri": "s3://bucket/out/"}],
}
OUTPUT = "s3://bucket/out/talk.m4a"
URL = f"https://s3.example/{OUTPUT[5:]}?X-Amz-Signature=5ec7e7"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as box:
        yield box


def _peer(box: Controller, agent_id: str = "a1", *, signs: bool = True) -> AgentPeer:
    able = capabilities(roots=())
    able.stores.append("s3://bucket/")
    return AgentPeer(box.channel, agent_id, able=able, features=("sign", "bundles") if signs else ())


async def _published(box: Controller, agent: AgentPeer) -> str:
    job = await box.client.submit(SPEC)
    lease = await agent.lease()
    await agent.complete(lease.attempt_id, OUTPUT)
    return job.id


async def _asked(agent: AgentPeer) -> pb.Sign:
    found = await agent._until(lambda: next(iter(_signs(agent)), None))
    agent.forget()
    return found


def _signs(agent: AgentPeer) -> list[pb.Sign]:
    said = [inner for frame in agent.unread("bundle") for inner in frame.bundle.frames]
    return [frame.sign for frame in (*said, *agent.unread("sign")) if frame.HasField("sign")]


async def _answer(agent: AgentPeer, url: str = URL) -> pb.Sign:
    asked = await _asked(agent)
    answer = pb.SignedUri(uri=OUTPUT, url=url)
    answer.expire_time.FromSeconds(2_000_000_000)
    await agent.say(signed=pb.Signed(request_id=asked.request_id, uris=[answer]))
    return asked


async def test_an_agent_signs(box: Controller, tmp_path: Path) -> None:
    """The caller gets its URL, for the time asked, and the controller keeps nothing of it: neither row nor event."""
    async with _peer(box) as agent:
        job_id = await _published(box, agent)
        signing = asyncio.create_task(box.client.sign_artifacts(job_id[:10], lifetime_s=77))
        asked = await _answer(agent)
        assert asked.lifetime.seconds == 77
        [signed] = (await signing).artifacts
        assert (signed.name, signed.uri, signed.url) == ("aac_192", OUTPUT, URL)
        assert signed.expire_time.seconds == 2_000_000_000
        assert not signed.HasField("failure")
        # The stream goes on.
        await agent.beats(1)
    for file in tmp_path.glob("*.db*"):
        assert b"5ec7e7" not in file.read_bytes()
    assert [*tmp_path.glob("*.db")]
    with sqlite3.connect(next(tmp_path.glob("*.db"))) as database:
        dump = "\n".join(database.iterdump())
    assert job_id in dump
    assert "5ec7e7" not in dump
    database.close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "", "https://x\ny", "https://x y", "https://" + "x" * 20_000])
async def test_what_is_no_url_of_the_web_goes_to_nobody(box: Controller, url: str) -> None:
    """Whoever gets it would open it."""
    async with _peer(box) as agent:
        job_id = await _published(box, agent)
        signing = asyncio.create_task(box.client.sign_artifacts(job_id))
        await _answer(agent, url)
        [signed] = (await signing).artifacts
        assert (signed.url, signed.failure.reason) == ("", "INTERNAL")


async def test_a_failure_is_the_callers(box: Controller) -> None:
    """Trimmed to what a message may be."""
    async with _peer(box) as agent:
        job_id = await _published(box, agent)
        signing = asyncio.create_task(box.client.sign_artifacts(job_id))
        asked = await _asked(agent)
        answer = pb.SignedUri(uri=OUTPUT, url=URL)
        answer.failure.reason, answer.failure.message = "ARTIFACT_UNAVAILABLE", "no credentials " + "x" * 9000
        await agent.say(signed=pb.Signed(request_id=asked.request_id, uris=[answer]))
        [signed] = (await signing).artifacts
        assert signed.url == ""
        assert signed.failure.message.startswith("no credentials")
        assert len(signed.failure.message) == 4096


async def test_older_agents_are_not_asked(box: Controller) -> None:
    """One without the feature gets no such frame; the caller hears at once what is the matter."""
    async with _peer(box, signs=False) as agent:
        job_id = await _published(box, agent)
        [signed] = (await box.client.sign_artifacts(job_id)).artifacts
        assert signed.failure.reason == "NO_CAPABLE_AGENT"
        assert "upgrade" in signed.failure.message
        assert _signs(agent) == []


async def test_an_agent_that_leaves_is_waited_for_no_longer(box: Controller) -> None:
    """Its stream ends in the middle of it."""
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(_peer(box))
        job_id = await _published(box, agent)
        signing = asyncio.create_task(box.client.sign_artifacts(job_id))
        await _asked(agent)
        await agent.close()
        async with asyncio.timeout(10):
            [signed] = (await signing).artifacts
        assert signed.failure.reason == "ARTIFACT_UNAVAILABLE"


async def test_what_cannot_be_asked(box: Controller) -> None:
    """No such job; a time that no store signs; a job that published nothing has no URLs."""
    async with _peer(box) as agent:
        with pytest.raises(MediactlError) as caught:
            await box.client.sign_artifacts("nosuchjob")
        assert caught.value.reason is Reason.JOB_NOT_FOUND
        job = await box.client.submit(SPEC)
        with pytest.raises(MediactlError) as caught:
            await box.client.sign_artifacts(job.id, lifetime_s=8 * 86_400)
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        assert caught.value.fields[0][0] == "lifetime"
        assert await box.client.sign_artifacts(job.id) == job_service_pb2.SignArtifactsResponse()
        assert _signs(agent) == []


async def test_a_client_that_knows_all_controllers_finds_the_agent(tmp_path: Path, postgres: Postgres) -> None:
    """It is connected to the second one: the first, which has another agent, says so, and the client goes on."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres.database(postgres.template("migrated", migrate)))
        boxes = []
        for name in ("one", "two"):
            settings = Settings(
                data_dir=tmp_path / name,
                socket=tmp_path / f"{name}.sock",
                listen=None,
                database=url,
                log_transitions=False,
            )
            this = await stack.enter_async_context(running(settings))
            client = await stack.enter_async_context(AsyncClient(this.addresses[0], credentials=Credentials()))
            channel = await stack.enter_async_context(aio_channel(this.addresses[0], None))
            boxes.append(Controller(this.addresses[0], client, channel, this.store))
        here, there = boxes
        addresses = ",".join(one.address for one in boxes)
        both = await stack.enter_async_context(AsyncClient(addresses, credentials=Credentials()))
        blocking = stack.enter_context(Client(addresses, credentials=Credentials()))
        async with AgentPeer(here.channel, "other"), _peer(there) as agent:
            job_id = await _published(there, agent)
            [alone] = (await here.client.sign_artifacts(job_id)).artifacts
            assert alone.failure.reason == "NO_CAPABLE_AGENT"
            assert "connected to this controller" in alone.failure.message
            signing = asyncio.create_task(both.sign_artifacts(job_id))
            await _answer(agent)
            [signed] = (await signing).artifacts
            assert signed.url == URL
            signing = asyncio.create_task(asyncio.to_thread(blocking.sign_artifacts, job_id))
            await _answer(agent)
            assert (await signing).artifacts[0].url == URL
