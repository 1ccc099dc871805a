"""The controller's own store as the contract of object stores sees it: a real controller, looked at from behind."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select

from agent.storage import ObjectStore
from agent.storage.deposits import Deposited, DepositStore, Source
from agent.transfers import Transfers
from controller.archive import IDENTITY
from controller.deposits import SEGMENT_BYTES
from controller.server import running
from controller.settings import Settings
from controller.store.tables import DEFAULT_TENANT, deposits
from controller.store.writer import Store
from mediactl.channel import Credentials
from presets.uris import CONTROLLER, object_uri
from tests.fakes.object_stores import HASTY, Crash
from tests.fakes.running import QUICK
from tests.fakes.stored import add, attempt, job

FOLDER = "results/t/"
ATTEMPTS = (
    *("attempt-1", "attempt-2", *(f"a-{number}" for number in range(6)), "a" * 36),
    "0198c1d2-7a7e-7000-8000-000000000000",
)
"""Those that the controller knows and that have not ended."""


class _Stopped(Exception):
    pass


class _Failing(Transfers):
    """Transfers that stop before, or just after, the `at`-th thing that they do."""

    at: int | None = None
    done = 0

    def _step(self) -> None:
        self.done += 1
        if self.at is not None and self.done > self.at:
            raise Crash

    async def send(self, uri: str, made: Deposited, attempt_id: str, source: Source) -> str:
        self._step()

        async def portions(offset: int) -> AsyncIterator[bytes]:
            async for data in source(offset):
                for start in range(0, len(data), 64 * 1024):
                    yield data[start : start + 64 * 1024]
                    if self.at is not None and self.done >= self.at:
                        # The library would take Crash itself for the end of the call.
                        raise _Stopped
                    self._step()

        try:
            upload = await super().send(uri, made, attempt_id, portions)
        except _Stopped:
            self.done += 1
            raise Crash from None
        self._step()
        return upload

    async def finish(self, upload: str, *, overwrite: bool) -> None:
        self._step()
        await super().finish(upload, overwrite=overwrite)
        self._step()

    async def discard(self, upload: str) -> None:
        self._step()
        await super().discard(upload)


class DepositDriver:
    """What is below `results/t/`; `folder` is the controller's data directory."""

    def __init__(self, address: str, folder: Path, store: Store) -> None:
        self._address = address
        self._blobs = folder / "store"
        self._engine = store.database.reader_engine(1)
        self._writer = store.database.writer_engine()
        self._transfers: list[_Failing] = []
        self._number = 0
        self.store: ObjectStore = self.another()

    def another(self) -> ObjectStore:
        self._transfers.append(_Failing(self._address, Credentials()))
        return DepositStore(self._transfers[-1], patience=HASTY)

    async def close(self) -> None:
        for transfers in self._transfers:
            await transfers.close()
        self._engine.dispose()
        self._writer.dispose()

    def uri(self, name: str) -> str:
        return object_uri(CONTROLLER, FOLDER + name)

    def put(self, name: str, content: bytes) -> None:
        self._number += 1
        key = f"deposits/{DEFAULT_TENANT}/put{self._number}"
        (self._blobs / key).mkdir(parents=True)
        for start in range(0, len(content), SEGMENT_BYTES):
            part = content[start : start + SEGMENT_BYTES]
            (self._blobs / key / f"{start // SEGMENT_BYTES:08d}.{len(part)}").write_bytes(part)
        row = {
            "tenant": DEFAULT_TENANT,
            "id": f"put{self._number}",
            "path": FOLDER + name,
            "size_bytes": len(content),
            "received_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "whole": True,
            "job_id": "",
            "attempt_id": "",
            "created_us": 0,
            "expires_us": 4 * 10**15,
            "store": (self._blobs / IDENTITY).read_text(),
            "key": key,
        }
        with self._writer.begin() as connection:
            connection.execute(delete(deposits).where(deposits.c.path == row["path"], deposits.c.whole))
            connection.execute(insert(deposits).values(row))

    def _rows(self, *, whole: bool) -> list[Any]:
        with self._engine.begin() as connection:
            return list(connection.execute(select(deposits).where(deposits.c.whole == whole)))

    def get(self, name: str) -> bytes | None:
        for row in self._rows(whole=True):
            if row.path == FOLDER + name:
                numbers = range(-(-row.size_bytes // SEGMENT_BYTES))
                paths = [next((self._blobs / row.key).glob(f"{number:08d}.*")) for number in numbers]
                return b"".join(path.read_bytes() for path in paths)
        return None

    def names(self) -> list[str]:
        return sorted(row.path.removeprefix(FOLDER) for row in self._rows(whole=True))

    def staged(self) -> int:
        return len(self._rows(whole=False))

    @contextmanager
    def crashing(self, at: int) -> Iterator[Callable[[], bool]]:
        first = self._transfers[0]
        first.at, first.done = at, 0
        try:
            yield lambda: first.done > at
        finally:
            first.at = None


@asynccontextmanager
async def deposit_driver(folder: Path) -> AsyncIterator[DepositDriver]:
    """A controller, and the driver that agents have for its store."""
    settings = Settings(data_dir=folder, socket=folder / "c.sock", listen=None, timers=QUICK, log_transitions=False)
    async with running(settings) as this:
        rows = [attempt(1, name) for name in ATTEMPTS]
        await add(this.store, *job(1, "PROCESSING"), *rows)
        driver = DepositDriver(this.addresses[0], folder, this.store)
        try:
            # The controller names its store when it is first used.
            await driver.store.stage(Path(__file__), driver.uri("first"), "attempt-1")
            await driver.store.sweep(driver.uri("first"), "attempt-1")
            yield driver
        finally:
            await driver.close()
