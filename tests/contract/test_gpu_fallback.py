"""What becomes of a task whose GPU was used up or failed, on both engines."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from google.protobuf import json_format

from controller.core.fitting import Gpu, Offer
from controller.offers import stored_offer
from controller.store.draining import DrainAgent, ResumeAgent
from controller.store.explaining import explain
from controller.store.fleet import ExpireAgents, Seen, Sign
from controller.store.leases import Leased
from controller.store.queries import Record
from controller.store.tables import DEFAULT_TENANT, AgentId, JobId
from mediactl.v1.fleet_service_pb2 import Capabilities, FfmpegBinary
from mediactl.v1.fleet_service_pb2 import Gpu as GpuMessage
from presets.capabilities import Alternative, Requirements, Resources
from presets.reasons import Reason
from tests.fakes.desks import turn
from tests.fakes.running import Desk, desk_on_engine, offer

_ON_GPU = Alternative((frozenset({"encoder:h264_nvenc"}),), Resources(encoder_sessions=1))
_ON_PROCESSOR = Alternative((frozenset({"encoder:libx264"}),), Resources(cores=2), open_after_s=30.0)
PREFERRED = Requirements((_ON_GPU, _ON_PROCESSOR))
REQUIRED = Requirements((_ON_GPU,))


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


def box(agent: str, *, gpus: int = 1) -> Offer:
    """One with GPUs, which can use its processor, too."""
    able = ("encoder:libx264", *(("encoder:h264_nvenc",) if gpus else ()))
    return replace(offer(agent, able=able), gpus=tuple(Gpu(index, 16, 2**34) for index in range(gpus)))


async def _submit(desk: Desk, asked: Requirements) -> JobId:
    document = json.dumps(asked.to_json())
    [job_id] = await desk.submit(requirements=document, class_key=asked.class_key(), max_attempts=1)
    return job_id


async def _leased(desk: Desk, *boxes: Offer) -> Leased:
    """The one lease there is as soon as the back-off is over, begun."""
    desk.wait(2)
    await turn(desk)
    [lease] = await desk.offering(*boxes)
    await desk.start(lease.agent_id, lease.attempt_id)
    return lease


@pytest.fixture(params=[Reason.ENCODER_SESSION_LIMIT, Reason.GPU_UNAVAILABLE])
def reason(request: pytest.FixtureRequest) -> Reason:
    fault: Reason = request.param
    return fault


async def test_the_processor_takes_over_on_the_same_box(desk: Desk, reason: Reason) -> None:
    """After the GPU failed twice, long before the processor's turn would have come, and at no cost."""
    await desk.register("a")
    job_id = await _submit(desk, PREFERRED)
    for _ in range(2):
        lease = await _leased(desk, box("a"))
        assert lease.gpu == 0
        await desk.end("a", lease.attempt_id, reason=reason)
    lease = await _leased(desk, box("a"))
    assert (lease.gpu, lease.cores) == (None, 2)
    assert (await desk.task(job_id)).attempts_used == 0


async def test_another_gpu_comes_first(desk: Desk, reason: Reason) -> None:
    """Where another box has one, it is tried before any processor."""
    await desk.register("a")
    await desk.register("b")
    await _submit(desk, PREFERRED)
    first = await _leased(desk, box("a"))
    await desk.end("a", first.attempt_id, reason=reason)
    second = await _leased(desk, box("a"), box("b"))
    assert (second.agent_id, second.gpu) == ("b", 0)


async def test_another_box_s_processor_comes_before_the_gpu_that_failed(desk: Desk, reason: Reason) -> None:
    """At once, not after the delay that a free GPU would have been worth."""
    await desk.register("a")
    await desk.register("b")
    await _submit(desk, PREFERRED)
    first = await _leased(desk, box("a"))
    await desk.end("a", first.attempt_id, reason=reason)
    second = await _leased(desk, box("a"), box("b", gpus=0))
    assert (second.agent_id, second.gpu) == ("b", None)


_WITH_NVENC = json_format.MessageToJson(
    Capabilities(
        cores=4,
        memory_bytes=2**30,
        media_roots=["/media"],
        binaries=[FfmpegBinary(capabilities=["encoder:h264_nvenc"])],
        gpus=[GpuMessage(encoder_sessions=2, memory_bytes=2**34)],
    )
)


async def test_nobody_waits_for_a_gpu_that_nobody_has(desk: Desk) -> None:
    """The processor's turn comes at once; where a box with a GPU has no room, after the delay."""
    await desk.register("a")
    await desk.register("b")
    await _submit(desk, PREFERRED)
    full = replace(box("b"), gpus=(Gpu(0, 0, 2**34, 16, 2**34),))
    assert await desk.offering(box("a", gpus=0), full) == []
    [lease] = await desk.offering(box("a", gpus=0))
    assert (lease.gpu, lease.cores) == (None, 2)


async def test_a_gpu_that_is_only_not_here_is_waited_for(desk: Desk) -> None:
    """Its box is connected to another controller, or silent for a moment: not drained, not lost. Explaining agrees."""
    await desk.register("a")
    await desk.register("b", capabilities=_WITH_NVENC, revision="1")
    job_id = await _submit(desk, PREFERRED)
    mine = box("a", gpus=0)

    async def told() -> tuple[str, ...]:
        found = await desk.store.read(
            explain, desk.store.database, DEFAULT_TENANT, job_id, offers=[mine], absent=stored_offer, objection=_stored
        )
        return found.verdicts[0].reasons

    assert await desk.offering(mine) == []
    assert await told() == ("may take it from 30 s after submission on, if none preferred has by then",)
    await desk.do(DrainAgent(AgentId("b"), None))
    assert await told() == ()
    await desk.do(ResumeAgent(AgentId("b")))
    assert await desk.offering(mine) == []
    await desk.do(Seen((Sign(AgentId("b"), desk.epochs["b"], 0, "scratch is low"),), 0))
    assert await told() == ()
    await desk.register("b", capabilities=_WITH_NVENC, revision="1")
    assert await desk.offering(mine) == []
    await desk.register("b", revision="2")
    assert await told() == ()
    assert len(await desk.offering(mine)) == 1


async def test_a_lost_gpu_is_not_waited_for(desk: Desk) -> None:
    """Once its box is called lost, the processor's turn comes at once."""
    await desk.register("b", capabilities=_WITH_NVENC)
    desk.wait(61)
    await desk.register("a")
    await _submit(desk, PREFERRED)
    assert await desk.offering(box("a", gpus=0)) == []
    await desk.do(ExpireAgents(60_000_000, jitter=1.0))
    assert len(await desk.offering(box("a", gpus=0))) == 1


def _stored(row: Record) -> str:
    return row.drain_reason or ""


async def test_what_requires_a_gpu_waits_for_one(desk: Desk, reason: Reason) -> None:
    """It stays what it asked for, however often it fails."""
    await desk.register("a")
    job_id = await _submit(desk, REQUIRED)
    lane = (await desk.task(job_id)).lane
    lease = await _leased(desk, box("a"))
    await desk.end("a", lease.attempt_id, reason=reason)
    desk.wait(60)
    await turn(desk)
    assert await desk.offering(box("b", gpus=0)) == []
    assert (await _leased(desk, box("a"))).gpu == 0
    assert (await desk.task(job_id)).lane == lane


async def test_other_failures_change_nothing(desk: Desk) -> None:
    """A full disk says nothing about the GPU."""
    await desk.register("a")
    job_id = await _submit(desk, PREFERRED)
    for _ in range(3):
        lease = await _leased(desk, box("a"))
        assert lease.gpu == 0
        await desk.end("a", lease.attempt_id, reason=Reason.SCRATCH_FULL)
        desk.wait(5)
    assert (await desk.task(job_id)).attempts_used == 0
