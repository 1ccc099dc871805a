"""The controller's own store, a directory or a bucket: whole logs, one blob for each ended attempt, remains, deposits.

A log is gzip: a line of JSON about the whole (`format`, `attempt`), then for every chunk, in the order of its
arrival, a line of JSON (`stream`, `sequence`, `size`), its bytes as they are, and a newline. `zcat` shows a log.

Blobs are written before the database forgets anything, each under a name of its own: what crashes in between is done
again, and where two controllers do it at once, the database chooses one of the two whole blobs.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import zlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, from_url

from controller.store.archiving import Archived, MarkArchived, MarkSilent, chunks_after, unarchived
from controller.store.collecting import known_remains
from controller.store.tables import AttemptId, Tenant
from controller.store.writer import Store

log = structlog.get_logger()

GRACE_S = 60.0
"""How long after its end an attempt may still deliver what it logged, before the log is moved."""
TAIL_BYTES = 64 * 1024
"""What the database keeps of a moved log."""
PAGE = 32
"""Chunks read at once; a chunk has 64 KiB at the most."""
ATTEMPTS = 200
PART_BYTES = 5 * 1024 * 1024
FAILURES = 3
"""In a row, until the store is taken to be away."""
STRAY_S = 3600.0
"""Older than that, what the database doesn't know is no longer about to be told to it."""
REMAINS = "remains/"
"""What the keys of collected remains begin with: `remains/TENANT/JOB/ATTEMPT-….tar.gz`."""
KEY_PARTS = 4
IDENTITY = "identity"
"""The key of a blob whose content names the store."""
_FORMAT = "mediactl-log-1"
_GZIP = 16 + zlib.MAX_WBITS
_PIECE = 256 * 1024
_LONGEST_HEADER = 4096


class LogChunk(NamedTuple):
    """A piece of what one stream of an attempt said, as the agent delivered it."""

    stream: str
    sequence: int
    data: bytes


class ArchiveDamaged(Exception):
    """The blob ends too early or is none of this format."""


class ArchiveMissing(Exception):
    """The blob is gone: deleted with its job, or the store is another one than before."""


class Archive:
    """`url`: `file:///DIR`, which is made, or `s3://BUCKET/PREFIX` with the usual AWS environment."""

    def __init__(
        self, url: str, *, grace_s: float = GRACE_S, tail_bytes: int = TAIL_BYTES, options: dict[str, Any] | None = None
    ) -> None:
        self._root: Path | None = None
        if url.startswith("file://"):
            self._root = Path(unquote(urlsplit(url).path))
            self._store: Any = LocalStore(self._root, mkdir=True)
        else:
            self._store = from_url(url, **(options or {}))
        self._grace_s = grace_s
        self._tail_bytes = tail_bytes

    async def sweep(self, store: Store, now_us: int) -> int:
        """Move the logs of all attempts that ended long enough before `now_us`; returns how many were moved.

        A log that can't be moved is left for the next sweep. Raises the store's error where nothing can be.
        """
        moved = failed = 0
        after = (0, "")
        while rows := await store.read(unarchived, now_us - int(self._grace_s * 1e6), after, ATTEMPTS):
            after = (rows[-1].ended_us, rows[-1].id)
            for tenant in sorted({row.tenant for row in rows}):
                silent = tuple(row.id for row in rows if row.tenant == tenant and not row.has_log)
                if silent:
                    await store.execute(MarkSilent(tenant, silent))
            for row in rows:
                if not row.has_log:
                    continue
                try:
                    moved += await self._move(store, row.tenant, row.job_id, row.id)
                    failed = 0
                except Exception as error:
                    failed += 1
                    if failed == FAILURES:
                        raise
                    log.warning("a log stays in the database", attempt_id=row.id, exc_info=error)
            if len(rows) < ATTEMPTS:
                break
        return moved

    async def _move(self, store: Store, tenant: Tenant, job_id: str, attempt_id: AttemptId) -> bool:
        key = f"logs/{tenant}/{job_id}/{attempt_id}-{secrets.token_hex(4)}.log.gz"
        packing = _Packing(store, tenant, job_id, attempt_id, self._tail_bytes)
        await self.put(key, packing.pieces())
        if await store.execute(MarkArchived(tenant, attempt_id, key, packing.archived())):
            return True
        await self.delete([key])
        return False

    async def put(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        """Write a blob, durable at the end of this. Where a piece can't be had, nothing appears under the key."""
        # Left open then, which takes away what was written.
        blob = obstore.open_writer_async(self._store, key, buffer_size=PART_BYTES, max_concurrency=1)
        async for piece in pieces:
            await blob.write(piece)
        await blob.close()
        if self._root is not None:
            await asyncio.to_thread(_sync, self._root, key)

    async def write(self, key: str, data: bytes) -> None:
        """As `put`, for what is in memory, at once."""
        await obstore.put_async(self._store, key, data)
        if self._root is not None:
            await asyncio.to_thread(_sync, self._root, key)

    async def identity(self) -> str:
        """Names this store: the same for all that have it, whatever they call it, and another one for any other."""
        with suppress(AlreadyExistsError):
            await obstore.put_async(self._store, IDENTITY, secrets.token_hex(16).encode(), mode="create")
        return bytes(await (await obstore.get_async(self._store, IDENTITY)).bytes_async()).decode()

    async def size(self, key: str) -> int:
        """Bytes of a blob. Raises ArchiveMissing."""
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError as error:
            raise ArchiveMissing(key) from error

    async def get(self, key: str, offset: int, most: int) -> AsyncIterator[bytes]:
        """A blob from `offset` on, which must be below its size, in pieces of at most `most` bytes."""
        try:
            found = await obstore.get_async(self._store, key, options={"range": {"offset": offset}})
        except FileNotFoundError as error:
            raise ArchiveMissing(key) from error
        async for piece in found.stream(min_chunk_size=min(most, _PIECE)):
            data = bytes(piece)
            for start in range(0, len(data), most):
                yield data[start : start + most]

    async def remove_strays(self, store: Store, now_us: int) -> int:
        """Delete remains that the database knows nothing of: a crash came between the two. Returns how many."""
        removed = 0
        async for old in self.older(REMAINS, now_us):
            jobs_of: defaultdict[Tenant, set[str]] = defaultdict(set)
            for key in old:
                if len(parts := key.split("/")) == KEY_PARTS:
                    jobs_of[Tenant(parts[1])].add(parts[2])
            known: set[str] = set()
            for of, job_ids in jobs_of.items():
                known |= await store.read(known_remains, of, job_ids)
            strays = [key for key in old if key not in known]
            await self.delete(strays)
            removed += len(strays)
        return removed + await self.remove_unfinished(REMAINS, now_us)

    async def older(self, prefix: str, now_us: int) -> AsyncIterator[list[str]]:
        """Keys that begin so, a page at a time, of blobs so old that the database must know of them."""
        before = datetime.fromtimestamp(now_us / 1e6 - STRAY_S, UTC)
        async for found in obstore.list(self._store, prefix=prefix, chunk_size=ATTEMPTS):
            yield [one["path"] for one in found if one["last_modified"] < before]

    async def remove_unfinished(self, prefix: str, now_us: int) -> int:
        """Delete what was left when writing blobs `prefix…/…/…` broke off; returns how many."""
        if self._root is None:
            return 0
        return await asyncio.to_thread(_remove_unfinished, self._root / prefix, now_us / 1e6 - STRAY_S)

    async def read(self, log_key: str) -> AsyncIterator[LogChunk]:
        """The chunks of a moved log. Raises ArchiveMissing, ArchiveDamaged."""
        try:
            found = await obstore.get_async(self._store, log_key)
        except FileNotFoundError as error:
            raise ArchiveMissing(log_key) from error
        unpacking = _Unpacking()
        async for piece in found.stream(min_chunk_size=_PIECE):
            for chunk in unpacking.feed(bytes(piece)):
                yield chunk
        unpacking.end()

    async def delete(self, log_keys: Iterable[str]) -> None:
        """Delete blobs; those that are gone already count as deleted."""
        for key in log_keys:
            with suppress(FileNotFoundError):
                await obstore.delete_async(self._store, key)

    async def delete_folder(self, key: str) -> None:
        """Delete all blobs `key/…`."""
        async for found in obstore.list(self._store, prefix=f"{key}/", chunk_size=ATTEMPTS):
            await self.delete(one["path"] for one in found)
        if self._root is not None:
            with suppress(OSError):
                await asyncio.to_thread((self._root / key).rmdir)


def _remove_unfinished(folder: Path, before_s: float) -> int:
    # What the store writes into until a blob gets its name.
    old = [path for path in folder.glob("*/*/*#*") if path.stat().st_mtime < before_s]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _sync(root: Path, key: str) -> None:
    # The store renames what it has written but sees to nothing being on the disk.
    path = root / key
    while True:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if path == root:
            return
        path = path.parent


class _Packing:
    """One log on its way into a blob."""

    def __init__(self, store: Store, tenant: Tenant, job_id: str, attempt_id: AttemptId, tail_bytes: int) -> None:
        self._store = store
        self._of = (tenant, job_id, attempt_id)
        self._tail_bytes = tail_bytes
        self._tail: deque[tuple[int, int]] = deque()
        self._tail_size = 0
        self._chunks = 0
        self._last: dict[str, int] = {}

    async def pieces(self) -> AsyncIterator[bytes]:
        packer = zlib.compressobj(wbits=_GZIP)
        position = -1
        yield packer.compress(_line({"format": _FORMAT, "attempt": self._of[2]}))
        while rows := await self._store.read(chunks_after, *self._of, position, PAGE):
            position = rows[-1].position
            plain = bytearray()
            for row in rows:
                plain += _line({"stream": row.stream, "sequence": row.sequence, "size": len(row.data)})
                plain += row.data + b"\n"
                self._count(row)
            # Away from the loop: a page may take tens of milliseconds.
            if packed := await asyncio.to_thread(packer.compress, plain):
                yield packed
        yield packer.flush()

    def _count(self, row: Any) -> None:
        self._chunks += 1
        self._last[row.stream] = max(row.sequence, self._last.get(row.stream, row.sequence))
        size = len(row.data)
        self._tail.append((row.position, size))
        self._tail_size += size
        while len(self._tail) > 1 and self._tail_size > self._tail_bytes:
            self._tail_size -= self._tail.popleft()[1]

    def archived(self) -> Archived:
        return Archived(self._chunks, self._last, self._tail[0][0] if self._tail else 0)


@dataclass(slots=True)
class _Expected:
    stream: str
    sequence: int
    size: int


class _Unpacking:
    """A blob on its way back, in pieces of any size."""

    def __init__(self) -> None:
        self._gzip = zlib.decompressobj(wbits=_GZIP)
        self._plain = bytearray()
        self._begun = False
        self._expected: _Expected | None = None

    def feed(self, packed: bytes) -> Iterator[LogChunk]:
        while packed:
            try:
                self._plain += self._gzip.decompress(packed, _PIECE)
            except zlib.error as error:
                raise ArchiveDamaged(str(error)) from error
            packed = self._gzip.unconsumed_tail
            yield from self._whole()

    def _whole(self) -> Iterator[LogChunk]:
        while True:
            if self._expected is None:
                end = self._plain.find(b"\n", 0, _LONGEST_HEADER)
                if end < 0:
                    if len(self._plain) >= _LONGEST_HEADER:
                        raise ArchiveDamaged("a header is too long")
                    return
                self._header(bytes(self._plain[:end]))
                del self._plain[: end + 1]
            else:
                size = self._expected.size
                if len(self._plain) <= size:
                    return
                yield LogChunk(self._expected.stream, self._expected.sequence, bytes(self._plain[:size]))
                del self._plain[: size + 1]
                self._expected = None

    def _header(self, line: bytes) -> None:
        try:
            told = json.loads(line)
            if self._begun:
                self._expected = _Expected(told["stream"], told["sequence"], told["size"])
            elif told["format"] != _FORMAT:
                raise ArchiveDamaged(f"format {told['format']!r} is unknown")
            self._begun = True
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveDamaged("a header is no JSON of this format") from error

    def end(self) -> None:
        if not self._gzip.eof or self._plain or self._expected is not None:
            raise ArchiveDamaged("the blob ends too early")


def _line(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
