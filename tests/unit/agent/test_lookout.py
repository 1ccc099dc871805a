"""Looking again while the agent works."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from agent.lookout import Lookout
from mediactl.v1.fleet_service_pb2 import Capabilities

HOURS_S = 3600.0


class Machine:
    """Is looked at: the next revision each time, the last one for ever. ``doubts`` is what each look was told."""

    def __init__(self, *revisions: str) -> None:
        self._revisions: Iterator[str] = iter(revisions)
        self._now = ""
        self.doubts: list[bool] = []

    def look(self, doubting: bool) -> Capabilities:
        self.doubts.append(doubting)
        self._now = next(self._revisions, self._now)
        return Capabilities(revision=self._now)


async def _heard(lookout: Lookout, news: "asyncio.Queue[str]", count: int) -> list[str]:
    running = asyncio.create_task(lookout.run())
    try:
        async with asyncio.timeout(20):
            return [await news.get() for _ in range(count)]
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def _lookout(machine: Machine, news: "asyncio.Queue[str]", *, every_s: float) -> Lookout:
    known = Capabilities(revision="a")
    return Lookout(machine.look, known, lambda found: news.put_nowait(found.revision), every_s=every_s, least_s=0)


async def test_only_changes_are_told() -> None:
    """As often as it looks, the same revision is no news."""
    machine, news = Machine("a", "a", "b", "b", "a"), asyncio.Queue[str]()
    assert await _heard(_lookout(machine, news, every_s=0), news, 2) == ["b", "a"]
    assert machine.doubts[:5] == [False] * 5


async def test_doubt_is_looked_into_at_once() -> None:
    """Long before the next look is due, and proving anew; several doubts make one look."""
    machine, news = Machine("b"), asyncio.Queue[str]()
    lookout = _lookout(machine, news, every_s=HOURS_S)
    lookout.doubt()
    lookout.doubt()
    assert await _heard(lookout, news, 1) == ["b"]
    assert machine.doubts == [True]


async def test_a_look_that_fails_is_not_hidden() -> None:
    """What detection raises is for whoever runs this to see."""

    def fail(_doubting: bool) -> Capabilities:
        raise OSError("the disk is gone")

    lookout = Lookout(fail, Capabilities(), lambda _found: None, every_s=0, least_s=0)
    with pytest.raises(OSError, match="the disk is gone"):
        await lookout.run()
