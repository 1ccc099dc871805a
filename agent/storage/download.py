"""Reading from a store over the network: several ranges at once, each resumed where it broke, of one version only."""

import asyncio
import hashlib
import os
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agent.storage.faults import Fault, Kind, unreadable
from agent.storage.patience import Patience, patiently
from agent.storage.values import Identity
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import shown

AT_ONCE = 4
PIECE_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024

#: An object in more pieces than these is taken in larger ones.
_MOST_PIECES = 4096

Write: TypeAlias = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A version of an object: ``tag`` is what ranges of just this version are asked for by, quotes and all.

    ``ranged``: the server gives ranges. ``sha256`` (hexadecimal) and ``crc32`` are of the whole, where it tells them.
    """

    identity: Identity
    tag: str = ""
    ranged: bool = True
    sha256: str = ""
    crc32: int | None = None


class Remote(ABC):
    """The reading half of an :class:`ObjectStore` that is reached over a network; ``name`` is what people call it."""

    def __init__(self, name: str, patience: Patience) -> None:
        self.name = name
        self.patience = patience

    @abstractmethod
    async def find(self, uri: str) -> Found:
        """What is there now.

        :raises Fault: and not in words of a library.
        """

    @abstractmethod
    async def copy(self, uri: str, found: Found, start: int, end: int, write: Write) -> None:
        """Gives the bytes from ``start`` to ``end`` of the found version to ``write``, in order and in any portions.

        Where the server gives no ranges, ``start`` is 0 and ``end`` the size. Ending early is noticed by the caller.

        :raises Fault: CHANGED where that version is not there any more, BUSY for what asking again may mend.
        """

    async def identify(self, uri: str) -> Identity:
        return (await self._find(uri)).identity

    async def fetch(self, uri: str, into: Path) -> Identity:
        for last in (False, True):
            found = await self._find(uri)
            try:
                await self._download(uri, found, into)
            except Fault as fault:
                if last or not (fault.kind is Kind.CHANGED or isinstance(fault, _Spoilt)):
                    raise unreadable(uri, self.name, fault) from None
            else:
                return found.identity
        raise AssertionError

    async def bears(self, uri: str, *, sha256: str, size: int) -> bool:
        try:
            found = await self._find(uri)
        except MediaFailure:
            return False
        return found.identity.size == size and found.sha256 == sha256

    async def _find(self, uri: str) -> Found:
        try:
            found = await patiently(self.patience, lambda: self.find(uri))
        except Fault as fault:
            raise unreadable(uri, self.name, fault) from None
        if found.identity.size == 0:
            raise MediaFailure(Reason.INPUT_EMPTY, f"{shown(uri)} is empty (0 bytes)")
        return found

    async def _download(self, uri: str, found: Found, into: Path) -> None:
        size = found.identity.size
        part = await asyncio.to_thread(_Part, into.with_name(f"{into.name}.part"), size)
        gate = asyncio.Semaphore(AT_ONCE)

        async def fetched(start: int, end: int) -> None:
            async with gate:
                await self._piece(uri, found, part, start, end)

        spans = list(_spans(size) if found.ranged else [(0, size)])
        pieces = [asyncio.create_task(fetched(*span)) for span in spans]
        check = _Check(found)
        try:
            for span, piece in zip(spans, pieces, strict=True):
                await piece
                # Beside the pieces that are still to come, while the bytes are in memory.
                await asyncio.to_thread(check.read, part, *span)
            check.judge()
            part.keep_as(into)
        finally:
            for piece in pieces:
                piece.cancel()
            await asyncio.gather(*pieces, return_exceptions=True)
            part.close()

    async def _piece(self, uri: str, found: Found, part: "_Part", start: int, end: int) -> None:
        at = start

        def write(data: bytes) -> None:
            nonlocal at
            if at + len(data) > end:
                raise Fault(Kind.BUSY, "the server sent more than was asked for")
            part.write(at, data)
            at += len(data)

        async def go_on() -> None:
            nonlocal at
            at = at if found.ranged else start
            await self.copy(uri, found, at, end, write)
            if at < end:
                raise Fault(Kind.BUSY, f"the connection broke {end - at} bytes before the end")

        await patiently(self.patience, go_on)


class _Spoilt(Fault):
    """What arrived is not what the server has."""

    def __init__(self) -> None:
        super().__init__(Kind.BUSY, "what arrived does not have the checksum that the store tells")


class _Part:
    """A file that is being written out of order. Closed, it takes nothing more, not even from a thread left behind."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.unlink(missing_ok=True)
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, size)

    def write(self, at: int, data: bytes) -> None:
        with self._lock, memoryview(data) as left:
            if self._file is None:
                raise Fault(Kind.REFUSED, "abandoned")
            done = 0
            while done < len(left):
                done += os.pwrite(self._file, left[done:], at + done)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        at = start
        while at < end and self._file is not None:
            data = os.pread(self._file, min(CHUNK_BYTES, end - at), at)
            at += len(data)
            yield data

    def keep_as(self, path: Path) -> None:
        self.path.replace(path)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
        with suppress(FileNotFoundError):
            self.path.unlink()


class _Check:
    """Compares with a checksum that the server told, if any: with the CRC32 where there is one, at half the cost."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._sha256 = hashlib.sha256() if found.sha256 and found.crc32 is None else None
        self._crc32 = 0

    def read(self, part: _Part, start: int, end: int) -> None:
        if self._sha256 is None and self._found.crc32 is None:
            return
        for data in part.read(start, end):
            if self._sha256 is not None:
                self._sha256.update(data)
            else:
                self._crc32 = zlib.crc32(data, self._crc32)

    def judge(self) -> None:
        if self._sha256 is not None:
            if self._sha256.hexdigest() != self._found.sha256:
                raise _Spoilt
        elif self._found.crc32 is not None and self._crc32 != self._found.crc32:
            raise _Spoilt


def _spans(size: int) -> Iterator[tuple[int, int]]:
    length = max(PIECE_BYTES, -(-size // _MOST_PIECES))
    for start in range(0, size, length):
        yield start, min(start + length, size)
