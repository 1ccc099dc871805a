"""What is kept on its way to the controller: a piece at a time, as far as allowed, once however often asked."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import delivery as module
from agent.delivery import Delivery
from agent.remains import PIECE_BYTES, Remains
from mediactl.v1 import agent_service_pb2 as pb

ATTEMPT = "a.1"


class Stream:
    """Takes pieces as the session does: whenever it is told that there is something."""

    def __init__(self, remains: Remains) -> None:
        self.fresh = asyncio.Event()
        self.delivery = Delivery(remains, self.fresh.set)

    def ask(self, attempt_id: str = ATTEMPT, until: int = 0) -> None:
        self.delivery.ask(pb.Collect(attempt_id=attempt_id, until=until))

    async def next(self) -> pb.Remains:
        async with asyncio.timeout(10):
            while (piece := self.delivery.take()) is None:
                await self.fresh.wait()
                self.fresh.clear()
        return piece

    async def rest(self) -> list[pb.Remains]:
        pieces = [await self.next()]
        while not (pieces[-1].last or pieces[-1].missing):
            pieces.append(await self.next())
        return pieces

    async def settled(self) -> None:
        """Time enough for whatever more would come: that nothing does can't be waited for."""
        for _ in range(200):
            await asyncio.sleep(0.001)


@pytest.fixture
def remains(tmp_path: Path) -> Remains:
    remains = Remains(tmp_path / "remains")
    remains.keep(tmp_path / "w", ATTEMPT, {"noise": os.urandom(10 * PIECE_BYTES)})
    return remains


@pytest.fixture
async def stream(remains: Remains) -> AsyncIterator[Stream]:
    stream = Stream(remains)
    yield stream
    stream.delivery.reset()


def _archive(pieces: list[pb.Remains]) -> bytes:
    assert [piece.offset for piece in pieces] == [
        sum(len(before.data) for before in pieces[:index]) for index in range(len(pieces))
    ]
    return b"".join(piece.data for piece in pieces)


async def test_the_archive_comes_in_order_and_ends(stream: Stream, remains: Remains) -> None:
    """Offset by offset; the last piece says so."""
    stream.ask()
    assert _archive(await stream.rest()) == b"".join(remains.pieces(ATTEMPT))


async def test_asking_again_meanwhile_changes_nothing(stream: Stream, remains: Remains) -> None:
    """One transfer; once it is over the next one may begin."""
    stream.ask()
    first = await stream.next()
    stream.ask()
    stream.ask()
    assert _archive([first, *await stream.rest()]) == b"".join(remains.pieces(ATTEMPT))
    await stream.settled()
    assert stream.delivery.take() is None
    stream.ask()
    assert (await stream.next()).offset == 0


async def test_one_piece_waits_to_be_taken(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the stream is, memory holds one, and another that is being packed."""
    read = 0
    real = Remains.pieces

    def counting(self: Remains, attempt_id: str) -> object:
        nonlocal read
        for piece in real(self, attempt_id):
            read += 1
            yield piece

    monkeypatch.setattr(Remains, "pieces", counting)
    stream.ask()
    await stream.next()
    await stream.settled()
    assert read <= 3


async def test_it_goes_no_further_than_allowed(stream: Stream) -> None:
    """Until the controller raises the bound."""
    stream.ask(until=2 * PIECE_BYTES)
    assert [(await stream.next()).offset for _ in range(2)] == [0, PIECE_BYTES]
    await stream.settled()
    assert stream.delivery.take() is None
    stream.ask(until=3 * PIECE_BYTES)
    assert (await stream.next()).offset == 2 * PIECE_BYTES
    stream.ask(until=100 * PIECE_BYTES)
    assert (await stream.rest())[-1].last


async def test_a_lower_bound_begins_anew(stream: Stream, remains: Remains) -> None:
    """Whoever received it has lost the beginning."""
    stream.ask(until=3 * PIECE_BYTES)
    for _ in range(3):
        await stream.next()
    stream.ask(until=PIECE_BYTES)
    first = await stream.next()
    assert first.offset == 0
    stream.ask(until=100 * PIECE_BYTES)
    assert _archive([first, *await stream.rest()]) == b"".join(remains.pieces(ATTEMPT))


async def test_waiting_in_vain_ends_and_the_next_one_comes(
    stream: Stream, remains: Remains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that lost interest holds up no other attempt."""
    monkeypatch.setattr(module, "CREDIT_S", 0.05)
    remains.keep(tmp_path / "v", "b.1", {"log": b"x"})
    stream.ask(until=1)
    stream.ask("b.1")
    assert (await stream.next()).attempt_id == ATTEMPT
    assert {piece.attempt_id for piece in await stream.rest()} == {"b.1"}


async def test_what_is_not_kept_is_said_so(stream: Stream) -> None:
    """In words, also for ids that are none."""
    for asked in ("unknown", "../../etc/passwd"):
        stream.ask(asked)
        [answer] = await stream.rest()
        assert (answer.attempt_id, answer.data) == (asked, b"")
        assert "keeps nothing" in answer.missing


async def test_a_new_stream_begins_anew(stream: Stream) -> None:
    """What was asked for on the former one is forgotten."""
    stream.ask()
    await stream.next()
    stream.delivery.reset()
    await stream.settled()
    assert stream.delivery.take() is None
    stream.ask()
    assert (await stream.next()).offset == 0


async def test_only_so_many_stand_in_line(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller repeats what it wants."""
    monkeypatch.setattr(module, "MOST_ASKED", 2)
    for asked in ("a", "b", "c"):
        stream.ask(asked)
    assert [(await stream.next()).attempt_id for _ in range(2)] == ["a", "b"]
    await stream.settled()
    assert stream.delivery.take() is None


async def test_a_fault_is_an_answer_too(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what can't be read."""

    def broken(self: Remains, attempt_id: str) -> object:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(Remains, "pieces", broken)
    stream.ask()
    [answer] = await stream.rest()
    assert "no such luck" in answer.missing
