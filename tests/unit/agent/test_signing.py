"""Signing for one stream: each request answered once, whatever the stores make of it; nothing of it is logged."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent import signing as module
from agent.signing import Signing
from agent.storage import SignedUrl
from mediactl.v1 import agent_service_pb2 as pb
from presets.problems import MediaFailure
from presets.reasons import Reason


class Store:
    """Signs as it is told; stands for all stores of an agent."""

    def __init__(self) -> None:
        self.work: Callable[[str, int], SignedUrl] = lambda uri, life: SignedUrl(f"https://x/{uri}?life={life}", 1e9)
        self.gate = asyncio.Event()
        self.gate.set()

    def store_for(self, uri: str) -> "Store":
        if uri.startswith("none:"):
            raise MediaFailure(Reason.INPUT_UNSUPPORTED_SCHEME, "no such store")
        return self

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        await self.gate.wait()
        return self.work(uri, lifetime_s)


class Stream:
    def __init__(self, store: Any) -> None:
        self.fresh = asyncio.Event()
        self.signing = Signing(store, self.fresh.set)

    def ask(self, request_id: str, *uris: str) -> None:
        frame = pb.Sign(request_id=request_id, uris=uris)
        frame.lifetime.FromSeconds(60)
        self.signing.ask(frame)

    async def next(self) -> pb.Signed:
        async with asyncio.timeout(10):
            while (answer := self.signing.take()) is None:
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
    stream.signing.reset()


async def test_each_uri_has_its_answer(stream: Stream, store: Store) -> None:
    """A URL with its end, one that has none, or why there is none, whatever went wrong."""

    def work(uri: str, lifetime_s: int) -> SignedUrl:
        match uri:
            case "s3://b/denied":
                raise MediaFailure(Reason.ARTIFACT_UNAVAILABLE, "no credentials")
            case "s3://b/defect?signature=5ec7e7":
                raise RuntimeError("https://x?signature=5ec7e7")
            case _:
                return SignedUrl(f"https://x/{lifetime_s}", None if uri == "https://x" else 1e9)

    store.work = work
    uris = ["s3://b/a", "https://x", "s3://b/denied", "none://b/a", "s3://b/defect?signature=5ec7e7"]
    with capture_logs() as logs:
        stream.ask("r1", *uris)
        answer = await stream.next()
    assert answer.request_id == "r1"
    assert [one.uri for one in answer.uris] == uris
    assert [one.url for one in answer.uris] == ["https://x/60", "https://x/60", "", "", ""]
    assert [one.expire_time.seconds for one in answer.uris] == [1_000_000_000, 0, 0, 0, 0]
    assert not answer.uris[1].HasField("expire_time")
    reasons = [one.failure.reason for one in answer.uris]
    assert reasons == ["", "", "ARTIFACT_UNAVAILABLE", "ARTIFACT_UNAVAILABLE", "INTERNAL"]
    assert [entry["error"] for entry in logs] == ["RuntimeError"]
    assert "5ec7e7" not in str(logs) + answer.uris[4].failure.message


async def test_requests_do_not_wait_for_one_another(stream: Stream, store: Store) -> None:
    """And no more than so many are taken on at once."""
    store.gate.clear()
    for number in range(module.MOST_AT_ONCE + 5):
        stream.ask(f"r{number}", "s3://b/a")
    await asyncio.sleep(0)
    assert stream.signing.take() is None
    store.gate.set()
    answers = {(await stream.next()).request_id for _ in range(module.MOST_AT_ONCE)}
    assert answers == {f"r{number}" for number in range(module.MOST_AT_ONCE)}
    await asyncio.sleep(0)
    stream.ask("again", "s3://b/a")
    assert (await stream.next()).request_id == "again"


async def test_a_new_stream_begins_anew(stream: Stream, store: Store) -> None:
    """What was asked for on the former one is answered to nobody."""
    stream.ask("r1", "s3://b/a")
    async with asyncio.timeout(10):
        await stream.fresh.wait()
    store.gate.clear()
    stream.ask("r2", "s3://b/a")
    stream.signing.reset()
    store.gate.set()
    stream.ask("r3", "s3://b/a")
    assert (await stream.next()).request_id == "r3"
    assert stream.signing.take() is None
