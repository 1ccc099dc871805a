"""What is deposited in the controller's own store: bytes there, entries in the database.

A deposit is cut into segments, each a blob of its own (`deposits/TENANT/ID/NUMBER.LENGTH`), so that any controller that
has the store goes on where another one stopped. The last one grows while bytes arrive: it is written anew, longer, and
counted in the database only then. Nothing that breaks off costs more than the bytes of `FLUSH_S`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog
from obstore.exceptions import BaseError

from controller.archive import Archive, ArchiveMissing
from controller.settings import Depositing
from controller.store.deposits import (
    Advance,
    AttemptOver,
    BeginUpload,
    DepositNotFound,
    DropDeposit,
    DropDue,
    FinishUpload,
    PathTaken,
    QuotaExceeded,
    at,
    find,
    known_keys,
    uri_of,
)
from controller.store.queries import Record
from controller.store.tables import Tenant
from controller.store.writer import Store
from mediactl.errors import MediactlError
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from presets.uris import CONTROLLER, object_uri

log = structlog.get_logger()

SEGMENT_BYTES = 4 * 2**20
PIECE_BYTES = 2**20
FLUSH_S = 3.0
"""How old bytes become in memory."""
MOST_AT_ONCE = 32
"""Uploads that this controller takes; others wait. Each has a segment in memory."""
TELL_BYTES = 64 * 2**20
DROP_AT_ONCE = 200
_FOLDER = "deposits/"
_KEY_PARTS = 3


class Deposits:
    """All that a controller does with them. Methods raise MediactlError, InvalidRequest."""

    def __init__(
        self,
        store: Store,
        archive: Archive | None,
        depositing: Depositing,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._archive_or_none = archive
        self._depositing = depositing
        self._clock = clock
        self._identity = ""
        self._gate = asyncio.Semaphore(MOST_AT_ONCE)

    @property
    def _lifetime_us(self) -> int:
        return int(self._depositing.lifetime_s * 1e6)

    @property
    def _archive(self) -> Archive:
        if self._archive_or_none is None:
            raise MediactlError(
                Reason.DEPOSITS_OFF, "this controller takes no files: it has no --store to put them into"
            )
        return self._archive_or_none

    async def begin(
        self, tenant: Tenant, *, name: str, path: str, attempt_id: str, size_bytes: int, sha256: str
    ) -> Record:
        """The upload to go on with, for a `name` or for the `path` of an attempt's output."""
        if not self._depositing.quota_bytes:
            raise MediactlError(
                Reason.DEPOSITS_OFF,
                "this controller takes no files (--deposit-quota 0); name those that agents have, by file: URIs",
            )
        command = BeginUpload(
            tenant=tenant,
            new_id=secrets.token_hex(8),
            name=name,
            path=path,
            attempt_id=attempt_id,
            size_bytes=size_bytes,
            sha256=sha256,
            store=await self._here(),
            quota_bytes=self._depositing.quota_bytes,
            lifetime_us=self._lifetime_us,
        )
        try:
            begun = await self._store.execute(command)
        except AttemptOver:
            raise MediactlError(Reason.PUBLISH_REFUSED, "the attempt has ended: it may deposit nothing") from None
        except QuotaExceeded as full:
            raise MediactlError(
                Reason.QUOTA_EXCEEDED,
                f"no room for {full.size_bytes} bytes: {full.used_bytes} of {full.quota_bytes} are taken "
                "(--deposit-quota); what is deposited is deleted when its time has come (--deposit-lifetime)",
            ) from None
        await self._remove(begun.dropped)
        return begun.row

    async def upload(self, tenant: Tenant, deposit_id: str) -> Record:
        """How far an upload is that can go on here, or what has become of it."""
        row = await self._find(tenant, deposit_id)
        return row if row.whole else await self._own(row)

    async def _find(self, tenant: Tenant, deposit_id: str) -> Record:
        with _found(f"there is no upload {deposit_id}, or it has expired"):
            return await self._store.read(find, tenant, deposit_id)

    async def at(self, tenant: Tenant, path: str) -> Record:
        """What is whole under a path."""
        with _found(f"nothing is deposited as {object_uri(CONTROLLER, path)}, or it has expired"):
            return await self._store.read(at, tenant, path)

    async def extend(self, tenant: Tenant, deposit_id: str, pieces: AsyncIterator[tuple[int, bytes]]) -> Record:
        """Take pieces, each with its offset, as long as each follows what is there; the upload as it is then."""
        async with self._gate:
            row = await self.upload(tenant, deposit_id)
            if not row.whole:
                with _reaching():
                    growing = _Growing(self._store, self._archive, row, self._lifetime_us, self._clock)
                    if await growing.recall():
                        try:
                            await growing.take(pieces)
                        finally:
                            # Also of a call that was cut off: what came is worth keeping.
                            await asyncio.shield(growing.flush())
        return await self._find(tenant, deposit_id)

    async def finish(self, tenant: Tenant, deposit_id: str, *, overwrite: bool) -> AsyncIterator[int | Record]:
        """Compare what the store holds with what was announced, telling how far it is; at last the whole deposit."""
        row = await self.upload(tenant, deposit_id)
        if row.whole:
            yield row
            return
        if row.received_bytes < row.size_bytes:
            told = f"{row.received_bytes} of {row.size_bytes} bytes have arrived: send the rest first"
            raise InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "upload_id", told))
        digest, verified = hashlib.sha256(), 0
        async for data in self.read(row):
            await asyncio.to_thread(digest.update, data)
            verified += len(data)
            if verified % TELL_BYTES < len(data):
                yield verified
        if digest.hexdigest() != row.sha256:
            await self.drop(DropDeposit(tenant, deposit_id))
            raise MediactlError(
                Reason.UPLOAD_CORRUPT,
                f"what arrived of {uri_of(row)} has the SHA-256 {digest.hexdigest()}, and {row.sha256} was announced: "
                "the file was changed meanwhile, or spoilt on its way; upload it again",
            )
        try:
            with _found("the upload was deleted meanwhile"):
                begun = await self._store.execute(FinishUpload(tenant, deposit_id, overwrite, self._lifetime_us))
        except PathTaken:
            raise MediactlError(
                Reason.OUTPUT_EXISTS, f"{uri_of(row)} exists; ask for overwriting to replace it"
            ) from None
        await self._remove(begun.dropped)
        yield begun.row

    async def read(self, row: Record, offset: int = 0, length: int = 0) -> AsyncIterator[bytes]:
        """Bytes from `offset` on, `length` or with 0 all, in pieces of at most `PIECE_BYTES`."""
        await self._own(row)
        end = min(row.size_bytes, offset + length) if length else row.size_bytes
        with _reaching():
            while offset < end:
                number, skipped = divmod(offset, SEGMENT_BYTES)
                size = min(SEGMENT_BYTES, row.size_bytes - number * SEGMENT_BYTES)
                async for data in self._archive.get(_key(row, number, size), skipped, PIECE_BYTES):
                    wanted = data[: end - offset]
                    offset += len(wanted)
                    if wanted:
                        yield wanted

    async def drop(self, command: DropDeposit) -> bool:
        """Delete what the command says; whether there was anything."""
        keys = await self._store.execute(command)
        await self._remove(keys)
        return bool(keys)

    async def sweep(self) -> None:
        """Delete what has had its time."""
        if self._archive_or_none is None:
            return
        here = await self._here()
        while gone := await self._store.execute(DropDue(here, DROP_AT_ONCE)):
            await self._remove(row.key for row in gone if row.store == here)
            for row in gone:
                log.info(
                    "deleted a deposit" if row.whole else "deleted an unfinished upload",
                    uri=uri_of(row),
                    bytes=row.size_bytes,
                    job_id=row.job_id,
                )

    async def remove_strays(self, now_us: int) -> int:
        """Delete blobs that the database knows nothing of: a crash came between the two. Returns how many."""
        archive = self._archive
        removed = 0
        async for old in archive.older(_FOLDER, now_us):
            key_of = {blob: "/".join(blob.split("/")[:_KEY_PARTS]) for blob in old}
            known = await self._store.read(known_keys, set(key_of.values()))
            strays = [blob for blob, key in key_of.items() if key not in known]
            await archive.delete(strays)
            removed += len(strays)
        return removed + await archive.remove_unfinished(_FOLDER, now_us)

    async def _remove(self, keys: Iterable[str]) -> None:
        with _reaching():
            for key in keys:
                await self._archive.delete_folder(key)

    async def _here(self) -> str:
        if not self._identity:
            with _reaching():
                self._identity = await self._archive.identity()
        return self._identity

    async def _own(self, row: Record) -> Record:
        if row.store != await self._here():
            raise MediactlError(
                Reason.DEPOSIT_ELSEWHERE,
                f"{uri_of(row)} is in the store of another controller: with a directory as --store only the controller "
                "that has it serves what was deposited there; name that one, or give all of them one bucket",
            )
        return row


class _Growing:
    """An upload to which bytes are added: in memory the segment that it ends in, from that segment's start."""

    def __init__(
        self, store: Store, archive: Archive, row: Record, lifetime_us: int, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._archive = archive
        self._row = row
        self._lifetime_us = lifetime_us
        self._clock = clock
        self._durable: int = row.received_bytes
        self._segment = bytearray()
        self._flushed_at = clock()

    @property
    def _number(self) -> int:
        return int(self._durable // SEGMENT_BYTES)

    @property
    def _position(self) -> int:
        return self._number * SEGMENT_BYTES + len(self._segment)

    async def recall(self) -> bool:
        """Read what there is of the last segment. False: another call has gone on meanwhile."""
        if size := self._durable % SEGMENT_BYTES:
            try:
                async for data in self._archive.get(_key(self._row, self._number, size), 0, PIECE_BYTES):
                    self._segment += data
            except ArchiveMissing:
                now = await self._store.read(find, Tenant(self._row.tenant), self._row.id)
                if now.received_bytes == self._durable:
                    raise
                return False
        return True

    async def take(self, pieces: AsyncIterator[tuple[int, bytes]]) -> None:
        async for offset, data in pieces:
            if offset > self._position:
                return
            fresh = memoryview(data)[self._position - offset :]
            if self._position + len(fresh) > self._row.size_bytes:
                told = f"the file was announced with {self._row.size_bytes} bytes, and this goes beyond"
                raise InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "data", told))
            while fresh:
                room = SEGMENT_BYTES - len(self._segment)
                self._segment += fresh[:room]
                fresh = fresh[room:]
                full = len(self._segment) == SEGMENT_BYTES
                if (full or self._clock() - self._flushed_at >= FLUSH_S) and not await self.flush():
                    return

    async def flush(self) -> bool:
        """Make durable what is in memory. False: another call has gone on meanwhile."""
        row, before, number, size = self._row, self._durable, self._number, len(self._segment)
        after = number * SEGMENT_BYTES + size
        if after == before:
            return True
        await self._archive.write(_key(row, number, size), bytes(self._segment))
        if not await self._store.execute(Advance(row.tenant, row.id, before, after, self._lifetime_us)):
            # Not deleted: the other one may have written the very same.
            self._segment.clear()
            self._durable = number * SEGMENT_BYTES
            return False
        if shorter := before % SEGMENT_BYTES:
            await self._archive.delete([_key(row, number, shorter)])
        self._durable = after
        if size == SEGMENT_BYTES:
            self._segment.clear()
        self._flushed_at = self._clock()
        return True


def _key(row: Record, number: int, size: int) -> str:
    return f"{row.key}/{number:08d}.{size}"


@contextmanager
def _found(otherwise: str) -> Iterator[None]:
    try:
        yield
    except DepositNotFound:
        raise MediactlError(Reason.DEPOSIT_NOT_FOUND, otherwise) from None


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except ArchiveMissing:
        raise MediactlError(
            Reason.DEPOSIT_NOT_FOUND, "its bytes are gone from the controller's own store: upload it again"
        ) from None
    except (BaseError, OSError) as error:
        log.warning("the controller's own store fails", message=str(error).partition("\n")[0][:400])
        raise MediactlError(
            Reason.STORE_UNAVAILABLE, "the controller's own store does not answer or is full; its log says more"
        ) from error
