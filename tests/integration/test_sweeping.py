"""What attempts leave staged, through a real controller, removed by agents whose words a test decides."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from controller.store.tables import attempts
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from tests.fakes.agent_peer import AgentPeer, capabilities
from tests.fakes.running import Controller, controller, eventually
from tests.fakes.stored import found

SPEC: dict[str, Any] = {
    "inputs": [{"uri": "s3://bucket/talk.wav"}],
    "preset": "loudness_podcast",
    "outputs": [{"profile": "flac", "uri": "s3://bucket/out/"}, {"profile": "aac_192", "uri": "s3://bucket/out/"}],
}


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path, sweep_after_s=0.05) as box:
        yield box


def _peer(box: Controller, agent_id: str, *, reach: str = "s3://bucket/", sweeps: bool = True) -> AgentPeer:
    able = capabilities(roots=())
    able.stores.append(reach)
    return AgentPeer(box.channel, agent_id, able=able, features=("sweep",) if sweeps else ())


async def _ended_untidily(box: Controller, agent: AgentPeer) -> tuple[str, str]:
    job = await box.client.submit(SPEC)
    attempt_id = (await agent.lease()).attempt_id
    await agent.hold(attempt_id)
    agent.holdings.clear()
    failure = job_pb2.Failure(reason="INPUT_CORRUPT", message="it was")
    report = pb.EndReport(attempt_id=attempt_id, outcome=pb.OUTCOME_FAILED, failure=failure, staging_left=True)
    await agent.say(ended=report)
    return job.id, attempt_id


async def _asked(agent: AgentPeer, attempt_id: str) -> pb.Sweep:
    return (await agent._expect("sweep", lambda said: said.sweep.attempt_id == attempt_id)).sweep


async def _until_swept(box: Controller, attempt_id: str) -> None:
    async def look() -> int | None:
        [row] = await found(box.store, select(attempts.c.sweep_us).where(attempts.c.id == attempt_id))
        since: int | None = row.sweep_us
        return since

    await eventually(look, lambda since: since is None)


async def test_every_place_of_the_job_is_swept(box: Controller) -> None:
    """Its outputs and its manifest; once an agent says that nothing is left, never again."""
    async with _peer(box, "a") as agent:
        job_id, attempt_id = await _ended_untidily(box, agent)
        asked = await _asked(agent, attempt_id)
        assert list(asked.uris) == [
            "s3://bucket/out/talk.flac.flac",
            "s3://bucket/out/talk.aac_192.m4a",
            f"s3://bucket/out/{job_id}.job.json",
        ]
        await agent.say(swept=pb.Swept(attempt_id=attempt_id, removed=asked.uris[:1]))
        await _until_swept(box, attempt_id)
        agent.forget()
        await agent.beats(3)
        assert agent.unread("sweep") == []


async def test_what_fails_is_repeated(box: Controller) -> None:
    """Until it succeeds."""
    async with _peer(box, "a") as agent:
        _, attempt_id = await _ended_untidily(box, agent)
        for message in ("access denied" + "x" * 9000, "the store is away"):
            await _asked(agent, attempt_id)
            failure = job_pb2.Failure(reason="PUBLISH_FAILED", message=message)
            await agent.say(swept=pb.Swept(attempt_id=attempt_id, failure=failure))
        await _asked(agent, attempt_id)
        await agent.say(swept=pb.Swept(attempt_id=attempt_id))
        await _until_swept(box, attempt_id)


async def test_any_agent_that_reaches_it_does(box: Controller) -> None:
    """Its own is gone; one that doesn't reach it and one of an older version are not asked, nor listened to."""
    async with _peer(box, "a", sweeps=False) as agent:
        _, attempt_id = await _ended_untidily(box, agent)
        await agent.acknowledged(attempt_id)
    async with _peer(box, "far", reach="s3://other/") as far, _peer(box, "old", sweeps=False) as old:
        for _ in range(3):
            await far.say(swept=pb.Swept(attempt_id=attempt_id))
            await far.beats(1)
        async with _peer(box, "near") as near:
            await _asked(near, attempt_id)
            await far.say(swept=pb.Swept(attempt_id=attempt_id))
            await far.beats(1)
            [row] = await found(box.store, select(attempts.c.sweep_us).where(attempts.c.id == attempt_id))
            assert row.sweep_us is not None
            await near.say(swept=pb.Swept(attempt_id=attempt_id))
            await _until_swept(box, attempt_id)
        assert far.unread("sweep") + old.unread("sweep") == []


async def test_where_one_is_cut_off_the_next_is_asked(box: Controller) -> None:
    """Its own agent first, then the others."""
    async with _peer(box, "a") as agent:
        _, attempt_id = await _ended_untidily(box, agent)
        async with _peer(box, "b") as other:
            await _asked(agent, attempt_id)
            assert other.unread("sweep") == []
            await agent.close()
            await _asked(other, attempt_id)
            await other.say(swept=pb.Swept(attempt_id=attempt_id))
            await _until_swept(box, attempt_id)
