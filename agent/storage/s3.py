"""The store behind ``s3://`` and other S3 servers: a multipart upload left open is what is staged."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlencode

from agent.storage.content_types import content_type
from agent.storage.download import AT_ONCE, CHUNK_BYTES, PIECE_BYTES, Found, Remote, Write
from agent.storage.faults import Fault, Kind, unpublished, unsigned
from agent.storage.patience import Patience, patiently
from agent.storage.s3_client import Requests, signed_url, slice_of, translated
from agent.storage.values import Identity, SignedUrl, Staged
from presets.uris import base_name

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

    from agent.storage.stores import StoreTable

T = TypeVar("T")

PART_BYTES = PIECE_BYTES
#: The last number of a part that S3 knows. This one says whose the upload is and is left out when it is completed.
MARK = 10_000

_ATTEMPT, _SHA256 = "mediactl-attempt", "mediactl-sha256"


@dataclass(frozen=True, slots=True)
class Spot:
    """An object's bucket and key."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """What completes an upload, and what tells afterwards that it was this one.

    It holds no more than the upload's id, the attempt, and number and digest of the parts: their tags are listed from
    the server, which has them as long as there is anything to complete. Ten thousand of them would not fit in a URI.
    """

    upload: str
    attempt: str
    parts: int
    tags: str

    def in_uri(self, uri: str) -> str:
        fields = {"upload": self.upload, "attempt": self.attempt, "parts": str(self.parts), "tags": self.tags}
        return f"{uri}?{urlencode(fields)}"

    @classmethod
    def from_uri(cls, uri: str) -> tuple[str, Ticket]:
        """The target's URI and the ticket for it.

        :raises ValueError: it is no URI of staged content.
        """
        target, _, query = uri.partition("?")
        fields = parse_qs(query, strict_parsing=True)
        try:
            [upload], [attempt], [parts], [tags] = (fields[name] for name in ("upload", "attempt", "parts", "tags"))
        except KeyError:
            raise ValueError(f"{target}: no upload is named") from None
        return target, cls(upload, attempt, int(parts), tags)


class S3Store(Remote):
    """Objects of S3 or of a server that talks like it. See :class:`ObjectStore`.

    Whose an open upload is stands in a part of its own (:data:`MARK`), as an upload tells nothing else of itself: so
    what an attempt left when it was killed is found again, by :meth:`stage` and by :meth:`sweep`. An upload without any
    part is one whose maker did not come so far; it occupies nothing, and is ended once it is ``unmarked_s`` old.
    """

    def __init__(
        self, name: str, table: StoreTable, *, patience: Patience | None = None, unmarked_s: float = 3600.0
    ) -> None:
        super().__init__(name, patience or Patience())
        self._table = table
        self._requests = Requests(table, self.patience)
        # By itself the library signs URLs as of old, which new regions and encrypted objects do not take.
        self._signing = Requests(table, self.patience, signature="s3v4")
        self._unmarked = timedelta(seconds=unmarked_s)

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
        told = head.get("Metadata", {}).get(_SHA256, "")
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
        digest = await asyncio.to_thread(_digest, source)
        with suppress(Fault):  # a leftover is no reason to fail; the sweep comes once more
            await self._end_uploads(spot, attempt_id)
        upload = await self._ask(
            lambda client: client.create_multipart_upload(
                Bucket=spot.bucket,
                Key=spot.key,
                ContentType=content_type(spot.key),
                Metadata={_ATTEMPT: attempt_id, _SHA256: digest.sha256},
                ChecksumAlgorithm="CRC32",
                ChecksumType="FULL_OBJECT",
            )["UploadId"]
        )
        try:
            await self._send(spot, upload, MARK, attempt_id.encode)
            tags = await self._send_all(source, digest.size, spot, upload, abandoned)
        except BaseException:
            with suppress(Fault):
                await self._abort(spot, upload)
            raise
        ticket = Ticket(upload, attempt_id, len(tags), _digest_of_tags(tags))
        return Staged(ticket.in_uri(uri), digest.size, digest.sha256)

    async def _send_all(
        self, source: Path, size: int, spot: Spot, upload: str, abandoned: asyncio.Event
    ) -> Sequence[str]:
        length = part_length(size)
        gate = asyncio.Semaphore(AT_ONCE)

        async def send(number: int) -> str:
            async with gate:
                start = (number - 1) * length
                part = partial(slice_of, source, start, min(length, size - start))
                return await self._send(spot, upload, number, part, abandoned)

        sending = [asyncio.create_task(send(number)) for number in range(1, max(1, -(-size // length)) + 1)]
        try:
            return await asyncio.gather(*sending)
        except BaseException:
            abandoned.set()
            await asyncio.gather(*sending, return_exceptions=True)
            raise

    async def _send(
        self, spot: Spot, upload: str, number: int, part: Callable[[], Any], abandoned: asyncio.Event | None = None
    ) -> str:
        def send(client: S3Client) -> str:
            body = part()
            try:
                # With a CRC32 that the library computes and the server verifies.
                return client.upload_part(
                    Bucket=spot.bucket,
                    Key=spot.key,
                    UploadId=upload,
                    PartNumber=number,
                    Body=body,
                    ChecksumAlgorithm="CRC32",
                )["ETag"]
            finally:
                if not isinstance(body, bytes):
                    body.close()

        async def sent() -> str:
            if abandoned is not None and abandoned.is_set():
                raise Fault(Kind.REFUSED, "abandoned")
            try:
                return await self._requests.call(send)
            except Fault as fault:
                if fault.kind is Kind.REFUSED and "InvalidRequest" in fault.words:
                    # How some servers (SeaweedFS) call a body that does not have its checksum.
                    raise Fault(Kind.BUSY, fault.words) from None
                raise

        return await patiently(self.patience, sent)

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
            parts = await self._parts(spot, ticket, size)
            if not overwrite:
                # Some servers take no condition at completion, or look first and write then (SeaweedFS). On those,
                # two attempts that complete within a moment may both succeed; nothing that a client does prevents it.
                await self._check_free(spot)
            condition: Any = {} if overwrite else {"IfNoneMatch": "*"}
            await self._requests.call(
                lambda client: client.complete_multipart_upload(
                    Bucket=spot.bucket,
                    Key=spot.key,
                    UploadId=ticket.upload,
                    MultipartUpload={"Parts": parts},
                    ChecksumType="FULL_OBJECT",
                    **condition,
                )
            )
        except Fault as fault:
            if fault.kind is Kind.GONE:
                await self._check_published(spot, ticket, sha256, size)
            elif fault.kind is Kind.EXISTS and await self._bears(spot, ticket, sha256, size):
                # Repeated, or another agent was first; some servers keep the upload then.
                with suppress(Fault):
                    await self._abort(spot, ticket.upload)
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

    async def _parts(self, spot: Spot, ticket: Ticket, size: int) -> list[Any]:
        """The parts as the server lists them, made sure to be those that were staged."""

        def listed(client: S3Client) -> list[Any]:
            pages = client.get_paginator("list_parts").paginate(
                Bucket=spot.bucket, Key=spot.key, UploadId=ticket.upload
            )
            parts = [part for page in pages for part in page.get("Parts", []) if part["PartNumber"] != MARK]
            # SeaweedFS lists a part that was sent again as often as it was sent.
            return list({(part["PartNumber"], part["ETag"]): part for part in parts}.values())

        parts = await self._requests.call(listed)
        same = len(parts) == ticket.parts and _digest_of_tags([part["ETag"] for part in parts]) == ticket.tags
        if not same or sum(part["Size"] for part in parts) != size:
            raise Fault(Kind.BUSY if parts else Kind.GONE, "what was staged for it has been altered")
        return [
            {name: part[name] for name in ("PartNumber", "ETag", "ChecksumCRC32") if name in part} for part in parts
        ]

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
            head["ContentLength"] == size and told.get(_ATTEMPT) == ticket.attempt and told.get(_SHA256) == sha256
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
        known = told.get(_SHA256)
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
            await patiently(self.patience, lambda: self._abort(spot, ticket.upload))
        except Fault as fault:
            raise unpublished(target, self.name, _staying(fault)) from None
        except ValueError as error:
            raise unpublished(target, self.name, Fault(Kind.GONE, str(error))) from None

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        try:
            spot = self._target(uri)
            ended = await patiently(self.patience, lambda: self._end_uploads(spot, attempt_id))
        except Fault as fault:
            raise unpublished(uri, self.name, _staying(fault)) from None
        if ended.unclear:
            told = "an upload for it without any part may still be somebody's: it is ended once it is older"
            raise unpublished(uri, self.name, Fault(Kind.GONE, told))
        return bool(ended.uploads)

    async def _end_uploads(self, spot: Spot, attempt_id: str) -> _Ended:
        """Ends every open upload of the attempt for this object, and what never came to have a part."""
        mark = hashlib.md5(attempt_id.encode(), usedforsecurity=False).hexdigest()
        checksum = _base64(zlib.crc32(attempt_id.encode()))

        def forsaken(client: S3Client) -> tuple[list[str], bool]:
            # Encrypted with a key of one's own, the tag of a part is not its MD5; its checksum stays what it is.
            found, unclear = [], False
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=spot.bucket, Prefix=spot.key)
            for one in (one for page in pages for one in page.get("Uploads", []) if one["Key"] == spot.key):
                first = partial(
                    client.list_parts, Bucket=spot.bucket, Key=spot.key, UploadId=one["UploadId"], MaxParts=1
                )
                try:
                    marks = first(PartNumberMarker=MARK - 1).get("Parts", [])
                    if marks:
                        own = marks[0]["ETag"].strip('"') == mark or marks[0].get("ChecksumCRC32") == checksum
                    else:
                        empty = not first().get("Parts")
                        old = datetime.now(UTC) - one["Initiated"] >= self._unmarked
                        own, unclear = empty and old, unclear or (empty and not old)
                except client.exceptions.NoSuchUpload:
                    continue
                if own:
                    found.append(one["UploadId"])
            return found, unclear

        uploads, unclear = await self._requests.call(forsaken)
        for upload in uploads:
            await self._abort(spot, upload)
        return _Ended(len(uploads), unclear)

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        try:
            spot, name = self._spot(uri), base_name(uri)
            return await self._signing.call(lambda client: signed_url(client, spot.bucket, spot.key, name, lifetime_s))
        except Fault as fault:
            raise unsigned(uri, self.name, fault) from None

    # --- single requests

    async def _ask(self, work: Callable[[S3Client], T]) -> T:
        return await patiently(self.patience, lambda: self._requests.call(work))

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

    async def _abort(self, spot: Spot, upload: str) -> None:
        try:
            await self._requests.call(
                lambda client: client.abort_multipart_upload(Bucket=spot.bucket, Key=spot.key, UploadId=upload)
            )
        except Fault as fault:
            if fault.kind not in (Kind.GONE, Kind.MISSING):
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


class _Ended(NamedTuple):
    """How many uploads were ended; whether there is one that may be anybody's."""

    uploads: int
    unclear: bool


class _Absent(Fault):
    def __init__(self) -> None:
        super().__init__(Kind.MISSING, "there is no such object")


@dataclass(frozen=True, slots=True)
class _Digest:
    size: int
    sha256: str


def part_length(size: int) -> int:
    """How long parts are so that they are few enough; whole mebibytes."""
    least = -(-size // (MARK - 1))
    return max(PART_BYTES, -(-least // 2**20) * 2**20)


def _digest(source: Path) -> _Digest:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return _Digest(file.tell(), digest.hexdigest())


def _digest_of_object(spot: Spot, client: S3Client) -> str:
    digest = hashlib.sha256()
    with client.get_object(Bucket=spot.bucket, Key=spot.key)["Body"] as body:
        while data := body.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _digest_of_tags(tags: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(tag.strip('"') for tag in tags).encode()).hexdigest()[:32]


def _crc32(head: Any) -> int | None:
    """Of the whole object: one that is composed of its parts' says nothing of the bytes."""
    text = head.get("ChecksumCRC32", "")
    if not text or "-" in text or head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        return int.from_bytes(base64.b64decode(text, validate=True), "big")
    except ValueError:
        return None


def _base64(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def _staying(fault: Fault) -> Fault:
    """Of what could not be removed: no caller's mistake, whatever it was."""
    return Fault(Kind.GONE, f"what was staged for it cannot be removed: {fault.words}")
