"""What becomes of a task whose GPU was used up or failed, on both engines."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from controller.core.fitting import Gpu, Offer
from controller.store.leasing import Leased
from controller.store.tables import JobId
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
