"""The store behind ``controller://``: the controllers' own, which agents reach through the controllers alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from agent.storage.content import content_of
from agent.storage.download import CHUNK_BYTES, Found, Remote, Write
from agent.storage.faults import Fault, Kind, unpublished, unsigned
from agent.storage.patience import Patience, patiently
from agent.storage.values import Identity, SignedUrl, Staged
from presets.uris import CONTROLLER, deposit_path, object_uri, place

T = TypeVar("T")

_STAGED = "staged/"


@dataclass(frozen=True, slots=True)
class Deposited:
    """A version of what is deposited under a URI; ``upload`` names it."""

    upload: str
    size: int
    sha256: str


class Deposits(Protocol):
    """Bytes in and bytes out, by way of whichever controller answers. Every method raises :class:`Fault`."""

    async def find(self, uri: str) -> Deposited:
        """What is there.

        :raises Fault: MISSING.
        """
        ...

    def read(self, uri: str, upload: str, start: int, end: int) -> AsyncIterator[bytes]:
        """A range of that version.

        :raises Fault: CHANGED, MISSING.
        """
        ...

    async def send(self, uri: str, made: Deposited, attempt_id: str, source: Source) -> str:
        """Brings the content to where it can be finished, and says which upload that is. A repeat goes on with it."""
        ...

    async def finish(self, upload: str, *, overwrite: bool) -> None:
        """Makes an upload readable under its URI. A repeat does nothing.

        :raises Fault: MISSING, EXISTS.
        """
        ...

    async def discard(self, upload: str) -> None:
        """Deletes an upload, unless it is finished. A repeat does nothing."""
        ...

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        """Deletes what an attempt has not finished for a URI; whether there was anything. A repeat does nothing."""
        ...


Source = Callable[[int], AsyncIterator[bytes]]
"""What gives the bytes from an offset on, in portions of at most 1 MiB."""


class DepositStore(Remote):
    """Files in the controllers' own store. See :class:`ObjectStore`."""

    def __init__(self, deposits: Deposits, *, patience: Patience | None = None) -> None:
        super().__init__(CONTROLLER, patience or Patience())
        self._deposits = deposits

    async def find(self, uri: str) -> Found:
        found = await self._deposits.find(_checked(uri))
        return Found(Identity(found.size, found.sha256), tag=found.upload, sha256=found.sha256)

    async def copy(self, uri: str, found: Found, start: int, end: int, write: Write) -> None:
        try:
            async for data in self._deposits.read(uri, found.tag, start, end):
                await asyncio.to_thread(write, data)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                raise Fault(Kind.CHANGED, "it is gone now") from None
            raise

    async def check_target(self, uri: str, *, overwrite: bool) -> None:
        async def check() -> None:
            try:
                await self._deposits.find(_checked(uri))
            except Fault as fault:
                if fault.kind is not Kind.MISSING:
                    raise
            else:
                if not overwrite:
                    raise Fault(Kind.EXISTS, "")

        await self._publishing(uri, check)

    async def stage(self, source: Path, uri: str, attempt_id: str) -> Staged:
        async def put() -> Staged:
            made = await asyncio.to_thread(_look, source)
            upload = await self._deposits.send(_checked(uri), made, attempt_id, lambda at: _portions(source, at))
            return Staged(object_uri(CONTROLLER, _STAGED + upload), made.size, made.sha256)

        work = asyncio.ensure_future(self._publishing(uri, put))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            with suppress(Exception):
                await self.sweep(uri, attempt_id)
            raise

    async def complete(self, final_uri: str, staged_uri: str, *, sha256: str, size: int, overwrite: bool) -> None:
        async def finish() -> None:
            try:
                await self._deposits.finish(_upload(staged_uri), overwrite=overwrite)
            except Fault as fault:
                if fault.kind is not Kind.MISSING:
                    raise
                await self._check_published(final_uri, sha256, size)

        await self._publishing(final_uri, finish)

    async def _check_published(self, uri: str, sha256: str, size: int) -> None:
        try:
            found = await self._deposits.find(_checked(uri))
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                raise Fault(Kind.GONE, "what was staged for it is gone and nothing was published") from None
            raise
        if (found.size, found.sha256) != (size, sha256):
            raise Fault(Kind.GONE, "what was staged for it is gone and the name bears other content")

    async def discard(self, staged_uri: str) -> None:
        await self._publishing(staged_uri, lambda: self._deposits.discard(_upload(staged_uri)), leaving=True)

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        return await self._publishing(uri, lambda: self._deposits.sweep(_checked(uri), attempt_id), leaving=True)

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        told = "the controller has it, without a URL; `mediactl jobs artifacts ID --download DIR` fetches it"
        raise unsigned(uri, self.name, Fault(Kind.REFUSED, told))

    async def _publishing(self, uri: str, work: Callable[[], Awaitable[T]], *, leaving: bool = False) -> T:
        try:
            return await patiently(self.patience, work)
        except Fault as fault:
            if leaving:
                fault = Fault(Kind.GONE, f"what was staged for it cannot be removed: {fault.words}")
            raise unpublished(uri, self.name, fault) from None


def _checked(uri: str) -> str:
    try:
        deposit_path(uri)
    except ValueError as error:
        raise Fault(Kind.REFUSED, str(error)) from None
    return uri


def _upload(staged_uri: str) -> str:
    path = place(staged_uri).path
    if not path.startswith(_STAGED):
        raise Fault(Kind.GONE, "it is no staged content")
    return path.removeprefix(_STAGED)


def _look(source: Path) -> Deposited:
    return Deposited("", *content_of(source))


async def _portions(source: Path, offset: int) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(source.open, "rb") as file:
        file.seek(offset)
        while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield data
