"""How attempts end that could not even begin, and what their agent's next life says of them."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.attempts import Attempts
from agent.means import Means
from agent.media.confinement import Confinement
from agent.outbox import Outbox
from agent.remains import Remains
from agent.scratch import Scratch
from agent.spool import Spool
from agent.storage import Stores
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason

LEASE = pb.Lease(attempt_id="a.1", job_id="a", kind=pb.TASK_KIND_TRANSFORM, intent_json="{}")


@pytest.fixture
def means(tmp_path: Path) -> Means:
    return Means(
        binaries=(),
        ffprobe="",
        stores=Stores([]),
        scratch=tmp_path / "scratch",
        room=Scratch(tmp_path, time.monotonic),
        confinement=Confinement(None, False, (), ""),
        remains=Remains(tmp_path / "remains"),
    )


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    outbox = Outbox(tmp_path / "outbox")
    outbox.load()
    yield outbox
    outbox.close()


async def _failed(means: Means, outbox: Outbox) -> pb.EndReport:
    """The end of an attempt whose agent can't load what does the work."""
    attempts = Attempts(means, outbox)
    attempts.take(LEASE, "")
    async with asyncio.timeout(10):
        await attempts.idle.wait()
    held = outbox.ledger.get("a.1")
    assert held is not None
    assert held.ended is not None
    return held.ended


async def test_a_damaged_installation_fails_the_attempt(
    means: Means, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is loaded with the first attempt; where that is impossible, the attempt says so."""
    monkeypatch.setitem(sys.modules, "agent.transform", None)
    report = await _failed(means, outbox)
    assert report.outcome == pb.OUTCOME_FAILED
    assert report.failure.reason == Reason.INTERNAL
    assert report.failure.message.startswith("the agent's installation is damaged")


async def test_the_end_is_written_once(
    means: Means, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another life of the agent says it with what is kept by then."""
    monkeypatch.setitem(sys.modules, "agent.transform", None)
    written: list[int] = []
    end = Spool.end

    def counted(spool: Spool, report: pb.EndReport) -> None:
        written.append(report.kept_bytes)
        end(spool, report)

    monkeypatch.setattr(Spool, "end", counted)
    report = await _failed(means, outbox)
    assert written == [0]
    assert report.kept_bytes > 0

    for kept in (report.kept_bytes, 0):
        again = Outbox(tmp_path / "outbox")
        await Attempts(means, again).take_up()
        held = again.ledger.get("a.1")
        assert held is not None
        assert held.ended is not None
        assert held.ended.failure == report.failure
        assert held.ended.kept_bytes == kept
        again.close()
        means.remains.make_room(1, tmp_path)


async def test_what_a_crash_left_half_done_counts(
    means: Means, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent was killed while it kept what the attempt left: the next life finishes that, and then counts."""
    monkeypatch.setitem(sys.modules, "agent.transform", None)
    report = await _failed(means, outbox)
    (tmp_path / "remains" / "a.1").rename(tmp_path / "remains" / ".a.1")
    after = Remains(tmp_path / "remains")
    assert after.kept_bytes("a.1") == report.kept_bytes
    assert after.kept_bytes("another") == 0
