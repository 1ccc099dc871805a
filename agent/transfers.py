"""Bytes between the agent and the controllers' own store, by way of any of the controllers that it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.storage.deposits import Deposited, Source
from agent.storage.faults import Fault, Kind
from mediactl.channel import Credentials
from mediactl.errors import MediactlError
from presets.reasons import Reason

if TYPE_CHECKING:
    from mediactl.aio import AsyncClient

_KINDS = {
    Reason.DEPOSIT_NOT_FOUND: Kind.MISSING,
    Reason.INPUT_CHANGED: Kind.CHANGED,
    Reason.OUTPUT_EXISTS: Kind.EXISTS,
    Reason.UPLOAD_CORRUPT: Kind.GONE,
    Reason.UNAUTHENTICATED: Kind.DENIED,
    Reason.PERMISSION_DENIED: Kind.DENIED,
    Reason.INVALID_ARGUMENT: Kind.REFUSED,
    Reason.PUBLISH_REFUSED: Kind.REFUSED,
    Reason.DEPOSITS_OFF: Kind.REFUSED,
    Reason.QUOTA_EXCEEDED: Kind.REFUSED,
}


class Transfers:
    """See :class:`agent.storage.deposits.Deposits`. Connected from the first use on, in the loop that uses it."""

    def __init__(self, controllers: str, credentials: Credentials) -> None:
        self._controllers = controllers
        self._credentials = credentials
        self._client_or_none: AsyncClient | None = None

    @property
    def _client(self) -> AsyncClient:
        if self._client_or_none is None:
            from mediactl.aio import AsyncClient  # noqa: PLC0415 - an idle agent needs none

            self._client_or_none = AsyncClient(self._controllers, credentials=self._credentials)
        return self._client_or_none

    async def close(self) -> None:
        if self._client_or_none is not None:
            await self._client_or_none.close()

    async def find(self, uri: str) -> Deposited:
        with _faults():
            found = await self._client.get_deposit(uri)
        return Deposited(found.upload_id, found.size_bytes, found.sha256)

    async def read(self, uri: str, upload: str, start: int, end: int) -> AsyncIterator[bytes]:
        with _faults():
            async for piece in self._client.read_deposit(uri, upload_id=upload, offset=start, length=end - start):
                yield piece.data

    async def send(self, uri: str, made: Deposited, attempt_id: str, source: Source) -> str:
        with _faults():
            begun = await self._client.begin_upload(
                uri=uri, size_bytes=made.size, sha256=made.sha256, attempt_id=attempt_id
            )
            await self._client.extend_upload(begun, source)
        return begun.upload_id

    async def finish(self, upload: str, *, overwrite: bool) -> None:
        with _faults():
            await self._client.finish_upload(upload, overwrite=overwrite)

    async def discard(self, upload: str) -> None:
        with _faults():
            await self._client.delete_deposit(upload_id=upload)

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        with _faults():
            return await self._client.delete_deposit(uri, attempt_id=attempt_id)


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except MediactlError as error:
        kind = _KINDS.get(error.reason, Kind.BUSY) if isinstance(error.reason, Reason) else Kind.BUSY
        raise Fault(kind, error.message) from None
