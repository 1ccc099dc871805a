"""Notices of the host, against a fake instance metadata service."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from agent import notices
from agent.notices import Heed, Metadata, Unavailable, metadata_at
from tests.fakes.imds import REBALANCE, SCHEDULED, SPOT, FakeImds, imds

NOW = 1_777_615_200.0
AT = "2026-05-01T06:02:00Z"
EVENT = {"NotBefore": "1 May 2026 06:10:00 GMT", "Code": "instance-stop", "Description": "old host", "State": "active"}


class Watched:
    """A heed whose clock stands still, and what it said."""

    def __init__(self, metadata: Metadata) -> None:
        self.now_s = NOW
        self.reason = ""
        self.handed_back: list[str] = []
        self._heed = Heed(metadata, say=self._say, hand_back=self.handed_back.append, clock=lambda: self.now_s)

    def _say(self, reason: str) -> None:
        self.reason = reason

    async def look(self) -> str:
        await self._heed.look()
        return self.reason


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as logs:
        yield logs


@pytest.fixture
async def host() -> AsyncIterator[FakeImds]:
    async with imds() as host:
        yield host


@asynccontextmanager
async def _watching(host: FakeImds, *, heed_rebalance: bool = False) -> AsyncIterator[Watched]:
    async with metadata_at(host.url, heed_rebalance=heed_rebalance) as metadata:
        yield Watched(metadata)


async def test_a_spot_interruption_is_heeded_and_withdrawn(host: FakeImds) -> None:
    """Nothing new at once; what runs is handed back half a minute before; a 404 withdraws it all."""
    async with _watching(host) as watched:
        assert await watched.look() == ""
        host.spot(NOW + 120)
        assert await watched.look() == f"EC2 spot interruption (terminate) at {AT}"
        assert watched.handed_back == []
        watched.now_s += 90
        await watched.look()
        assert watched.handed_back == [watched.reason]
        host.withdraw(SPOT)
        assert await watched.look() == ""
        assert len(watched.handed_back) == 1


async def test_a_scheduled_event_is_heeded_and_cancelled(host: FakeImds) -> None:
    """Within the hour before it, not days ahead; its state tells when it is off."""
    async with _watching(host) as watched:
        host.put(SCHEDULED, [EVENT])
        watched.now_s -= 86_400
        assert await watched.look() == ""
        watched.now_s += 86_400
        assert await watched.look() == "EC2 scheduled event instance-stop (old host) at 2026-05-01T06:10:00Z"
        host.put(SCHEDULED, [{**EVENT, "State": "canceled"}])
        assert await watched.look() == ""


async def test_a_rebalance_recommendation_is_heeded_where_that_is_wanted(host: FakeImds) -> None:
    """Not by default: it may be that nothing happens for days."""
    host.put(REBALANCE, {"noticeTime": "2026-05-01T06:00:00Z"})
    async with _watching(host) as watched:
        assert await watched.look() == ""
    async with _watching(host, heed_rebalance=True) as watched:
        assert "rebalance" in await watched.look()
        watched.now_s += 86_400
        await watched.look()
        assert watched.handed_back == []


async def test_one_token_serves_until_it_expires(host: FakeImds) -> None:
    """Then a new one is fetched, and what was asked is asked again; nobody notices."""
    async with _watching(host) as watched:
        host.spot(NOW + 120)
        for _ in range(3):
            assert await watched.look()
        assert host.asked.count("PUT /latest/api/token") == 1
        host.expire_tokens()
        assert await watched.look()
        assert host.asked.count("PUT /latest/api/token") == 2


async def test_silence_withdraws_nothing(
    host: FakeImds, monkeypatch: pytest.MonkeyPatch, logs: list[EventDict]
) -> None:
    """An answer that does not come, or can't be read, changes nothing, and time goes on; it is logged once."""
    monkeypatch.setattr(notices, "PATIENCE_S", 0.1)
    async with _watching(host) as watched:
        host.spot(NOW + 120)
        told = await watched.look()
        host.withdraw(SPOT)
        host.put(SCHEDULED, "<html>maintenance</html>")
        assert await watched.look() == told
        host.status = 503
        assert await watched.look() == told
        host.hang.clear()
        watched.now_s += 90
        begun = asyncio.get_running_loop().time()
        assert await watched.look() == told
        assert asyncio.get_running_loop().time() - begun < 5
        assert watched.handed_back == [told]
        assert [line["log_level"] for line in logs] == ["warning"]
        host.hang.set()
        host.status = 200
        host.withdraw(SCHEDULED)
        assert await watched.look() == ""
        assert [line["event"] for line in logs][1:] == ["notices of the host are heard again"]


async def test_an_answer_without_end_is_none(host: FakeImds) -> None:
    """Whatever listens there, it can't fill the agent's memory."""
    host.piece = 1 << 16
    host.put(SPOT, " " * (1 << 20))
    async with metadata_at(host.url) as metadata:
        with pytest.raises(Unavailable, match="longer than"):
            await metadata.notices()


async def test_an_absent_service_is_no_notice(logs: list[EventDict]) -> None:
    """Nobody listens: the agent works, and the log says once that it hears nothing."""
    async with imds() as host:
        pass
    async with _watching(host) as watched:
        assert await watched.look() == ""
        assert await watched.look() == ""
    assert [line["log_level"] for line in logs] == ["warning"]


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_service_that_gives_no_token_is_unavailable(host: FakeImds, status: int) -> None:
    """As where it is switched off for an instance."""
    host.status = status
    async with metadata_at(host.url) as metadata:
        with pytest.raises(Unavailable, match=f"no token: {status}"):
            await metadata.notices()
