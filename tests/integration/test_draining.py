"""Draining as callers and agents see it: FleetService and the agents' streams of real controllers."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from controller import loops, server
from controller.core.liveness import Timers
from mediactl import MediactlError
from mediactl.v1 import agent_service_pb2 as agent_pb
from mediactl.v1 import fleet_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2_grpc, job_pb2
from presets.reasons import Reason
from tests.fakes.agent_peer import AgentPeer
from tests.fakes.postgres import Postgres
from tests.fakes.running import Controller, controller, eventually

ASKED = "a person asked for it"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as box:
        yield box


@pytest.fixture
async def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Controller]:
    """One that gives agents up within seconds."""
    monkeypatch.setattr(server, "SWEEP_S", 0.05)
    monkeypatch.setattr(loops, "SEEN_RESOLUTION_S", 0.0)
    async with controller(tmp_path, timers=Timers(heartbeat_s=0.1, unreachable_s=0.5, lost_s=1.0)) as box:
        yield box


def _spec(folder: str = "out") -> dict[str, Any]:
    return {
        "inputs": [{"uri": "file:///media/talk.wav"}],
        "preset": "loudness_podcast",
        "outputs": [{"uri": f"file:///media/{folder}/"}],
    }


def _target(folder: str = "out") -> str:
    return f"file:///media/{folder}/talk.aac_192.m4a"


async def _refused(awaited: Any) -> MediactlError:
    with pytest.raises(MediactlError) as caught:
        await awaited
    return caught.value


async def test_a_drained_agent_finishes_and_is_given_nothing(box: Controller) -> None:
    """From the answer on, whatever is submitted; resumed, it is given what waits at once."""
    async with AgentPeer(box.channel) as agent:
        first = await box.client.submit(_spec("first"))
        lease = await agent.lease()
        drained = await box.client.drain_agent("box-a1")
        assert (drained.state, drained.drain_reason) == (pb.AGENT_STATE_DRAINING, ASKED)
        assert not drained.HasField("drain_deadline")
        assert list(drained.attempt_ids) == [lease.attempt_id]
        second = await box.client.submit(_spec("second"))
        await agent.complete(lease.attempt_id, _target("first"))
        assert (await box.client.wait(first.id)).state == job_pb2.JOB_STATE_COMPLETED
        await agent.beats(3)
        assert not agent.unread("lease")
        explained = await box.client.explain(second.id)
        assert explained.agents[0].reasons == [f"is draining: {ASKED}"]
        resumed = await box.client.resume_agent("a")
        assert (resumed.state, resumed.drain_reason) == (pb.AGENT_STATE_READY, "")
        assert (await agent.lease()).job_id == second.id


async def test_it_holds_over_restarts_of_both(tmp_path: Path) -> None:
    """Of the controller and of the agent, which says nothing about it itself."""
    async with controller(tmp_path) as before, AgentPeer(before.channel):
        await before.client.drain_agent("a1", deadline_s=3600)
    async with controller(tmp_path) as after, AgentPeer(after.channel) as agent:
        await after.client.submit(_spec())
        await agent.beats(3)
        assert not agent.unread("lease")
        shown = await after.client.agent("a1")
        assert (shown.state, shown.drain_reason) == (pb.AGENT_STATE_DRAINING, ASKED)
        assert shown.HasField("drain_deadline")


async def test_at_the_deadline_another_agent_begins_anew(box: Controller) -> None:
    """The agent is told to stop, for a reason that is not the job's; nothing of the job's attempts is used up."""
    async with AgentPeer(box.channel, "a") as leaving:
        job = await box.client.submit({**_spec(), "maxAttempts": 1})
        lease = await leaving.lease()
        await leaving.hold(lease.attempt_id)
        async with AgentPeer(box.channel, "b") as other:
            await box.client.drain_agent("a", deadline_s=0.05)
            stop = await leaving.stop(lease.attempt_id)
            assert stop.reason == Reason.AGENT_STOPPING
            await leaving.end(lease.attempt_id, reason=Reason.AGENT_STOPPING)
            again = await other.lease()
            assert again.job_id == job.id
            assert again.attempt_id != lease.attempt_id
            await other.complete(again.attempt_id, _target())
            done = await box.client.wait(job.id)
            assert done.state == job_pb2.JOB_STATE_COMPLETED
            assert [attempt.state for attempt in done.attempts] == ["handed_back", "completed"]
            assert done.tasks[0].attempts_used == 0


async def test_what_is_published_outlasts_the_deadline(box: Controller) -> None:
    """It completes where it is."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(_spec())
        lease = await agent.lease()
        await agent.hold(lease.attempt_id)
        await agent.stage(lease.attempt_id, _target())
        await agent.publish(lease.attempt_id)
        await box.client.drain_agent("a1", deadline_s=0)
        await agent.beats(6)
        assert not agent.unread("stop")
        await agent.end(lease.attempt_id)
        assert (await box.client.wait(job.id)).state == job_pb2.JOB_STATE_COMPLETED


async def test_what_an_agent_says_itself_is_shown(box: Controller) -> None:
    """Beside a person's wish, which can be taken back; the agent's own reason can't, but by the agent."""
    async with AgentPeer(box.channel) as agent:
        agent.silent = True
        await agent.status(draining=True, drain_reason="scratch is low\0")
        shown = await eventually(lambda: box.client.agent("a1"), lambda seen: bool(seen.drain_reason))
        assert (shown.state, shown.drain_reason) == (pb.AGENT_STATE_DRAINING, "scratch is low")
        await box.client.drain_agent("a1")
        assert (await box.client.agent("a1")).drain_reason == f"{ASKED}; scratch is low"
        resumed = await box.client.resume_agent("a1")
        assert (resumed.state, resumed.drain_reason) == (pb.AGENT_STATE_DRAINING, "scratch is low")
        job = await box.client.submit(_spec())
        assert (await box.client.explain(job.id)).agents[0].reasons == ["is draining: scratch is low"]
        await agent.status(draining=True)
        await eventually(lambda: box.client.agent("a1"), lambda seen: seen.drain_reason == "it says so")
        await agent.status()
        assert (await agent.lease()).job_id == job.id


async def test_only_a_lost_agent_can_be_removed(hasty: Controller) -> None:
    """Then it is gone; when it comes back, nothing of what was asked of it is known."""
    async with AgentPeer(hasty.channel) as agent:
        await hasty.client.drain_agent("a1")
        refused = await _refused(hasty.client.remove_agent("a1"))
        assert (refused.reason, refused.code) == (Reason.AGENT_NOT_LOST, "FAILED_PRECONDITION")
        assert "box-a1 is not LOST" in refused.message
        await agent.close()
    await eventually(lambda: _removed(hasty), lambda done: done)
    async with AgentPeer(hasty.channel, instance_id="another machine") as agent:
        job = await hasty.client.submit(_spec())
        assert (await agent.lease()).job_id == job.id


async def _removed(box: Controller) -> bool:
    """Whether it is gone: until it is LOST it can't be removed."""
    with suppress(MediactlError):
        await box.client.remove_agent("a1")
    return not await box.client.agents()


async def test_nobody_is_meant_by_what_nobody_is_called(box: Controller) -> None:
    """By each of the three; a deadline must be one."""
    client = box.client
    for refused in (client.drain_agent("x"), client.resume_agent("x"), client.remove_agent("x")):
        assert (await _refused(refused)).reason is Reason.AGENT_NOT_FOUND
    async with AgentPeer(box.channel):
        stub: fleet_service_pb2_grpc.FleetServiceAsyncStub = fleet_service_pb2_grpc.FleetServiceStub(box.channel)
        for wrong in (Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=1 << 40)):
            with pytest.raises(Exception, match="deadline"):
                await stub.DrainAgent(pb.DrainAgentRequest(agent_id="a1", deadline=wrong))
        assert (await client.agent("a1")).state == pb.AGENT_STATE_READY


async def test_any_controller_drains_an_agent_of_another(postgres: Postgres, tmp_path: Path) -> None:
    """On one database: no grants at once, its own reasons known everywhere, handed back at the deadline, once."""
    with postgres.database() as url:
        async with (
            controller(tmp_path / "one", database=url) as here,
            controller(tmp_path / "two", database=url) as there,
            AgentPeer(here.channel) as agent,
        ):
            job = await there.client.submit(_spec())
            lease = await agent.lease()
            await agent.hold(lease.attempt_id)
            assert (await there.client.agent("a1")).state == pb.AGENT_STATE_READY
            drained = await there.client.drain_agent("a1")
            assert (drained.state, drained.drain_reason) == (pb.AGENT_STATE_DRAINING, ASKED)
            second = await here.client.submit(_spec("second"))
            await agent.beats(3)
            assert not agent.unread("lease")
            explained = await there.client.explain(second.id)
            assert explained.agents[0].reasons == [f"is draining: {ASKED}"]
            await there.client.drain_agent("a1", deadline_s=0)
            assert (await agent.stop(lease.attempt_id)).reason == Reason.AGENT_STOPPING
            await agent.end(lease.attempt_id, agent_pb.OUTCOME_STOPPED)
            await eventually(lambda: there.client.get(job.id), lambda seen: seen.state == job_pb2.JOB_STATE_PENDING)
            agent.silent = True
            await agent.status(draining=True, drain_reason="scratch is low")
            await eventually(
                lambda: there.client.agent("a1"), lambda seen: seen.drain_reason == f"{ASKED}; scratch is low"
            )
            await agent.status()
            agent.silent = False
            await there.client.resume_agent("a1")
            got = {(await agent.lease()).job_id for _ in range(2)}
            assert got == {job.id, second.id}
            assert [one.state for one in (await here.client.get(job.id)).attempts] == ["handed_back", "leased"]
