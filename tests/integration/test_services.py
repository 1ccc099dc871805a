"""What callers see: JobService, PresetService and FleetService of a real controller."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc import StatusCode, aio
from grpc_status import rpc_status

from mediactl import AsyncClient, MediactlError
from mediactl.channel import aio_channel
from mediactl.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc, preset_service_pb2
from presets.reasons import Reason
from tests.fakes.agent_peer import PATIENCE_S, AgentPeer, capabilities, holding
from tests.fakes.running import Controller, controller

ROOT = Path(__file__).resolve().parents[2]

SPEC: dict[str, Any] = {
    "inputs": [{"uri": "file:///media/talk.wav"}],
    "preset": "loudness_podcast",
    "outputs": [{"uri": "file:///media/out/"}],
}


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as box:
        yield box


def _spec(folder: str = "out", **changes: Any) -> dict[str, Any]:
    return {**SPEC, "outputs": [{"uri": f"file:///media/{folder}/"}], **changes}


def _stub(box: Controller) -> "job_service_pb2_grpc.JobServiceAsyncStub":
    stub: job_service_pb2_grpc.JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(box.channel)
    return stub


# Submission


async def test_a_submitted_job_is_told_whole(box: Controller) -> None:
    """The answer is the job as it is stored: asked for, pinned, waiting; GetJob says the same."""
    job = await box.client.submit(_spec(labels={"show": "x"}, priority=0))
    assert (job.state, job.tenant, job.preset) == (job_pb2.JOB_STATE_PENDING, "default", "loudness_podcast_v1")
    assert len(job.preset_digest) == 64
    assert json_format.MessageToDict(job.spec) == _spec(labels={"show": "x"}, priority=0)
    assert not job.HasField("start_time")
    for text in (job.id, job.id[:9]):
        found = await box.client.get(text)
        assert [(task.name, task.state) for task in found.tasks] == [("main", "PENDING")]
        found.ClearField("tasks")
        assert found == job


async def test_a_request_id_returns_the_first_jobs(box: Controller) -> None:
    """The same request twice is one; another one under its id is refused by field."""
    first = await box.client.submit_all([_spec("a"), _spec("b")], request_id="r")
    again = await box.client.submit_all([_spec("a"), _spec("b")], request_id="r")
    assert [job.id for job in first] == [job.id for job in again]
    with pytest.raises(MediactlError) as caught:
        await box.client.submit_all([_spec("a")], request_id="r")
    assert (caught.value.reason, caught.value.code) == (Reason.REQUEST_ID_REUSED, "ALREADY_EXISTS")
    assert [field for field, _ in caught.value.fields] == ["request_id"]


async def test_refusals_carry_error_info_and_every_field(box: Controller) -> None:
    """ErrorInfo has the first problem's reason, BadRequest a violation for each with its own; nothing is stored."""
    request = job_service_pb2.SubmitJobsRequest(
        jobs=[
            json_format.ParseDict(_spec(), job_pb2.JobSpec()),
            json_format.ParseDict(_spec("b", preset="nothing", priority=11), job_pb2.JobSpec()),
        ]
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await _stub(box).SubmitJobs(request)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]  # the stubs know no AioRpcError
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.domain, info.reason) == ("mediactl", "INVALID_ARGUMENT")
    assert {(violation.field, violation.reason) for violation in bad.field_violations} == {
        ("jobs[1].priority", "INVALID_ARGUMENT"),
        ("jobs[1].preset", "PRESET_NOT_FOUND"),
    }
    assert (await box.client.list_page()).jobs == []


async def test_files_that_no_agent_reaches_are_refused_at_submission(box: Controller) -> None:
    """Once agents are known, their roots are: the message names them."""
    async with AgentPeer(box.channel, able=capabilities(roots=["/elsewhere"])):
        with pytest.raises(MediactlError, match="/elsewhere") as caught:
            await box.client.submit(SPEC)
        assert caught.value.reason is Reason.NO_CAPABLE_AGENT
        assert [field for field, _ in caught.value.fields] == ["jobs[0].inputs[0].uri", "jobs[0].outputs[0].uri"]


@pytest.mark.parametrize("call", ["get", "cancel", "explain"])
async def test_an_unknown_job_is_not_found(box: Controller, call: str) -> None:
    """By whatever RPC it is asked for; an ambiguous prefix is a field's problem."""
    with pytest.raises(MediactlError) as caught:
        await getattr(box.client, call)("0123")
    assert (caught.value.reason, caught.value.code) == (Reason.JOB_NOT_FOUND, "NOT_FOUND")
    with pytest.raises(MediactlError):
        await getattr(box.client, call)("")
    jobs = await box.client.submit_all([_spec(f"o{number}") for number in range(17)])
    shared = next(job.id[0] for job in jobs if sum(other.id[0] == job.id[0] for other in jobs) > 1)
    with pytest.raises(MediactlError) as caught:
        await getattr(box.client, call)(shared)
    assert caught.value.fields[0][0] == "job_id"


async def test_an_ended_job_is_not_cancelled(box: Controller) -> None:
    """FAILED_PRECONDITION names the end; cancelling what was cancelled is harmless."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.end(lease.attempt_id, reason=Reason.INPUT_CORRUPT)
        dead = await box.client.wait(job.id)
        assert (dead.failure.reason, dead.failure.retryable) == ("INPUT_CORRUPT", False)
        with pytest.raises(MediactlError, match="DEAD already") as caught:
            await box.client.cancel(job.id)
        assert (caught.value.reason, caught.value.code) == (Reason.JOB_ENDED, "FAILED_PRECONDITION")
    waiting = await box.client.submit(SPEC)
    for _ in range(2):
        assert (await box.client.cancel(waiting.id, message="why")).state == job_pb2.JOB_STATE_CANCELLED
    assert [event.message async for event in box.client.events(waiting.id)] == ["", "why", "why"]


# Lists


async def test_pages_are_whole_and_newest_first(box: Controller) -> None:
    """Every job once, in pages of the size asked for, also while new ones come."""
    ids = [job.id for job in await box.client.submit_all([_spec(f"o{number}") for number in range(7)])]
    seen: list[str] = []
    token, sizes = "", []
    while True:
        page = await box.client.list_page(page_size=3, page_token=token)
        seen += [job.id for job in page.jobs]
        sizes.append(len(page.jobs))
        await box.client.submit(_spec(f"new{len(sizes)}"))
        token = page.next_page_token
        if not token:
            break
    assert (seen, sizes) == (ids[::-1], [3, 3, 1])


async def test_filters_are_joined(box: Controller) -> None:
    """By id prefix, state, preset with and without version, queue and labels; a plan is never listed."""
    one = await box.client.submit(_spec("a", labels={"show": "x", "part": "1"}, queue="night"))
    two = await box.client.submit(_spec("b", labels={"show": "x"}, preset="convert"))
    await box.client.cancel(two.id)

    async def found(**where: Any) -> list[str]:
        return [job.id async for job in box.client.list(where)]

    assert await found() == [two.id, one.id]
    assert await found(ids=[one.id[:10]]) == [one.id]
    assert await found(states=["JOB_STATE_CANCELLED", "JOB_STATE_DEAD"]) == [two.id]
    assert await found(preset="convert") == await found(preset="convert_v1") == [two.id]
    assert await found(preset="conv") == []
    assert await found(queue="night") == [one.id]
    assert await found(labels={"show": "x"}) == [two.id, one.id]
    assert await found(labels={"show": "x", "part": "1"}, states=["JOB_STATE_PENDING"]) == [one.id]
    assert await found(labels={"show": "y"}) == []


async def test_page_tokens_are_not_to_be_misused(box: Controller) -> None:
    """A token of another filter, of another list or of nobody, and a size out of range, are refused by field."""
    jobs = await box.client.submit_all([_spec("a"), _spec("b")])
    token = (await box.client.list_page(page_size=1)).next_page_token
    for where, bad in (({"queue": "x"}, token), ({}, "nonsense"), ({}, token + "x")):
        with pytest.raises(MediactlError) as caught:
            await box.client.list_page(where, page_token=bad)
        assert (caught.value.reason, caught.value.fields[0][0]) == (Reason.PAGE_TOKEN_INVALID, "page_token")
    with pytest.raises(MediactlError) as caught:
        await box.client.list_page(page_size=1001)
    assert caught.value.fields[0][0] == "page_size"
    await box.client.cancel(jobs[0].id)
    stub = _stub(box)
    page = await stub.ListEvents(job_service_pb2.ListEventsRequest(job_id=jobs[0].id, page_size=2))
    rest = job_service_pb2.ListEventsRequest(job_id=jobs[0].id, page_token=page.next_page_token)
    assert [event.sequence for event in (await stub.ListEvents(rest)).events] == [3]
    rest.job_id = jobs[1].id
    with pytest.raises(aio.AioRpcError, match="not a token of this list"):
        await stub.ListEvents(rest)


# Watching


async def test_watch_replays_then_follows_and_ends(box: Controller) -> None:
    """Past events first, then those that happen, without a gap, until every selected job has ended."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        watching = box.client.watch({"ids": [job.id]})
        events = [(await asyncio.wait_for(anext(watching), PATIENCE_S)).event for _ in range(2)]
        await agent.complete(lease.attempt_id, "file:///media/out/talk.aac_192.m4a")
        async with asyncio.timeout(PATIENCE_S):
            updates = [update async for update in watching]
        events += [update.event for update in updates if update.HasField("event")]
        assert [event.type for event in events] == ["submitted", "leased", "started", "staged", "completed"]
        assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
        assert [event.cursor for event in events] == sorted({event.cursor for event in events})
        assert events[-1].job_state == job_pb2.JOB_STATE_COMPLETED
        assert events[1].agent_id == "a1"


async def test_watch_goes_on_after_a_cursor(box: Controller) -> None:
    """From any cursor the rest is told and nothing before it; jobs that are not selected are not told."""
    one, two = await box.client.submit_all([_spec("a"), _spec("b", queue="night")])
    await box.client.cancel(one.id)
    await box.client.cancel(two.id)
    async with asyncio.timeout(PATIENCE_S):
        whole = [update.event async for update in box.client.watch()]
        assert len(whole) == 6
        for number, event in enumerate(whole):
            rest = [update.event async for update in box.client.watch(after=event.cursor)]
            assert rest == whole[number + 1 :]
        night = [update.event async for update in box.client.watch({"queue": "night"})]
    assert night == [event for event in whole if event.job_id == two.id]


async def test_watch_tells_progress(box: Controller) -> None:
    """Between the events, with what is being done."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.hold(lease.attempt_id, progress=0.25, activity="encoding aac_192")
        async with asyncio.timeout(PATIENCE_S):
            async for update in box.client.watch({"ids": [job.id]}):
                if update.HasField("progress"):
                    break
        told = update.progress
        assert (told.job_id, told.fraction, told.activity) == (job.id, 0.25, "encoding aac_192")
        assert told.attempt_id == lease.attempt_id


async def test_watching_an_unknown_job_is_refused(box: Controller) -> None:
    """Rather than waiting for ever."""
    with pytest.raises(MediactlError) as caught:
        await anext(box.client.watch({"ids": ["0123"]}))
    assert caught.value.reason is Reason.JOB_NOT_FOUND


# Explaining


async def test_explain_without_any_agent(box: Controller) -> None:
    """The summary says what to start."""
    job = await box.client.submit(SPEC)
    explained = await box.client.explain(job.id)
    assert "No agent has registered yet" in explained.summary
    assert "mediactl-agent" in explained.summary


async def test_explain_tells_what_each_agent_lacks(box: Controller) -> None:
    """In the matcher's words, for each agent, and in one sentence."""
    async with (
        AgentPeer(box.channel, "bare", able=capabilities(able=["encoder:flac"])),
        AgentPeer(box.channel, "far", able=capabilities(roots=["/nas"])),
        AgentPeer(box.channel, "full", able=capabilities(max_tasks=1)) as full,
    ):
        first = await box.client.submit(_spec("first"))
        await full.lease()
        job = await box.client.submit(_spec("second", require={}))
        explained = await box.client.explain(job.id)
        reasons = {agent.agent_id: list(agent.reasons) for agent in explained.agents}
        assert "lacks encoder:aac or encoder:libfdk_aac" in reasons["bare"]
        assert reasons["far"] == ["can't reach /media/talk.wav (its media roots: /nas)"]
        assert reasons["full"] == ["runs as many tasks as it may"]
        assert not any(agent.suitable for agent in explained.agents)
        for word in ("box-far", "box-full", "box-bare", "0 tasks are before it in its lane"):
            assert word in explained.summary
        running = await box.client.explain(first.id)
        assert "does not wait for an agent: it is PROCESSING" in running.summary


async def test_explain_of_a_job_that_waits_for_its_next_try(box: Controller) -> None:
    """It says why the last one failed."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        lease = await agent.lease()
        await agent.end(lease.attempt_id, reason=Reason.FFMPEG_FAILED)
        await agent.acknowledged(lease.attempt_id)
        explained = await box.client.explain(job.id)
        assert "FAILED (FFMPEG_FAILED: it was FFMPEG_FAILED)" in explained.summary
        assert (await box.client.get(job.id)).failure.retryable


# The fleet


async def test_the_fleet_is_shown_with_what_it_proved_and_holds(box: Controller) -> None:
    """By id, prefix and name; an agent that went away is shown, and is unreachable."""
    async with AgentPeer(box.channel, "abc", labels={"zone": "a"}) as agent:
        await box.client.submit(SPEC)
        lease = await agent.lease()
        [shown] = await box.client.agents()
        assert (shown.id, shown.name, dict(shown.labels)) == ("abc", "box-abc", {"zone": "a"})
        assert shown.capabilities == agent.hello.capabilities
        assert list(shown.attempt_ids) == [lease.attempt_id]
        for word in ("abc", "ab", "box-abc"):
            assert (await box.client.agent(word)).id == "abc"
        for word in ("", "x"):
            with pytest.raises(MediactlError) as caught:
                await box.client.agent(word)
            assert caught.value.reason is Reason.AGENT_NOT_FOUND
        async with AgentPeer(box.channel, "abd"):
            with pytest.raises(MediactlError, match="several agents"):
                await box.client.agent("ab")


async def test_required_labels_place_a_job(box: Controller) -> None:
    """Only the agent that has the label gets it."""
    async with AgentPeer(box.channel, "a"), AgentPeer(box.channel, "b", labels={"zone": "x"}) as right:
        job = await box.client.submit(_spec(require={"zone": "x"}))
        assert (await right.lease()).job_id == job.id


async def test_a_failed_attempt_keeps_its_story(box: Controller) -> None:
    """GetJob tells each attempt: who, how it ended, what it used."""
    agent = AgentPeer(box.channel)
    await agent.connect()
    job = await box.client.submit(_spec(max_attempts=1))
    lease = await agent.lease()
    await agent.hold(lease.attempt_id)
    await agent.end(lease.attempt_id, reason=Reason.FFMPEG_FAILED)
    dead = await box.client.wait(job.id)
    await agent.close()
    [attempt] = dead.attempts
    assert (attempt.id, attempt.agent_id, attempt.number, attempt.state) == (lease.attempt_id, "a1", 1, "failed")
    assert attempt.failure.reason == "FFMPEG_FAILED"
    assert attempt.HasField("start_time")
    assert attempt.HasField("end_time")
    assert dead.attempt_count == 1
    assert dead.HasField("end_time")


# Presets


PRESET = """
name = "quiet"
version = 1
title = "Quiet"
description = "Quieter than others."
default_profile = "flac_v1"
[roles]
programme = { media = "audio", default = true, description = "what is made quiet" }
[chain.programme_out]
from = ["programme"]
steps = [{ op = "conform" }, { op = "loudness", target_lufs = -30 }]
"""


async def test_presets_are_listed_added_and_frozen(box: Controller, tmp_path: Path) -> None:
    """An added one is used at once, again is harmless, and a changed one under its version is refused."""
    shipped = {preset.full_name for preset in await box.client.presets()}
    assert {"loudness_podcast_v1", "dialogue_clean_v1"} <= shipped
    added = await box.client.add_preset(PRESET)
    assert await box.client.add_preset(PRESET) == added
    assert await box.client.preset("quiet") == added
    assert (await box.client.submit(_spec(preset="quiet"))).preset == "quiet_v1"
    changed = PRESET.replace("-30", "-31")
    podcast = (await box.client.preset("loudness_podcast_v1")).document
    for document in (changed, podcast.replace("-16", "-17")):
        with pytest.raises(MediactlError) as caught:
            await box.client.add_preset(document)
        assert (caught.value.reason, caught.value.code) == (Reason.PRESET_CONFLICT, "ALREADY_EXISTS")
    assert {preset.full_name for preset in await box.client.presets()} == {*shipped, "quiet_v1"}


async def test_profiles_are_listed_and_added(box: Controller) -> None:
    """By the same rules."""
    document = (await box.client.profile("flac")).document.replace('name = "flac"', 'name = "flac_mine"')
    added = await box.client.add_profile(document)
    assert added.full_name == "flac_mine_v1"
    assert isinstance(added, preset_service_pb2.Profile)
    with pytest.raises(MediactlError) as caught:
        await box.client.profile("nothing")
    assert caught.value.reason is Reason.PROFILE_NOT_FOUND


async def test_what_was_added_survives_a_restart(tmp_path: Path) -> None:
    """Documents and jobs are in the database, events too."""
    async with controller(tmp_path) as before:
        await before.client.add_preset(PRESET)
        job = await before.client.submit(_spec(preset="quiet"))
        history = [event async for event in before.client.events(job.id)]
    async with controller(tmp_path) as after:
        assert (await after.client.preset("quiet")).full_name == "quiet_v1"
        found = await after.client.get(job.id)
        found.ClearField("tasks")
        assert found == job
        assert [event async for event in after.client.events(job.id)] == history


async def test_the_program_serves_and_ends_in_order(tmp_path: Path) -> None:
    """From an empty directory to an answer; after SIGTERM it ends with 0 and its socket is gone."""
    socket = tmp_path / "c.sock"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller.main", "serve", "--data-dir", tmp_path / "data", "--socket", socket),
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        async with aio_channel(f"unix:{socket}") as channel, asyncio.timeout(PATIENCE_S):
            await channel.channel_ready()
        async with AsyncClient(f"unix:{socket}") as client:
            assert await client.presets()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        assert not await asyncio.to_thread(socket.exists)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_two_controllers_do_not_share_a_data_directory(box: Controller, tmp_path: Path) -> None:
    """The second one is told why; the first goes on."""
    with pytest.raises(MediactlError, match="another controller works on"):
        async with controller(tmp_path):
            pass
    assert (await box.client.submit(SPEC)).id


async def test_holdings_of_a_new_stream_are_shown(box: Controller) -> None:
    """Progress is known again as soon as the agent is back."""
    async with AgentPeer(box.channel) as first:
        job = await box.client.submit(SPEC)
        lease = await first.lease()
        await first.hold(lease.attempt_id, progress=0.5)
    async with AgentPeer(box.channel, holdings=[holding(lease.attempt_id, progress=0.7)]) as again:
        await again.log(lease.attempt_id, 1, b"x")
        await again.acknowledged(lease.attempt_id, "ffmpeg")
        await again.hold(lease.attempt_id, progress=0.7)
        await again.log(lease.attempt_id, 2, b"x")
        await again.acknowledged(lease.attempt_id, "ffmpeg")
        assert (await box.client.get(job.id)).progress == 0.7


@pytest.mark.parametrize("kind", ["preset", "profile"])
async def test_an_invalid_document_is_refused_with_its_line(box: Controller, kind: str) -> None:
    """What is wrong, where, and under the request's own field."""
    add = box.client.add_preset if kind == "preset" else box.client.add_profile
    with pytest.raises(MediactlError) as caught:
        await add("name = 'x'\nversion = 'one'\n")
    assert caught.value.reason == Reason.INVALID_ARGUMENT
    assert any(field == "document" and text.startswith("line 2") for field, text in caught.value.fields)


async def test_a_repeat_is_answered_whatever_became_of_the_fleet(box: Controller) -> None:
    """A submission that was stored is told again, though no agent that is there now could take it."""
    job = await box.client.submit(SPEC, request_id="r")
    async with AgentPeer(box.channel, able=capabilities(roots=["/elsewhere"])):
        assert (await box.client.submit(SPEC, request_id="r")).id == job.id
        with pytest.raises(MediactlError) as caught:
            await box.client.submit(SPEC, request_id="another")
    assert caught.value.reason == Reason.NO_CAPABLE_AGENT


async def test_one_file_by_two_names_is_a_collision(box: Controller) -> None:
    """Two jobs of a request may not write one file, however it is spelt."""
    specs = [{**SPEC, "outputs": [{"uri": f"file:///media/{name}"}]} for name in ("o.m4a", "./o.m4a")]
    with pytest.raises(MediactlError) as caught:
        await box.client.submit_all(specs)
    assert caught.value.reason == Reason.OUTPUT_COLLISION


async def test_a_new_attempt_begins_at_nothing(box: Controller) -> None:
    """Neither the progress nor the failure of the attempt before is shown while the next one works."""
    async with AgentPeer(box.channel) as agent:
        job = await box.client.submit(SPEC)
        first = await agent.lease()
        await agent.hold(first.attempt_id, progress=0.7)
        await agent.log(first.attempt_id, 1, b"x")
        await agent.acknowledged(first.attempt_id, "ffmpeg")
        await agent.end(first.attempt_id, reason=Reason.AGENT_STOPPING)
        while (await agent.lease()).attempt_id == first.attempt_id:
            pass
        shown = await box.client.get(job.id)
    assert shown.state == job_pb2.JOB_STATE_PROCESSING
    assert (shown.progress, shown.HasField("failure")) == (0, False)
