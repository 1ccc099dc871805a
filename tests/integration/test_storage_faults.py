"""Whatever befalls whichever request of fetching, staging and completing over S3: the right content or the right reason."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
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
        failure, staged, content = await self._try(self.driver.store, name, into, overwrite=before is not None)
        told = str(self.proxy)
        assert all(not exchange.path.startswith("/elsewhere") for exchange in self.proxy.exchanges), told
        self.befell = self.proxy.befell
        self.proxy.restart(Plan())

        if failure is None:
            assert self.driver.get(name) == content, told
        else:
            assert failure.reason is (Reason.PUBLISH_FAILED if content else Reason.INPUT_UNAVAILABLE), (failure, told)
            assert self.driver.get(name) in {before, content}, told
        if staged is not None and failure is not None:
            # What the controller does with a redo record: another agent finishes it.
            await self._complete(self.other, name, staged, overwrite=before is not None)
            assert self.driver.get(name) == content, told
        others = {key for key in self.driver.names() if not key.startswith("run-")}
        assert others == {"in.wav"}, told
        assert [key for key in self.driver.names() if key.startswith(f"run-{self.runs}/")] in ([], [name]), told
        if staged is not None:
            await self.other.discard(staged.staged_uri)
        await self.other.sweep(self.driver.uri(name), "attempt-1")
        assert self.driver.staged() == 0, told
        self.driver.server.client.delete_object(Bucket=self.driver.bucket, Key=name)
        return failure.reason if failure else None

    async def _try(
        self, store: ObjectStore, name: str, into: Path, *, overwrite: bool
    ) -> tuple[MediaFailure | None, Staged | None, bytes | None]:
        """What went wrong, what was staged, and the content of the version that was fetched."""
        staged = content = None
        try:
            identity = await store.fetch(self.driver.uri("in.wav"), into)
            content = self.versions[identity.token]
            assert into.read_bytes() == content, str(self.proxy)
            staged = await store.stage(into, self.driver.uri(name), "attempt-1")
            await self._complete(store, name, staged, overwrite=overwrite)
        except MediaFailure as failure:
            assert content is not None or not into.exists(), str(self.proxy)
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
        self.driver.server.client.delete_object(Bucket=self.driver.bucket, Key=name)
        return len(self.proxy.exchanges)


@pytest.fixture(params=[SMALL, LARGE], ids=["one-part", "several-parts"])
async def place(
    request: pytest.FixtureRequest, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr("agent.storage.s3.PART_BYTES", 5 * MEBIBYTE)
    monkeypatch.setattr("agent.storage.download.PIECE_BYTES", 4 * MEBIBYTE)
    async with FaultProxy(object_server.address, slow_s=0.3, silence_s=5.0) as proxy:
        driver = S3Driver(object_server, proxy, tmp_path, patience=PATIENCE)
        versions = {}
        client = object_server.connect(proxy.endpoint)
        for seed in ("old", "new"):
            content = random.Random(seed).randbytes(request.param)  # noqa: S311 - no secret
            # Through the proxy, so that it knows what a read from before the write says.
            await asyncio.to_thread(client.put_object, Bucket=driver.bucket, Key="in.wav", Body=content)
            identity = await driver.store.fetch(driver.uri("in.wav"), tmp_path / "first")
            versions[identity.token] = content
        client.close()
        yield Place(driver, proxy, tmp_path, versions, driver.another())


async def test_explore(place: Place) -> None:
    import collections, os, time
    n = await place.requests()
    print("N", n, flush=True)
    kinds = [Kind[k] for k in os.environ.get("KINDS", " ".join(k.name for k in Kind)).split()]
    for on in [bool(int(x)) for x in os.environ.get("ON", "01")]:
        for kind in kinds:
            row=[]
            began=time.monotonic()
            for at in range(1, n + 1):
                try:
                    r = await place.run(Plan((Fault(at, kind, on),)))
                    row.append((str(r) if r else "ok") + ("" if place.befell else "-"))
                except AssertionError as error:
                    row.append("FAIL"); print("FAILED", on, kind, at, str(error)[:3500])
                except Exception as error:
                    row.append("EXC"); print("EXC", on, kind, at, repr(error)[:600])
                for k, u in place.driver.server.uploads(place.driver.bucket):
                    place.driver.server.client.abort_multipart_upload(Bucket=place.driver.bucket, Key=k, UploadId=u)
            print("ROW", on, kind.name, row, round(time.monotonic()-began, 1), flush=True)
