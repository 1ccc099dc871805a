"""AgentService.Session: a real controller, and agents that say exactly what a test has them say."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from agent.session import greet
from controller import loops, server
from controller.core.liveness import Timers
from mediactl import MediactlError
from mediactl.channel import Credentials, aio_channel
from mediactl.errors import from_rpc_error
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import agent_service_pb2_grpc, fleet_service_pb2, job_pb2
from presets.reasons import Reason
from tests.fakes.agent_peer import AgentPeer, capabilities, holding
from tests.fakes.running import Controller, controller, eventually

SPEC: dict[str, Any] = {
    "inputs": [{"uri": "file:///media/talk.wav"}],
    "preset": "loudness_podcast",
    "outputs": [{"uri": "file:///media/out/"}],
}
TARGET = "file:///media/out/talk.aac_192.m4a"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as box:
        yield box


@pytest.fixture
async def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Controller]:
    """One that gives agents up within seconds."""
    monkeypatch.setattr(server, "SWEEP_S", 0.05)
    monkeypatch.setattr(loops, "SEEN_RESOLUTION_S", 0.0)
    async with controller(tmp_path, timers=Timers(heartbeat_s=0.1, unreachable_s=1.0, lost_s=2.0)) as box:
        yield box


async def _state(box: Controller, job_id: str) -> str:
    return job_pb2.JobState.Name((await box.client.get(job_id)).state).removeprefix("JOB_STATE_")


async def _until_state(box: Controller, job_id: str, state: str) -> job_pb2.Job:
    await eventually(lambda: _state(box, job_id), lambda seen: seen == state)
    return await box.client.get(job_id)


async def _agent_state(box: Controller, agent_id: str) -> "fleet_service_pb2.AgentState.ValueType":
    return (await box.client.agent(agent_id)).state


async def _history(box: Controller, job_id: str) -> list[str]:
    return [event.type async for event in box.client.events(job_id)]


async def test_progress_in_a_bundle(box: Controller) -> None:
    """Agents that have more to say at once bundle their status with it; callers see the progress all the same."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        # Its heartbeats say less, alone.
        agent.holdings[lease.attempt_id] = holding(lease.attempt_id, progress=0.125)
        status = pb.AgentStatus(holdings=[holding(lease.attempt_id, progress=0.25)])
        chunk = pb.LogChunk(attempt_id=lease.attempt_id, stream="ffmpeg", sequence=1, data=b"x")
        await agent.say(
            bundle=pb.RequestBundle(frames=[pb.SessionRequest(log=chunk), pb.SessionRequest(status=status)])
        )
        async with asyncio.timeout(10):
            async for update in box.client.watch({"ids": [job.id]}):
                if update.progress.fraction == 0.25:
                    break


async def test_the_whole_way(box: Controller) -> None:
    """Submit, lease, status, stage, publish, end: the caller sees the artifact that the agent staged."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        assert (lease.job_id, lease.kind, lease.cores) == (job.id, pb.TASK_KIND_TRANSFORM, 1)
        assert json.loads(lease.intent_json)["outputs"][0]["uri"] == TARGET
        assert json.loads(lease.requirements_json)["alternatives"]
        await agent.complete(lease.attempt_id, TARGET)
        done = await box.client.wait(job.id)
        assert done.state == job_pb2.JOB_STATE_COMPLETED
        assert [(artifact.uri, artifact.size_bytes) for artifact in done.artifacts] == [(TARGET, 1000)]
        assert await _history(box, job.id) == ["submitted", "leased", "started", "staged", "completed"]


async def test_a_job_that_waits_is_leased_to_the_agent_that_comes(box: Controller) -> None:
    """No agent at submission: the first one that can gets it, at once."""
    job = await box.client.submit(SPEC)
    async with AgentPeer(box.channel) as agent:
        assert (await agent.lease()).job_id == job.id


async def test_the_first_frame_introduces(box: Controller) -> None:
    """Anything else is refused with the field that is missing, and so is a second hello."""
    stub: agent_service_pb2_grpc.AgentServiceAsyncStub = agent_service_pb2_grpc.AgentServiceStub(box.channel)
    for first in (pb.SessionRequest(status=pb.AgentStatus()), pb.SessionRequest(hello=pb.Hello())):
        call = stub.Session()
        await call.write(first)
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
        assert from_rpc_error(caught.value).fields[0][0] == "hello.agent_id"
    async with AgentPeer(box.channel) as agent:
        await agent.say(hello=agent.hello)
        over = await agent.over()
        assert over is not None
        assert over.code() is StatusCode.INVALID_ARGUMENT


async def test_a_lease_is_repeated_until_the_agent_holds_it(box: Controller) -> None:
    """The same attempt comes again until a status names it, and then no more."""
    async with AgentPeer(box.channel) as agent:
        await box.client.submit(SPEC)
        first = await agent.lease()
        assert await agent.lease() == first
        await agent.hold(first.attempt_id, pb.PHASE_ACCEPTED)
        # Two heartbeats later it would have come again; frames are answered in order, so these measure them.
        for sequence in range(1, 4):
            await agent.log(first.attempt_id, sequence, b"x")
            await agent.acknowledged(first.attempt_id, "ffmpeg")
        for late in agent.unread("lease"):
            assert late.lease == first
        agent.forget()
        await agent.beats(4)
        assert agent.unread("lease") == []


async def test_cancelling_stops_the_agent_and_ends_with_its_answer(box: Controller) -> None:
    """The stop names the attempt and why; the job is PROCESSING until the agent has confirmed."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.hold(lease.attempt_id)
        asked = await box.client.cancel(job.id, message="enough")
        assert (asked.state, asked.cancel_requested) == (job_pb2.JOB_STATE_PROCESSING, True)
        assert (await agent.stop(lease.attempt_id)).reason == Reason.CANCELLED
        await agent.stage(lease.attempt_id, TARGET)
        assert (await agent.stop(lease.attempt_id)).reason in (Reason.PUBLISH_REFUSED, Reason.CANCELLED)
        await agent.end(lease.attempt_id, pb.OUTCOME_STOPPED)
        await agent.acknowledged(lease.attempt_id)
        assert (await box.client.get(job.id)).state == job_pb2.JOB_STATE_CANCELLED
        assert not agent.unread("publish")


async def test_a_stop_is_repeated_until_the_attempt_is_over(box: Controller) -> None:
    """An agent that does not answer hears of it again."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.hold(lease.attempt_id)
        await box.client.cancel(job.id)
        assert await agent.stop(lease.attempt_id) == await agent.stop(lease.attempt_id)


async def test_cancelling_what_publishes_lets_it_complete(box: Controller) -> None:
    """Once permission was given no stop is sent, and the job completes."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.hold(lease.attempt_id)
        await agent.stage(lease.attempt_id, TARGET)
        await agent.publish(lease.attempt_id)
        assert (await box.client.cancel(job.id)).state == job_pb2.JOB_STATE_PROCESSING
        await agent.end(lease.attempt_id)
        assert (await box.client.wait(job.id)).state == job_pb2.JOB_STATE_COMPLETED
        assert not agent.unread("stop")


async def test_logs_are_stored_once_and_acknowledged(box: Controller) -> None:
    """A chunk that comes twice is acknowledged twice and kept once; a reader gets each stream in order."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.hold(lease.attempt_id)
        for sequence, stream in ((1, "agent"), (1, "ffmpeg"), (1, "ffmpeg"), (2, "ffmpeg")):
            await agent.log(lease.attempt_id, sequence, f"{stream} {sequence}\n".encode(), stream)
            assert (await agent.acknowledged(lease.attempt_id, stream)).sequence == sequence
        pieces = [piece async for piece in box.client.logs(job.id)]
        assert [piece.data for piece in pieces] == [b"agent 1\n", b"ffmpeg 1\n", b"ffmpeg 2\n"]
        assert {piece.attempt_id for piece in pieces} == {lease.attempt_id}


async def test_followed_logs_come_while_they_are_written_and_end_with_the_job(box: Controller) -> None:
    """Each piece arrives before the next one is written."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.hold(lease.attempt_id)
        following = box.client.logs(job.id, follow=True)
        for sequence in (1, 2, 3):
            await agent.log(lease.attempt_id, sequence, b"%d" % sequence)
            assert (await asyncio.wait_for(anext(following), 15)).data == b"%d" % sequence
        await agent.end(lease.attempt_id, reason=Reason.INPUT_CORRUPT)
        assert [piece async for piece in following] == []


async def test_a_new_stream_supersedes_the_old_one(box: Controller) -> None:
    """The older one ends with EPOCH_SUPERSEDED; the attempt goes on over the new one."""
    async with AgentPeer(box.channel) as old:
        job = await box.client.submit(SPEC)
        lease = await old.lease()
        await old.hold(lease.attempt_id)
        await _until_state(box, job.id, "PROCESSING")
        async with AgentPeer(box.channel, holdings=[holding(lease.attempt_id)]) as new:
            assert new.epoch == old.epoch + 1
            over = await old.over()
            assert over is not None
            assert from_rpc_error(over).reason is Reason.EPOCH_SUPERSEDED
            await new.complete(lease.attempt_id, TARGET)
            assert (await box.client.wait(job.id)).state == job_pb2.JOB_STATE_COMPLETED


async def test_another_machine_with_the_same_id_is_refused(box: Controller) -> None:
    """The refusal says what to do; the first agent's stream goes on."""
    async with AgentPeer(box.channel) as first:
        with pytest.raises(aio.AioRpcError) as caught:
            await AgentPeer(box.channel, instance_id="clone").connect()
        refused = from_rpc_error(caught.value)
        assert refused.reason is Reason.AGENT_ID_CONFLICT
        assert "delete the file" in refused.message
        job = await box.client.submit(SPEC)
        assert (await first.lease()).job_id == job.id


async def test_an_agent_that_comes_back_goes_on(box: Controller) -> None:
    """With its holdings: nothing is stopped, leased again or lost. Without: the attempt is given to it anew."""
    agent = AgentPeer(box.channel)
    await agent.connect()
    job = await box.client.submit(SPEC)
    lease = await agent.lease()
    await agent.hold(lease.attempt_id, progress=0.3)
    await eventually(lambda: _history(box, job.id), lambda seen: "started" in seen)
    await agent.close()
    again = AgentPeer(box.channel, holdings=[holding(lease.attempt_id, progress=0.4)])
    await again.connect()
    await again.log(lease.attempt_id, 1, b"x")
    await again.acknowledged(lease.attempt_id, "ffmpeg")
    assert again.unread("lease") == again.unread("stop") == []
    await again.close()
    async with AgentPeer(box.channel) as forgetful:
        new = await forgetful.lease()
        assert (new.job_id, new.attempt_id != lease.attempt_id) == (job.id, True)
        await forgetful.complete(new.attempt_id, TARGET)
    done = await box.client.wait(job.id)
    assert [attempt.state for attempt in done.attempts] == ["lost", "completed"]


async def test_a_publication_that_the_agent_forgot_comes_back_with_its_records(box: Controller) -> None:
    """An agent that died while publishing is told what it had been permitted to publish."""
    agent = AgentPeer(box.channel)
    await agent.connect()
    job = await box.client.submit(SPEC)
    lease = await agent.lease()
    await agent.hold(lease.attempt_id)
    await agent.stage(lease.attempt_id, TARGET)
    await agent.publish(lease.attempt_id)
    await agent.close()
    async with AgentPeer(box.channel) as again:
        redo = await again.lease()
        assert redo.attempt_id == lease.attempt_id
        assert [(record.artifact.uri, record.staged_uri) for record in redo.redo] == [
            (TARGET, f"{TARGET}.{lease.attempt_id}")
        ]
        await again.end(redo.attempt_id)
        assert (await box.client.wait(job.id)).state == job_pb2.JOB_STATE_COMPLETED


async def test_a_draining_agent_gets_nothing_new(box: Controller) -> None:
    """It keeps what it has, is shown as draining, and gets work again when it says so."""
    async with AgentPeer(box.channel) as agent:
        agent.silent = True
        await agent.status(draining=True)
        await eventually(lambda: _agent_state(box, "a1"), lambda seen: seen == fleet_service_pb2.AGENT_STATE_DRAINING)
        job = await box.client.submit(SPEC)
        assert not (await box.client.explain(job.id)).agents[0].suitable
        agent.silent = False
        assert (await agent.lease()).job_id == job.id


async def test_an_agent_tells_of_its_cache(box: Controller) -> None:
    """As long as it is connected; figures that can't be are none."""

    async def cache() -> fleet_service_pb2.CacheStatus | None:
        agent = await box.client.agent("a1")
        return agent.cache if agent.HasField("cache") else None

    async with AgentPeer(box.channel) as agent:
        assert await cache() is None
        agent.silent = True
        said = fleet_service_pb2.CacheStatus(limit_bytes=10, held_bytes=4, hits=3, misses=-2, saved_bytes=12)
        await agent.say(status=pb.AgentStatus(cache=said))
        shown = await eventually(cache, lambda seen: seen is not None)
        assert shown == fleet_service_pb2.CacheStatus(limit_bytes=10, held_bytes=4, hits=3, saved_bytes=12)
    await eventually(cache, lambda seen: seen is None)


async def test_a_silent_agent_is_unreachable_then_lost(hasty: Controller) -> None:
    """Unreachable, it gets no grants and keeps what it has; lost, its attempt goes to another agent."""
    async with AgentPeer(hasty.channel, "quiet") as quiet:
        job = await hasty.client.submit(SPEC)
        lease = await quiet.lease()
        await quiet.hold(lease.attempt_id)
        quiet.silent = True
        await eventually(
            lambda: _agent_state(hasty, "quiet"), lambda seen: seen == fleet_service_pb2.AGENT_STATE_UNREACHABLE
        )
        assert await _state(hasty, job.id) == "PROCESSING"
        second = await hasty.client.submit({**SPEC, "outputs": [{"uri": "file:///media/second/"}]})
        explained = await hasty.client.explain(second.id)
        assert [agent.suitable for agent in explained.agents] == [False]
        async with AgentPeer(hasty.channel, "other", able=capabilities(max_tasks=1)) as other:
            mine = await other.lease()
            assert mine.job_id == second.id
            await other.hold(mine.attempt_id)
            await eventually(
                lambda: _agent_state(hasty, "quiet"), lambda seen: seen == fleet_service_pb2.AGENT_STATE_LOST
            )
            await _until_state(hasty, job.id, "PENDING")
            await other.end(mine.attempt_id, reason=Reason.INPUT_CORRUPT)
            await other.acknowledged(mine.attempt_id)
            other.forget()
            taken = await other.lease()
            assert (taken.job_id, list(taken.redo)) == (job.id, [])
            # Though it never closed its stream it is made to come back, and to learn what became of its attempt.
            over = await quiet.over()
            assert over is not None
            assert from_rpc_error(over).reason is Reason.EPOCH_SUPERSEDED
            await other.complete(taken.attempt_id, TARGET)
        done = await hasty.client.wait(job.id)
        assert [attempt.state for attempt in done.attempts] == ["lost", "completed"]
        assert len(quiet.unread("lease")) == 0


async def test_a_lost_agents_publication_is_finished_by_another(hasty: Controller) -> None:
    """The other one gets the same attempt with its redo records."""
    async with AgentPeer(hasty.channel, "quiet") as quiet:
        job = await hasty.client.submit(SPEC)
        lease = await quiet.lease()
        await quiet.hold(lease.attempt_id)
        await quiet.stage(lease.attempt_id, TARGET)
        await quiet.publish(lease.attempt_id)
        quiet.silent = True
        async with AgentPeer(hasty.channel, "other") as other:
            adopted = await other.lease()
            assert (adopted.attempt_id, len(adopted.redo)) == (lease.attempt_id, 1)
            await other.end(adopted.attempt_id)
            assert (await hasty.client.wait(job.id)).state == job_pb2.JOB_STATE_COMPLETED
        assert "publication_adopted" in await _history(hasty, job.id)


async def test_a_restarted_controller_stops_nothing(tmp_path: Path) -> None:
    """The agent comes back with what it holds: no stop, no second lease, the same attempt completes."""
    async with controller(tmp_path) as before:
        agent = AgentPeer(before.channel)
        await agent.connect()
        job = await before.client.submit(SPEC)
        lease = await agent.lease()
        await agent.hold(lease.attempt_id, progress=0.5)
        await eventually(lambda: _history(before, job.id), lambda seen: "started" in seen)
    await agent.close()
    async with controller(tmp_path) as after:
        assert await _state(after, job.id) == "PROCESSING"
        async with AgentPeer(after.channel, holdings=[holding(lease.attempt_id, progress=0.6)]) as again:
            assert again.epoch == agent.epoch + 1
            await again.complete(lease.attempt_id, TARGET)
            assert again.unread("stop") == again.unread("lease") == []
        done = await after.client.wait(job.id)
        assert [attempt.id for attempt in done.attempts] == [lease.attempt_id]
        assert await _history(after, job.id) == ["submitted", "leased", "started", "staged", "completed"]


async def test_a_restarted_controller_gives_every_agent_time_to_report(tmp_path: Path) -> None:
    """However long ago an agent was heard of, its attempts stay its own for one LOST interval of the new controller."""
    timers = Timers(heartbeat_s=0.1, unreachable_s=1.0, lost_s=2.0)
    async with controller(tmp_path, timers=timers) as before, AgentPeer(before.channel) as agent:
        job = await before.client.submit(SPEC)
        await agent.hold((await agent.lease()).attempt_id)
        await eventually(lambda: _history(before, job.id), lambda seen: "started" in seen)
    with closing(sqlite3.connect(tmp_path / "mediactl.db")) as database, database:
        database.execute("UPDATE agents SET last_seen_us = 0")
    started = time.time()
    async with controller(tmp_path, timers=timers) as after:
        await _until_state(after, job.id, "PENDING")
        given_back = [event async for event in after.client.events(job.id)][-1]
        assert given_back.reason == Reason.AGENT_LOST
        assert given_back.time.ToMicroseconds() / 1e6 - started >= timers.lost_s


async def test_a_controller_that_stops_ends_its_streams(tmp_path: Path) -> None:
    """An agent's stream ends within the grace, so that it can look for the next controller."""
    async with AsyncExitStack() as later:
        async with controller(tmp_path) as box:
            agent = AgentPeer(await later.enter_async_context(aio_channel(box.address)))
            await agent.connect()
        assert await agent.over() is not None
        await agent.close()


async def test_progress_is_monotone_and_whole_only_when_completed(box: Controller) -> None:
    """A lower reading is not shown, 1.0 is not believed before the end, and a new attempt begins anew."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        told: list[float] = []
        for progress in (0.2, 0.6, 0.4, 1.0, 0.9):
            await agent.hold(lease.attempt_id, progress=progress, activity=f"at {progress}")
            await agent.log(lease.attempt_id, len(told) + 1, b"x")
            await agent.acknowledged(lease.attempt_id, "ffmpeg")
            told.append((await box.client.get(job.id)).progress)
        assert told == [0.2, 0.6, 0.6, 0.99, 0.99]
        await agent.complete(lease.attempt_id, TARGET)
        assert (await box.client.wait(job.id)).progress == 1.0


async def test_a_plan_comes_from_an_agent(box: Controller) -> None:
    """PlanJob leases a plan, answers with what was compiled, and leaves no job to list."""
    async with AgentPeer(box.channel) as agent:
        planning = asyncio.create_task(box.client.plan(SPEC))
        lease = await agent.lease()
        assert lease.kind == pb.TASK_KIND_PLAN
        plan = job_pb2.Plan(steps=[job_pb2.PlanStep(id="encode", arguments=["-i", "in/0"])], binary_version="9.0")
        await agent.end(lease.attempt_id, plan=plan)
        answer = await planning
        assert (answer.plan, answer.agent_id) == (plan, "a1")
        assert [job async for job in box.client.list()] == []


async def test_a_plan_that_fails_is_the_callers_error(box: Controller) -> None:
    """The reason is that of the input."""
    async with AgentPeer(box.channel) as agent:
        planning = asyncio.create_task(box.client.plan(SPEC))
        lease = await agent.lease()
        await agent.end(lease.attempt_id, reason=Reason.INPUT_NOT_FOUND)
        with pytest.raises(MediactlError) as caught:
            await planning
        assert caught.value.reason is Reason.INPUT_NOT_FOUND


async def test_a_plan_nobody_waits_for_is_cancelled(box: Controller) -> None:
    """When the caller goes away the agent is told to stop."""
    async with AgentPeer(box.channel) as agent:
        planning = asyncio.create_task(box.client.plan(SPEC))
        lease = await agent.lease()
        await agent.hold(lease.attempt_id)
        planning.cancel()
        assert (await agent.stop(lease.attempt_id)).reason == Reason.CANCELLED


@pytest.mark.parametrize("bearing", [False, True])
async def test_a_call_that_fails_before_the_first_word(tmp_path: Path, bearing: bool) -> None:
    """An agent whose controller is not there hears why, however soon its call failed."""
    token = tmp_path / "token"
    token.write_text("open-sesame")
    credentials = Credentials(token_file=token if bearing else None)
    async with aio_channel(f"unix:{tmp_path}/nobody.sock", credentials) as channel:
        call = agent_service_pb2_grpc.AgentServiceStub(channel).Session()
        assert await call.code() is StatusCode.UNAVAILABLE
        with pytest.raises(aio.AioRpcError) as raised:
            await greet(call, pb.Hello())
        assert from_rpc_error(raised.value).reason is Reason.CONTROLLER_UNREACHABLE
