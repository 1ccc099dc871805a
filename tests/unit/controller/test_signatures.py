"""Which agents are asked for URLs, for how long, and what becomes of those that get none."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from controller.core.liveness import Timers
from controller.exchange import Exchange
from controller.rpc import asked
from controller.sessions import Session, Sessions
from controller.signatures import Signatures
from controller.store.topics import DISPATCH, Topics
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2, job_pb2, job_service_pb2
from presets.problems import InvalidRequest

IN_S3, IN_OTHER, AS_FILE = "s3://bucket/out/a.m4a", "archive://b/c.m4a", "file:///media/a.m4a"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """Agents of this controller; `answers` of each says what it makes of a URI."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.topics = Topics()
        self.sessions = Sessions(self.topics, Timers(1.0, 10.0, 60.0))
        self.signatures = Signatures(self.sessions, self.topics, patience_s=0.4)
        self.asked: list[tuple[str, list[str]]] = []
        self.news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def agent(
        self,
        name: str,
        stores: Iterable[str],
        answer: Callable[[str], pb.SignedUri] | None,
        features: Iterable[str] = ("sign",),
    ) -> Session:
        hello = pb.Hello(
            agent_id=name, name=name, capabilities=fleet_service_pb2.Capabilities(stores=stores), features=features
        )
        session = Session(Exchange(hello, lambda: 0.0), self.clock)
        self.sessions.add(session)
        self._tasks.append(asyncio.create_task(self._live(name, session, answer)))
        return session

    async def _live(self, name: str, session: Session, answer: Callable[[str], pb.SignedUri] | None) -> None:
        while frames := list(await session.frames()):
            for frame in frames:
                assert frame.sign.lifetime.seconds == 60
                self.asked.append((name, list(frame.sign.uris)))
                self.news.set()
                if answer is not None:
                    uris = [answer(uri) for uri in frame.sign.uris]
                    self.signatures.hear(session, pb.Signed(request_id=frame.sign.request_id, uris=uris))

    async def sign(self, *uris: str) -> list[job_service_pb2.SignedArtifact]:
        artifacts = [job_pb2.Artifact(name=f"n{index}", uri=uri) for index, uri in enumerate(uris)]
        signed = await self.signatures.sign(artifacts, 60)
        assert [(one.name, one.uri) for one in signed] == [(one.name, one.uri) for one in artifacts]
        assert all(bool(one.url) != one.HasField("failure") for one in signed)
        return signed

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


@pytest.fixture
async def fleet() -> Any:
    fleet = Fleet()
    yield fleet
    fleet.close()


def good(uri: str) -> pb.SignedUri:
    return pb.SignedUri(uri=uri, url=f"https://host/{uri}?signature=1")


def poor(uri: str) -> pb.SignedUri:
    failure = job_pb2.Failure(reason="ARTIFACT_UNAVAILABLE", message="no credentials")
    return pb.SignedUri(uri=uri, failure=failure)


async def test_the_agent_that_reaches_it_signs_it(fleet: Fleet) -> None:
    """Others are not asked; each is asked only for what it reaches; what lies in no store is refused."""
    fleet.agent("far", ["s3://other/"], good)
    fleet.agent("near", ["s3://bucket/out/"], good)
    fleet.agent("archivist", ["archive://"], good)
    signed = await fleet.sign(IN_S3, AS_FILE, IN_OTHER, "no uri")
    assert [one.url for one in signed] == [good(IN_S3).url, "", good(IN_OTHER).url, ""]
    assert sorted(fleet.asked) == [("archivist", [IN_OTHER]), ("near", [IN_S3])]
    assert [one.failure.reason for one in signed] == ["", "ARTIFACT_UNAVAILABLE", "", "ARTIFACT_UNAVAILABLE"]
    assert "has no URL" in signed[1].failure.message


async def test_where_one_cannot_another_does(fleet: Fleet) -> None:
    """Those heard of last come first; one that refuses and one that says nothing hold up only for their share."""
    fleet.agent("rich", ["s3://", "archive://"], good)
    for heard_at, name, answer in ((1.0, "poor", poor), (2.0, "wrong", lambda _: good("another")), (3.0, "mute", None)):
        fleet.clock.now = heard_at
        fleet.agent(name, ["s3://"], answer)
    [one, other] = await fleet.sign(IN_S3, IN_OTHER)
    assert (one.url, other.url) == (good(IN_S3).url, good(IN_OTHER).url)
    assert fleet.asked == [("mute", [IN_S3]), ("wrong", [IN_S3]), ("poor", [IN_S3]), ("rich", [IN_OTHER, IN_S3])]


async def test_silent_agents_come_last(fleet: Fleet) -> None:
    """Whoever is UNREACHABLE is asked only when all others could not."""
    silent = fleet.agent("silent", ["s3://"], good)
    fleet.clock.now = 11.0
    fleet.agent("poor", ["s3://"], poor)
    [one] = await fleet.sign(IN_S3)
    assert one.url
    assert [name for name, _ in fleet.asked] == ["poor", silent.agent_id]


async def test_without_an_agent_the_store_is_named(fleet: Fleet) -> None:
    """After a while where none is connected at all; an agent whose version can't sign is never asked, and named."""
    [one] = await fleet.sign(IN_S3)
    assert one.failure.reason == "NO_CAPABLE_AGENT"
    assert "store 's3'" in one.failure.message
    fleet.agent("old", ["s3://"], good, features=("remains", "bundles"))
    [one] = await fleet.sign(IN_S3)
    assert one.failure.reason == "NO_CAPABLE_AGENT"
    assert "only old reach" in one.failure.message
    assert fleet.asked == []


async def test_just_after_a_start_agents_are_waited_for(fleet: Fleet) -> None:
    """The first that connects answers."""
    fleet.signatures = Signatures(fleet.sessions, fleet.topics, patience_s=1000.0)
    signing = asyncio.create_task(fleet.sign(IN_S3))
    await asyncio.sleep(0)
    fleet.agent("near", ["s3://"], good)
    fleet.topics.publish([DISPATCH])
    async with asyncio.timeout(5):
        [one] = await signing
    assert one.url


async def test_no_answer_is_a_failure_in_time(fleet: Fleet) -> None:
    """And one that comes afterwards, or from elsewhere, is nobody's."""
    session = fleet.agent("mute", ["s3://"], None)
    async with asyncio.timeout(5):
        [one] = await fleet.sign(IN_S3)
    assert one.failure.reason == "ARTIFACT_UNAVAILABLE"
    assert "agent mute gave no URL" in one.failure.message
    fleet.signatures.hear(session, pb.Signed(request_id="unknown", uris=[good(IN_S3)]))


async def test_an_agent_cannot_answer_for_another(fleet: Fleet) -> None:
    """Even with the request's id."""
    stranger = fleet.agent("stranger", [], None)

    def elsewhere(uri: str) -> pb.SignedUri:
        for request_id in fleet.signatures._asked:
            fleet.signatures.hear(stranger, pb.Signed(request_id=request_id, uris=[good("forged")]))
        return good(uri)

    fleet.agent("near", ["s3://"], elsewhere)
    [one] = await fleet.sign(IN_S3)
    assert one.url == good(IN_S3).url


async def test_a_stream_that_ends_is_waited_for_no_longer(fleet: Fleet) -> None:
    """The next agent's turn."""
    fleet.signatures = Signatures(fleet.sessions, fleet.topics, patience_s=1000.0)
    mute = fleet.agent("mute", ["s3://"], None)
    signing = asyncio.create_task(fleet.sign(IN_S3))
    async with asyncio.timeout(5):
        await fleet.news.wait()
        fleet.signatures.leave(mute)
        [one] = await signing
    assert one.failure.reason == "ARTIFACT_UNAVAILABLE"


@pytest.mark.parametrize(("seconds", "nanos"), [(0, 0), (-1, 0), (1, 1), (604_801, 0), (2**50, 0), (0, -5)])
def test_lifetimes_that_no_store_signs_are_refused(seconds: int, nanos: int) -> None:
    """Whole seconds, 1 to 7 days; an hour where nothing is said."""
    request = job_service_pb2.SignArtifactsRequest()
    assert asked.lifetime_s(request) == 3600
    request.lifetime.seconds, request.lifetime.nanos = seconds, nanos
    with pytest.raises(InvalidRequest, match="lifetime"):
        asked.lifetime_s(request)
    request.lifetime.seconds, request.lifetime.nanos = 604_800, 0
    assert asked.lifetime_s(request) == 604_800
