"""What the blocking and the asyncio client share of uploads and downloads: files in pieces, and where to go on."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mediactl.errors import MediactlError
from mediactl.requests import Outage
from mediactl.v1 import transfer_service_pb2 as pb
from presets.reasons import Reason

PIECE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine as it was when it was looked at."""

    path: Path
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, told: Callable[[int], object] = lambda count: None) -> Self:
        """Reads all of it, telling how many bytes at a time. Raises MediactlError where that can't be."""
        try:
            if not path.is_file():
                missing = not path.exists()
                reason = Reason.INPUT_NOT_FOUND if missing else Reason.INPUT_UNAVAILABLE
                raise MediactlError(reason, f"{path}: {'there is no such file' if missing else 'it is no file'}")
            digest, size = hashlib.sha256(), 0
            with path.open("rb") as file:
                while data := file.read(PIECE_BYTES):
                    digest.update(data)
                    size += len(data)
                    told(len(data))
        except OSError as error:
            raise MediactlError(Reason.INPUT_UNAVAILABLE, f"{path}: {error.strerror}") from None
        if not size:
            raise MediactlError(Reason.INPUT_EMPTY, f"{path} is empty (0 bytes)")
        return cls(path, size, digest.hexdigest())

    def pieces(self, offset: int) -> Iterator[bytes]:
        """Its content from an offset on; no more than there was."""
        with self.path.open("rb") as file:
            file.seek(offset)
            while data := file.read(min(PIECE_BYTES, self.size - offset)):
                offset += len(data)
                yield data


class Sending:
    """The rest of an upload on its way: what to send next, and whether there is a point in trying again."""

    def __init__(self, upload: pb.Deposit, outage: Outage) -> None:
        self.upload = upload
        self.outage = outage
        # Whoever began it was there.
        outage.alive()
        self._sent_to = 0
        self._trouble: Exception | None = None

    @property
    def missing(self) -> bool:
        """Whether bytes are still to be sent."""
        return not self.upload.whole and self.upload.received_bytes < self.upload.size_bytes

    def messages(self, source: Callable[[int], Iterator[bytes]]) -> Iterator[pb.ExtendUploadRequest]:
        """Of another call, from where the controller has the upload. They end where `source` raises."""
        self._sent_to = self.upload.received_bytes
        try:
            for data in source(self._sent_to):
                yield self._message(data)
        except Exception as error:  # noqa: BLE001 - the library would tell nobody what it was; `ended` does
            self._trouble = error

    async def amessages(self, source: Callable[[int], AsyncIterator[bytes]]) -> AsyncIterator[pb.ExtendUploadRequest]:
        """As `messages`."""
        self._sent_to = self.upload.received_bytes
        try:
            async for data in source(self._sent_to):
                yield self._message(data)
        except Exception as error:  # noqa: BLE001 - as above
            self._trouble = error

    def _message(self, data: bytes) -> pb.ExtendUploadRequest:
        message = pb.ExtendUploadRequest(upload_id=self.upload.upload_id, offset=self._sent_to, data=data)
        self._sent_to += len(data)
        return message

    def learn(self, upload: pb.Deposit) -> None:
        """How far it is now."""
        if upload.received_bytes > self.upload.received_bytes:
            self.outage.alive()
        self.upload = upload

    def ended(self, upload: pb.Deposit) -> MediactlError | None:
        """The answer to a call that was not broken off; what stands in the way, if it did not take all.

        Raises what the source did, and MediactlError where it had no more to send.
        """
        if self._trouble is not None:
            raise self._trouble
        self.learn(upload)
        if not self.missing:
            return None
        if self._sent_to < upload.size_bytes and upload.received_bytes >= self._sent_to:
            raise MediactlError(Reason.INPUT_CHANGED, "the file has become shorter while it was uploaded")
        return MediactlError(Reason.STORE_UNAVAILABLE, "another upload of the same file goes on at the same time")


class Finishing:
    """The end of an upload as a series of requests, each of which may be the one that is answered."""

    def __init__(self, upload_id: str, overwrite: bool) -> None:
        self._request = pb.FinishUploadRequest(upload_id=upload_id, overwrite=overwrite)

    def request(self) -> pb.FinishUploadRequest:
        """What to ask for now."""
        return self._request

    def fresh(self, message: pb.FinishUploadResponse) -> bool:
        """Whether it is the one that is waited for."""
        return message.HasField("deposit")


class DepositReading:
    """A deposit's bytes as a series of requests: each goes on behind what arrived, in the same version."""

    def __init__(self, uri: str, upload_id: str, offset: int, length: int) -> None:
        self._request = pb.ReadDepositRequest(uri=uri, upload_id=upload_id, offset=offset, length=length)

    def request(self) -> pb.ReadDepositRequest:
        """What to ask for now."""
        return self._request

    def fresh(self, message: pb.ReadDepositResponse) -> bool:
        """Takes note of a piece; True where it brings bytes."""
        asked = self._request
        if message.HasField("deposit"):
            asked.upload_id = message.deposit.upload_id
            asked.length = asked.length or message.deposit.size_bytes - asked.offset
        asked.offset += len(message.data)
        asked.length -= len(message.data)
        return bool(message.data)


def finished(deposit: pb.Deposit | None) -> pb.Deposit:
    """What an upload has become. Raises MediactlError where the controller did not say."""
    if deposit is None:
        raise MediactlError(Reason.INTERNAL, "the controller did not say whether it finished the upload")
    return deposit
