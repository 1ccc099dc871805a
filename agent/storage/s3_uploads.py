"""Uploads of S3 that stay open: how one is made, completed, ended, and found again by whose it is."""

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
from agent.storage.download import AT_ONCE, PIECE_BYTES
from agent.storage.faults import Fault, Kind
from agent.storage.patience import Patience, patiently
from agent.storage.s3_client import Requests, slice_of

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

T = TypeVar("T")

PART_BYTES = PIECE_BYTES
#: The last number of a part that S3 knows. This one says whose the upload is and is left out when it is completed.
MARK = 10_000

#: The metadata that tell an object's content and who published it.
ATTEMPT, SHA256 = "mediactl-attempt", "mediactl-sha256"


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


class Ended(NamedTuple):
    """How many uploads were ended; whether there is one that may be anybody's."""

    uploads: int
    unclear: bool


class Uploads:
    """The open uploads of a store.

    Whose one is stands in a part of its own (:data:`MARK`), as an upload tells nothing else of itself: so what an
    attempt left when it was killed is found again. An upload without any part is one whose maker did not come so far;
    it occupies nothing, and counts as left once it is ``unmarked_s`` old.
    """

    def __init__(self, requests: Requests, patience: Patience, *, unmarked_s: float) -> None:
        self._requests = requests
        self._patience = patience
        self._unmarked = timedelta(seconds=unmarked_s)

    async def send(
        self, source: Path, spot: Spot, *, size: int, sha256: str, attempt_id: str, abandoned: asyncio.Event
    ) -> Ticket:
        """Uploads a file and leaves it open; ends the upload where that fails or is ``abandoned``.

        :raises Fault: as of any request.
        """
        upload = await self._ask(
            lambda client: client.create_multipart_upload(
                Bucket=spot.bucket,
                Key=spot.key,
                ContentType=content_type(spot.key),
                Metadata={ATTEMPT: attempt_id, SHA256: sha256},
                ChecksumAlgorithm="CRC32",
                ChecksumType="FULL_OBJECT",
            )["UploadId"]
        )
        try:
            await self._send(spot, upload, MARK, attempt_id.encode)
            tags = await self._send_all(source, size, spot, upload, abandoned)
        except BaseException:
            with suppress(Fault):
                await self.abort(spot, upload)
            raise
        return Ticket(upload, attempt_id, len(tags), _digest_of_tags(tags))

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

        return await patiently(self._patience, sent)

    async def parts(self, spot: Spot, ticket: Ticket, size: int) -> list[Any]:
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

    async def complete(self, spot: Spot, upload: str, parts: Sequence[Any], *, anew: bool) -> None:
        """One request; ``anew``: only where nothing has the name.

        :raises Fault: EXISTS, GONE, or as of any request.
        """
        condition: Any = {"IfNoneMatch": "*"} if anew else {}
        await self._requests.call(
            lambda client: client.complete_multipart_upload(
                Bucket=spot.bucket,
                Key=spot.key,
                UploadId=upload,
                MultipartUpload={"Parts": [*parts]},
                ChecksumType="FULL_OBJECT",
                **condition,
            )
        )

    async def abort(self, spot: Spot, upload: str) -> None:
        try:
            await self._requests.call(
                lambda client: client.abort_multipart_upload(Bucket=spot.bucket, Key=spot.key, UploadId=upload)
            )
        except Fault as fault:
            if fault.kind not in (Kind.GONE, Kind.MISSING):
                raise

    async def end_those_of(self, spot: Spot, attempt_id: str) -> Ended:
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
            await self.abort(spot, upload)
        return Ended(len(uploads), unclear)

    async def _ask(self, work: Callable[[S3Client], T]) -> T:
        return await patiently(self._patience, lambda: self._requests.call(work))


def part_length(size: int) -> int:
    """How long parts are so that they are few enough; whole mebibytes."""
    least = -(-size // (MARK - 1))
    return max(PART_BYTES, -(-least // 2**20) * 2**20)


def _digest_of_tags(tags: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(tag.strip('"') for tag in tags).encode()).hexdigest()[:32]


def _base64(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()
