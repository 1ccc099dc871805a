"""The store behind ``s3://`` and other S3 servers: a multipart upload left open is what is staged."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.storage.content import content_of
from agent.storage.download import CHUNK_BYTES, Found, Remote, Write
from agent.storage.faults import Fault, Kind, unpublished, unsigned
from agent.storage.patience import Patience, patiently
from agent.storage.s3_client import Requests, signed_url, translated
from agent.storage.s3_uploads import ATTEMPT, SHA256, Spot, Ticket, Uploads
from agent.storage.values import Identity, SignedUrl, Staged
from presets.uris import base_name

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

    from agent.storage.stores import StoreTable

T = TypeVar("T")


class S3Store(Remote):
    """Objects of S3 or of a server that talks like it. See :class:`ObjectStore`."""

    def __init__(
        self, name: str, table: StoreTable, *, patience: Patience | None = None, unmarked_s: float = 3600.0
    ) -> None:
        super().__init__(name, patience or Patience())
        self._table = table
        self._requests = Requests(table, self.patience)
        # By itself the library signs URLs as of old, which new regions and encrypted objects do not take.
        self._signing = Requests(table, self.patience, signature="s3v4")
        self._uploads = Uploads(self._requests, self.patience, unmarked_s=unmarked_s)

    # --- inputs

    async def find(self, uri: str) -> Found:
        spot = self._spot(uri)
        try:
            head = await self._head(spot)
        except Fault as fault:
            if fault.kind in (Kind.MISSING, Kind.DENIED):
                # The answer to HEAD has no body to say which of the reasons it is; that to GET has.
                await self._peek(spot)
                raise Fault(Kind.BUSY, "it was not there for a moment") from None
            raise
        told = head.get("Metadata", {}).get(SHA256, "")
        return Found(
            Identity(head["ContentLength"], head["ETag"].strip('"')),
            tag=head["ETag"],
            sha256=told if len(told) == 64 else "",
            crc32=_crc32(head),
        )

    async def copy(self, uri: str, found: Found, start: int, end: int, write: Write) -> None:
        spot = self._spot(uri)

        def read(client: S3Client) -> None:
            try:
                answer = client.get_object(
                    Bucket=spot.bucket, Key=spot.key, Range=f"bytes={start}-{end - 1}", IfMatch=found.tag
                )
            except client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                    raise Fault(Kind.CHANGED, "it is another version now") from None
                raise
            whole = start == 0 and end == found.identity.size and "ContentRange" not in answer
            if not whole and answer.get("ContentRange") != f"bytes {start}-{end - 1}/{found.identity.size}":
                raise Fault(Kind.BUSY, "the server sent another range than was asked for")
            with answer["Body"] as body:
                while data := translated(partial(body.read, CHUNK_BYTES)):
                    write(data)

        await self._requests.call(read)

    # --- outputs

    async def check_target(self, uri: str, *, overwrite: bool) -> None:
        async def check() -> None:
            with suppress(_Absent):
                await self._peek(self._target(uri))
                if not overwrite:
                    raise Fault(Kind.EXISTS, "")

        try:
            await patiently(self.patience, check)
        except Fault as fault:
            # Who may write may still not be allowed to look.
            if fault.kind is not Kind.DENIED or "AccessDenied" not in fault.words:
                raise unpublished(uri, self.name, fault) from None

    async def stage(self, source: Path, uri: str, attempt_id: str) -> Staged:
        work = asyncio.ensure_future(self._stage(source, uri, attempt_id, abandoned := asyncio.Event()))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Threads still send; only after them can nothing come anew.
            abandoned.set()
            await asyncio.wait({work})
            if not work.cancelled() and work.exception() is None:
                await self.discard(work.result().staged_uri)
            raise
        except Fault as fault:
            raise unpublished(uri, self.name, fault) from None

    async def _stage(self, source: Path, uri: str, attempt_id: str, abandoned: asyncio.Event) -> Staged:
        spot = self._target(uri)
        content = await asyncio.to_thread(content_of, source)
        with suppress(Fault):  # a leftover is no reason to fail; the sweep comes once more
            await self._uploads.end_those_of(spot, attempt_id)
        ticket = await self._uploads.send(
            source, spot, size=content.size, sha256=content.sha256, attempt_id=attempt_id, abandoned=abandoned
        )
        return Staged(ticket.in_uri(uri), content.size, content.sha256)

    async def complete(self, final_uri: str, staged_uri: str, *, sha256: str, size: int, overwrite: bool) -> None:
        try:
            spot, (_, ticket) = self._target(final_uri), Ticket.from_uri(staged_uri)
            await patiently(
                self.patience, lambda: self._complete(spot, ticket, sha256=sha256, size=size, overwrite=overwrite)
            )
        except Fault as fault:
            raise unpublished(final_uri, self.name, fault) from None
        except ValueError as error:
            raise unpublished(final_uri, self.name, Fault(Kind.GONE, str(error))) from None

    async def _complete(self, spot: Spot, ticket: Ticket, *, sha256: str, size: int, overwrite: bool) -> None:
        try:
            parts = await self._uploads.parts(spot, ticket, size)
            if not overwrite:
                # Some servers take no condition at completion, or look first and write then (SeaweedFS). On those,
                # two attempts that complete within a moment may both succeed; nothing that a client does prevents it.
                await self._check_free(spot)
            await self._uploads.complete(spot, ticket.upload, parts, anew=not overwrite)
        except Fault as fault:
            if fault.kind is Kind.GONE:
                await self._check_published(spot, ticket, sha256, size)
            elif fault.kind is Kind.EXISTS and await self._bears(spot, ticket, sha256, size):
                # Repeated, or another agent was first; some servers keep the upload then.
                with suppress(Fault):
                    await self._uploads.abort(spot, ticket.upload)
            else:
                raise

    async def _check_free(self, spot: Spot) -> None:
        try:
            await self._head(spot)
        except Fault as fault:
            if fault.kind in (Kind.MISSING, Kind.DENIED):  # who may write may still not be allowed to look
                return
            raise
        raise Fault(Kind.EXISTS, "")

    async def _bears(self, spot: Spot, ticket: Ticket, sha256: str, size: int) -> bool:
        """Whether the object is what this upload made."""
        try:
            head = await self._head(spot)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                raise Fault(Kind.BUSY, "something had the name, and has it no more") from None
            raise
        told = head.get("Metadata", {})
        return bool(
            head["ContentLength"] == size and told.get(ATTEMPT) == ticket.attempt and told.get(SHA256) == sha256
        )

    async def _check_published(self, spot: Spot, ticket: Ticket, sha256: str, size: int) -> None:
        """Does nothing where the object has the content, whoever published it."""
        try:
            head = await self._head(spot)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                # Asked again: not every server shows at once what it has taken.
                raise Fault(Kind.BUSY, "what was staged for it is gone and nothing was published") from None
            raise
        told = head.get("Metadata", {})
        known = told.get(SHA256)
        if head["ContentLength"] == size:
            if known is None:
                known = await self._requests.call(partial(_digest_of_object, spot))
            if known == sha256:
                return
        raise Fault(Kind.GONE, "what was staged for it is gone and the name bears other content")

    async def discard(self, staged_uri: str) -> None:
        target = staged_uri.partition("?")[0]
        try:
            target, ticket = Ticket.from_uri(staged_uri)
            spot = self._target(target)
            await patiently(self.patience, lambda: self._uploads.abort(spot, ticket.upload))
        except Fault as fault:
            raise unpublished(target, self.name, _staying(fault)) from None
        except ValueError as error:
            raise unpublished(target, self.name, Fault(Kind.GONE, str(error))) from None

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        try:
            spot = self._target(uri)
            ended = await patiently(self.patience, lambda: self._uploads.end_those_of(spot, attempt_id))
        except Fault as fault:
            raise unpublished(uri, self.name, _staying(fault)) from None
        if ended.unclear:
            told = "an upload for it without any part may still be somebody's: it is ended once it is older"
            raise unpublished(uri, self.name, Fault(Kind.GONE, told))
        return bool(ended.uploads)

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        try:
            spot, name = self._spot(uri), base_name(uri)
            return await self._signing.call(lambda client: signed_url(client, spot.bucket, spot.key, name, lifetime_s))
        except Fault as fault:
            raise unsigned(uri, self.name, fault) from None

    # --- single requests

    async def _head(self, spot: Spot) -> Any:
        return await self._requests.call(
            lambda client: client.head_object(Bucket=spot.bucket, Key=spot.key, ChecksumMode="ENABLED")
        )

    async def _peek(self, spot: Spot) -> None:
        """Raises what is wrong with reading the object, in particular :class:`_Absent`."""

        def peek(client: S3Client) -> None:
            client.get_object(Bucket=spot.bucket, Key=spot.key, Range="bytes=0-0")["Body"].close()

        try:
            await self._requests.call(peek)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                raise _Absent from None
            if fault.kind is not Kind.CHANGED:  # an empty object has not even this range
                raise

    # --- names

    def _spot(self, uri: str) -> Spot:
        path = self._table.path_of(uri)
        bucket, _, key = path.partition("/")
        if not key:
            raise Fault(Kind.REFUSED, f"no object is named; {self.name}://bucket/key is expected")
        return Spot(bucket, key)

    def _target(self, uri: str) -> Spot:
        spot = self._spot(uri)
        if spot.key.endswith("/"):
            raise Fault(Kind.REFUSED, "it is the name of a folder, not of an object")
        if len(spot.key.encode()) > 1024:
            raise Fault(Kind.REFUSED, f"an object's name has 1024 bytes at most, this one {len(spot.key.encode())}")
        return spot


class _Absent(Fault):
    def __init__(self) -> None:
        super().__init__(Kind.MISSING, "there is no such object")


def _digest_of_object(spot: Spot, client: S3Client) -> str:
    digest = hashlib.sha256()
    with client.get_object(Bucket=spot.bucket, Key=spot.key)["Body"] as body:
        while data := body.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _crc32(head: Any) -> int | None:
    """Of the whole object: one that is composed of its parts' says nothing of the bytes."""
    text = head.get("ChecksumCRC32", "")
    if not text or "-" in text or head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        return int.from_bytes(base64.b64decode(text, validate=True), "big")
    except ValueError:
        return None


def _staying(fault: Fault) -> Fault:
    """Of what could not be removed: no caller's mistake, whatever it was."""
    return Fault(Kind.GONE, f"what was staged for it cannot be removed: {fault.words}")
