"""Sweeping for one stream: everything that is asked for, each once, and nothing that is still held here."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent import sweeping as module
from agent.sweeping import Sweeping
from mediactl.v1 import agent_service_pb2 as pb
from presets.problems import MediaFailure
from presets.reasons import Reason

LEFT, NOTHING, DENIED, DEFECT = "s3://b/left", "s3://b/nothing", "s3://b/denied", "s3://b/defect"


class Store:
    """Stands for all stores of an agent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def store_for(self, uri: str) -> "Store":
        if uri.startswith("none:"):
            raise MediaFailure(Reason.INPUT_UNSUPPORTED_SCHEME, "no such store")
        return self

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        await self.gate.wait()
        self.asked.append((uri, attempt_id))
        if uri == DENIED:
            raise MediaFailure(Reason.PUBLISH_FAILED, "access denied")
        if uri == DEFECT:
            raise RuntimeError("a defect")
        return uri == LEFT


class Stream:
    def __init__(self, store: Any) -> None:
        self.fresh = asyncio.Event()
        self.held = {"held"}
        self.sweeping = Sweeping(store, self.held.__contains__, self.fresh.set)

    def ask(self, attempt_id: str, *uris: str) -> None:
        self.sweeping.ask(pb.Sweep(attempt_id=attempt_id, uris=uris))

    async def next(self) -> pb.Swept:
        async with asyncio.timeout(10):
            while (answer := self.sweeping.take()) is None:
                self.fresh.clear()
                await self.fresh.wait()
        return answer


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def stream(store: Store) -> AsyncIterator[Stream]:
    stream = Stream(store)
    yield stream
    stream.sweeping.reset()


async def test_all_of_it_is_removed(stream: Stream, store: Store) -> None:
    """And what was there is told, to the controller and in the log."""
    with capture_logs() as logs:
        stream.ask("j-1", LEFT, NOTHING)
        assert await stream.next() == pb.Swept(attempt_id="j-1", removed=[LEFT])
        stream.ask("j-2", NOTHING)
        assert await stream.next() == pb.Swept(attempt_id="j-2")
    assert store.asked == [(LEFT, "j-1"), (NOTHING, "j-1"), (NOTHING, "j-2")]
    assert [entry["attempt"] for entry in logs] == ["j-1"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [(DENIED, Reason.PUBLISH_FAILED), (DEFECT, Reason.INTERNAL), ("none://x/y", Reason.INPUT_UNSUPPORTED_SCHEME)],
)
async def test_one_refusal_keeps_nothing_elsewhere(stream: Stream, uri: str, reason: Reason) -> None:
    """What can be removed is, and the answer says that something may be left."""
    with capture_logs():
        stream.ask("j-1", uri, LEFT)
        answer = await stream.next()
    assert list(answer.removed) == [LEFT]
    assert answer.failure.reason == reason
    assert answer.failure.message


async def test_what_is_held_is_left_alone(stream: Stream, store: Store) -> None:
    """Though the controller says that it has ended: it is told to stop first."""
    stream.ask("held", LEFT)
    answer = await stream.next()
    assert "still holds" in answer.failure.message
    assert store.asked == []
    stream.held.clear()
    stream.ask("held", LEFT)
    assert list((await stream.next()).removed) == [LEFT]


async def test_repeats_are_one_and_too_many_are_none(stream: Stream, store: Store) -> None:
    """The controller asks again for what it hears nothing of."""
    store.gate.clear()
    for number in range(module.MOST_AT_ONCE + 5):
        stream.ask(f"j-{number}", NOTHING)
        stream.ask(f"j-{number}", NOTHING)
    await asyncio.sleep(0)
    store.gate.set()
    answers = [(await stream.next()).attempt_id for _ in range(module.MOST_AT_ONCE)]
    assert sorted(answers) == sorted(f"j-{number}" for number in range(module.MOST_AT_ONCE))
    await asyncio.sleep(0)
    assert stream.sweeping.take() is None
    stream.ask("j-0", LEFT)
    assert (await stream.next()).attempt_id == "j-0"


async def test_a_new_stream_begins_anew(stream: Stream, store: Store) -> None:
    """What was asked for on the former one is answered to nobody, and may be asked for again."""
    store.gate.clear()
    stream.ask("j-1", LEFT)
    await asyncio.sleep(0)
    stream.sweeping.reset()
    store.gate.set()
    stream.ask("j-1", LEFT)
    assert (await stream.next()).attempt_id == "j-1"
    await asyncio.sleep(0)
    assert stream.sweeping.take() is None
