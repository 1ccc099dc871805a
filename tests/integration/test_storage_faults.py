"""Whatever befalls whichever request of a job over S3: it ends with the right content or with the right reason."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.storage import ObjectStore, Staged
from agent.storage.patience import Patience
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.http_faults import Fault, Kind, Plan
from tests.fakes.object_server import ObjectServer
from tests.fakes.object_stores import S3Driver

MEBIBYTE = 1 << 20
TRIES = 4
PATIENCE = Patience(tries=TRIES, first_wait_s=0.001, longest_wait_s=0.01, connect_s=5.0, silence_s=1.0)

#: One part and one range, and several of both.
SMALL, LARGE = 300_001, 11 * MEBIBYTE

#: When they stay, nothing gets through.
FATAL = {Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.SILENT, Kind.ERROR, Kind.SLOW_DOWN, Kind.REDIRECT}


@dataclass
class Place:
    """A bucket with an input that replaced another one; each run publishes under a name of its own."""

    driver: S3Driver
    proxy: FaultProxy
    folder: Path
    versions: dict[str, bytes]
    other: ObjectStore
    runs: int = 0

    async def run(self, plan: Plan, *, before: bytes | None = None) -> Reason | None:
        """Fetches, stages and completes under the plan, and checks all that must hold whatever it is. None: it is done.

        With ``before``, that is to be overwritten.
        """
        self.runs += 1
        name, into = f"run-{self.runs}/out.wav", self.folder / "in.wav"
        into.unlink(missing_ok=True)
        if before is not None:
            self.driver.put(name, before)
        self.proxy.restart(plan)
        try:
            failure, staged, content = await self._try(self.driver.store, name, into, overwrite=before is not None)
        except Exception as error:
            error.add_note(str(self.proxy))
            raise
        told = f"{self.proxy}\n{failure or 'done'}"
        self.proxy.restart(Plan())

        assert "/elsewhere/" not in told
        if failure is not None:
            assert failure.reason in _reasons(plan, fetched=content is not None), told
        assert self.driver.get(name) in ({content} if failure is None else {before, content}), told
        if staged is not None and failure is not None:
            # What the controller does with a redo record: another agent finishes it.
            finish = self._complete(self.other, name, staged, overwrite=before is not None)
            assert await _succeeds(finish), told
            assert self.driver.get(name) == content, told
        if staged is not None:
            await self.other.discard(staged.staged_uri)
        await self.other.sweep(self.driver.uri(name), "attempt-1")
        assert self.driver.staged() == 0, told
        self.driver.server.client.delete_object(Bucket=self.driver.bucket, Key=name)
        assert self.driver.names() == ["in.wav"], told
        return failure.reason if failure else None

    async def _try(
        self, store: ObjectStore, name: str, into: Path, *, overwrite: bool
    ) -> tuple[MediaFailure | None, Staged | None, bytes | None]:
        """What went wrong, what was staged, and the content of the version that was fetched."""
        staged = content = None
        try:
            identity = await store.fetch(self.driver.uri("in.wav"), into)
            content = self.versions[identity.token]
            assert into.read_bytes() == content
            staged = await store.stage(into, self.driver.uri(name), "attempt-1")
            await self._complete(store, name, staged, overwrite=overwrite)
        except MediaFailure as failure:
            assert content is not None or not into.exists()
            return failure, staged, content
        return None, staged, content

    async def _complete(self, store: ObjectStore, name: str, staged: Staged, *, overwrite: bool) -> None:
        await store.complete(
            self.driver.uri(name), staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=overwrite
        )

    async def requests(self, *, before: bytes | None = None) -> int:
        """How many a run without faults makes."""
        self.proxy.restart(Plan())
        into, name = self.folder / "in.wav", "run-0/out.wav"
        if before is not None:
            self.driver.put(name, before)
        failure, _, _ = await self._try(self.driver.store, name, into, overwrite=before is not None)
        assert failure is None
        made = len(self.proxy.exchanges)
        self.driver.server.client.delete_object(Bucket=self.driver.bucket, Key=name)
        return made


async def _succeeds(work: Awaitable[None]) -> bool:
    try:
        await work
    except MediaFailure:
        return False
    return True


def _reasons(plan: Plan, *, fetched: bool) -> set[Reason]:
    """Why a run may fail under the plan."""
    if not fetched:
        return {Reason.INPUT_UNAVAILABLE}
    # Whoever is sent elsewhere may say that the store is set up wrongly.
    elsewhere = any(fault.kind is Kind.REDIRECT for fault in plan.faults)
    return {Reason.PUBLISH_FAILED} | ({Reason.OUTPUT_UNWRITABLE} if elsewhere else set())


@pytest.fixture
async def place(
    request: pytest.FixtureRequest, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr("agent.storage.s3_uploads.PART_BYTES", 5 * MEBIBYTE)
    monkeypatch.setattr("agent.storage.download.PIECE_BYTES", 4 * MEBIBYTE)
    async with FaultProxy(object_server.address, slow_s=0.3, silence_s=5.0) as proxy:
        driver = S3Driver(object_server, proxy, tmp_path, patience=PATIENCE)
        versions = {}
        client = object_server.connect(proxy.endpoint)
        for seed in ("old", "new"):
            content = random.Random(seed).randbytes(getattr(request, "param", SMALL))  # noqa: S311 - no secret
            # Through the proxy, so that it knows what a read from before the write says.
            await asyncio.to_thread(client.put_object, Bucket=driver.bucket, Key="in.wav", Body=content)
            identity = await driver.store.fetch(driver.uri("in.wav"), tmp_path / "first")
            versions[identity.token] = content
        client.close()
        yield Place(driver, proxy, tmp_path, versions, driver.another())
        driver.close()


async def test_one_fault(place: Place) -> None:
    """Each kind at some requests, once: it costs time, not the job; a redirect is not followed, and may be refused."""
    requests, dice = await place.requests(), random.Random(6)  # noqa: S311 - no secret
    for kind in Kind:
        for at in dice.sample(range(1, requests + 1), 4):
            plan = Plan((Fault(at, kind),))
            reason = await place.run(plan)
            assert reason is None or kind is Kind.REDIRECT, str(plan)


async def test_a_fault_that_stays(place: Place) -> None:
    """Each kind at some request and all later ones: what cannot be mended is a failure after the configured tries."""
    requests, dice = await place.requests(), random.Random(6)  # noqa: S311 - no secret
    for kind in Kind:
        plan = Plan((Fault(dice.randint(1, requests), kind, on=True),))
        reason = await place.run(plan)
        assert reason or kind not in FATAL, str(plan)


async def test_as_often_as_configured(place: Place) -> None:
    """A store that stays overloaded is asked as often as the configured patience says, and no more."""
    place.proxy.restart(Plan((Fault(1, Kind.SLOW_DOWN, on=True),)))
    with pytest.raises(MediaFailure) as caught:
        await place.driver.store.identify(place.driver.uri("in.wav"))
    assert caught.value.reason is Reason.INPUT_UNAVAILABLE
    assert [exchange.status for exchange in place.proxy.exchanges] == [503] * TRIES, str(place.proxy)


async def test_several_faults(place: Place) -> None:
    """Plans drawn by seeds, each with four faults among the requests of a job."""
    requests = await place.requests()
    for seed in range(8):
        await place.run(Plan.drawn(seed, requests=requests, faults=4))


async def test_a_completion_that_nobody_heard_of(place: Place) -> None:
    """Its answer is lost, and the store does not yet show the object to who looks for it: it counts as done."""
    last = await place.requests()
    plan = Plan((Fault(last, Kind.CUT_AFTER), Fault(last + 1, Kind.STALE), Fault(last + 2, Kind.STALE)))
    assert await place.run(plan) is None


@pytest.mark.soak
@pytest.mark.parametrize("on", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("before", [None, b"what was there"], ids=["new", "overwritten"])
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("place", [SMALL, LARGE], ids=["one-part", "several-parts"], indirect=True)
async def test_every_fault_at_every_request(place: Place, kind: Kind, before: bytes | None, on: bool) -> None:
    """The whole product, and a fault that comes once costs no job unless it is a redirect."""
    for at in range(1, await place.requests(before=before) + 1):
        plan = Plan((Fault(at, kind, on),))
        reason = await place.run(plan, before=before)
        assert on or kind is Kind.REDIRECT or reason is None, str(plan)
