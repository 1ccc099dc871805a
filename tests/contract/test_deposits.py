"""Files in the controller's own store as the database knows them; the same on every database."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.store.deposits import (
    ABANDONED_US,
    FOREIGN_US,
    PROLONGED_US,
    Advance,
    AttemptOver,
    BeginUpload,
    Begun,
    DepositNotFound,
    DropDeposit,
    DropDue,
    FinishUpload,
    PathTaken,
    QuotaExceeded,
    at,
    find,
    known_keys,
)
from controller.store.queries import admission_grounds, list_events
from controller.store.tables import DEFAULT_TENANT, AttemptId, JobId
from mediactl.v1 import job_pb2
from presets.reasons import Reason
from tests.fakes.running import Desk, desk_on_engine

WEEK_US = 7 * 86400_000_000
RESULT = "results/f/talk.m4a"


@pytest.fixture(params=["sqlite", "postgresql"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk_on_engine(request) as desk:
        yield desk


async def _begin(desk: Desk, new_id: str = "u1", **given: Any) -> Begun:
    facts: dict[str, Any] = {
        "name": "talk.wav",
        "path": "",
        "attempt_id": "",
        "size_bytes": 100,
        "sha256": "aa",
        "store": "here",
        "quota_bytes": 1000,
        "lifetime_us": WEEK_US,
    }
    return await desk.do(BeginUpload(tenant=DEFAULT_TENANT, new_id=new_id, **(facts | given)))


async def _result(desk: Desk, attempt: str, new_id: str = "r1", **given: Any) -> Begun:
    return await _begin(desk, new_id, name="", path=RESULT, attempt_id=attempt, **given)


async def _advance(desk: Desk, before: int, after: int, deposit_id: str = "u1") -> bool:
    return await desk.do(Advance(DEFAULT_TENANT, deposit_id, before, after, WEEK_US))


async def _finish(desk: Desk, deposit_id: str = "u1", *, overwrite: bool = False) -> Begun:
    return await desk.do(FinishUpload(DEFAULT_TENANT, deposit_id, overwrite, WEEK_US))


async def _whole(desk: Desk, deposit_id: str = "u1", **given: Any) -> str:
    """Its path."""
    begun = await _begin(desk, deposit_id, **given)
    await _advance(desk, begun.row.received_bytes, begun.row.size_bytes, deposit_id)
    return str((await _finish(desk, deposit_id)).row.path)


async def _due(desk: Desk, store: str = "here", limit: int = 10) -> list[str]:
    return [row.id for row in await desk.do(DropDue(store, limit))]


async def _there(desk: Desk, deposit_id: str = "u1") -> bool:
    try:
        await desk.store.read(find, DEFAULT_TENANT, deposit_id)
    except DepositNotFound:
        return False
    return True


async def _readable(desk: Desk, *paths: str) -> frozenset[str]:
    """As admission asks."""
    grounds = await desk.store.read(admission_grounds, desk.store.database, DEFAULT_TENANT, "", "", (), paths)
    return grounds.deposited


async def test_from_its_beginning_to_its_end(desk: Desk) -> None:
    """Not readable under its path before it is finished, and not to be finished before all of it is there."""
    begun = await _begin(desk)
    row = begun.row
    assert (row.path, row.received_bytes, row.whole, row.key) == (
        "uploads/u1/talk.wav",
        0,
        False,
        "deposits/default/u1",
    )
    assert (row.created_us, row.expires_us) == (desk.now_us, desk.now_us + WEEK_US)
    assert await _advance(desk, 0, 60)
    with pytest.raises(DepositNotFound):
        await _finish(desk)
    with pytest.raises(DepositNotFound):
        await desk.store.read(at, DEFAULT_TENANT, row.path)
    assert await _readable(desk, row.path) == set()
    assert await _advance(desk, 60, 100)
    assert (await _finish(desk)).row.whole
    assert (await desk.store.read(at, DEFAULT_TENANT, row.path)).id == "u1"
    assert await _readable(desk, row.path, "uploads/x/y") == {row.path}
    assert (await _finish(desk)).row.id == "u1"


async def test_only_one_of_two_goes_on(desk: Desk) -> None:
    """What is counted is what was durable from the first byte on; what is whole is not extended."""
    await _begin(desk)
    assert await _advance(desk, 0, 50)
    assert not await _advance(desk, 0, 70)
    assert not await _advance(desk, 70, 100)
    assert not await _advance(desk, 0, 1, "unknown")
    assert await _advance(desk, 50, 100)
    await _finish(desk)
    assert not await _advance(desk, 100, 101)


async def test_the_same_file_is_the_same_upload(desk: Desk) -> None:
    """By name, size, checksum and store, open or whole; its life is prolonged, and nothing else is shared."""
    await _begin(desk)
    await _advance(desk, 0, 50)
    desk.wait(3600)
    again = await _begin(desk, "u2")
    assert (again.row.id, again.row.received_bytes, again.row.expires_us) == ("u1", 50, desk.now_us + WEEK_US)
    await _advance(desk, 50, 100)
    await _finish(desk)
    assert (await _begin(desk, "u3")).row.whole
    others: list[dict[str, Any]] = [{"name": "t.wav"}, {"size_bytes": 99}, {"sha256": "bb"}, {"store": "there"}]
    for number, other in enumerate(others):
        assert (await _begin(desk, f"o{number}", **other)).row.id == f"o{number}"


async def test_room_is_taken_from_the_beginning_on(desk: Desk) -> None:
    """And given back with the entry; going on with what was begun takes none."""
    await _begin(desk, size_bytes=600)
    with pytest.raises(QuotaExceeded) as caught:
        await _begin(desk, "u2", size_bytes=401)
    assert (caught.value.size_bytes, caught.value.used_bytes, caught.value.quota_bytes) == (401, 600, 1000)
    assert (await _begin(desk, "u2", size_bytes=600)).row.id == "u1"
    assert (await _begin(desk, "u3", size_bytes=400)).row.id == "u3"
    assert await desk.do(DropDeposit(DEFAULT_TENANT, "u1")) == ("deposits/default/u1",)
    assert (await _begin(desk, "u4", size_bytes=600)).row.id == "u4"


async def test_of_many_at_once_no_more_than_there_is_room_for(desk: Desk) -> None:
    """However they come."""
    outcomes = await asyncio.gather(
        *(_begin(desk, f"u{n}", sha256=f"{n}", size_bytes=300) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Begun) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == 5


async def test_a_result_is_its_jobs(desk: Desk) -> None:
    """Of an attempt that has not ended; beginning it anew with other content drops what was there."""
    job_id, attempt = await desk.running("a")
    begun = await _result(desk, attempt)
    assert (begun.row.path, begun.row.job_id, begun.dropped) == (RESULT, job_id, ())
    assert (await _result(desk, attempt, "r2")).row.id == "r1"
    other = await _result(desk, attempt, "r3", sha256="bb")
    assert (other.row.id, other.dropped) == ("r3", ("deposits/default/r1",))
    assert not await _there(desk, "r1")
    with pytest.raises(AttemptOver):
        await _result(desk, "unknown", "r4")
    await desk.end("a", attempt, reason=Reason.INPUT_CORRUPT)
    with pytest.raises(AttemptOver):
        await _result(desk, attempt, "r5")


async def test_nothing_is_replaced_unless_that_is_asked_for(desk: Desk) -> None:
    """Of two results for one path the first that is finished has it; the other may take its place."""
    _, first = await desk.running("a")
    _, second = await desk.running("b")
    for attempt, deposit_id, sha256 in ((first, "r1", "aa"), (second, "r2", "bb")):
        await _result(desk, attempt, deposit_id, sha256=sha256)
        await _advance(desk, 0, 100, deposit_id)
    await _finish(desk, "r1")
    with pytest.raises(PathTaken):
        await _finish(desk, "r2")
    assert (await desk.store.read(at, DEFAULT_TENANT, RESULT)).id == "r1"
    assert (await _finish(desk, "r2", overwrite=True)).dropped == ("deposits/default/r1",)
    assert (await desk.store.read(at, DEFAULT_TENANT, RESULT)).id == "r2"


async def test_deleting(desk: Desk) -> None:
    """By id only what is not whole, by path only what is, by attempt what it has open there; a repeat does nothing."""
    path = await _whole(desk)
    assert await desk.do(DropDeposit(DEFAULT_TENANT, "u1")) == ()
    assert await desk.do(DropDeposit(DEFAULT_TENANT, path=path)) == ("deposits/default/u1",)
    assert await desk.do(DropDeposit(DEFAULT_TENANT, path=path)) == ()
    _, attempt = await desk.running("a")
    await _result(desk, attempt)
    assert await desk.do(DropDeposit(DEFAULT_TENANT, path=RESULT)) == ()
    assert await desk.do(DropDeposit(DEFAULT_TENANT, path=RESULT, attempt_id="other")) == ()
    assert await desk.do(DropDeposit(DEFAULT_TENANT, path=RESULT, attempt_id=attempt)) == ("deposits/default/r1",)
    assert await desk.store.read(known_keys, ["deposits/default/r1", "deposits/default/u1"]) == set()


async def test_what_has_had_its_time(desk: Desk) -> None:
    """The longest due first, whole or not; those of another store are left to who has it, for a while."""
    await _whole(desk)
    desk.wait(1)
    await _begin(desk, "u2", sha256="bb")
    await _begin(desk, "u3", sha256="cc", store="there")
    assert await desk.store.read(known_keys, ["deposits/default/u1", "x"]) == {"deposits/default/u1"}
    desk.wait(WEEK_US / 1e6 - 1)
    assert await _due(desk) == ["u1"]
    desk.wait(1)
    assert await _due(desk) == ["u2"]
    assert await _due(desk) == []
    desk.wait(FOREIGN_US / 1e6)
    assert await _due(desk) == ["u3"]


async def test_what_a_job_still_reads_stays(desk: Desk) -> None:
    """Until the job has ended; and what stays is in nobody's way."""
    path = await _whole(desk)
    await _whole(desk, "u2", sha256="bb")
    _, attempt = await desk.running("a", deposits=f'["{path}"]')
    desk.wait(WEEK_US / 1e6)
    assert await _due(desk, limit=1) == []
    assert await _due(desk, limit=1) == ["u2"]
    await desk.end("a", attempt, reason=Reason.INPUT_CORRUPT)
    assert await _due(desk) == []
    desk.wait(PROLONGED_US / 1e6)
    assert await _due(desk) == ["u1"]


@pytest.mark.parametrize("days", [None, 30])
async def test_a_result_is_kept_as_long_as_its_job_says(desk: Desk, days: int | None) -> None:
    """From its publication on, or as everything; the job's history tells when it is deleted."""
    spec = job_pb2.JobSpec()
    if days:
        spec.keep.FromSeconds(days * 86400)
    job_id, attempt = await desk.publishing("a", spec=spec.SerializeToString())
    await _result(desk, attempt)
    await _advance(desk, 0, 100, "r1")
    await _finish(desk, "r1")
    await desk.end("a", attempt)
    desk.wait((days or 7) * 86400 - 1)
    assert await _due(desk) == []
    desk.wait(1)
    assert await _due(desk) == ["r1"]
    history = await desk.store.read(list_events, DEFAULT_TENANT, JobId(job_id), after_sequence=0, limit=10)
    assert (history[-1].type, history[-1].job_state) == ("result_deleted", "COMPLETED")
    assert f"controller://{RESULT}, which was kept until 20" in history[-1].message


async def test_what_an_ended_attempt_left_unfinished(desk: Desk) -> None:
    """Is deleted after an hour; not while its publication waits for an agent to finish it."""
    _, attempt = await desk.publishing("a")
    await _result(desk, attempt)
    desk.wait(ABANDONED_US / 1e6 + 1)
    assert await _due(desk) == []
    await desk.end("a", AttemptId(attempt), reason=Reason.PUBLISH_FAILED)
    assert await _due(desk) == ["r1"]
