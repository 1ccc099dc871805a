"""Where the bytes of an artifact come from: a file of this machine, the controller, or a store by a signed URL."""

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from ctl import web
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2, job_service_pb2
from presets.reasons import Reason
from presets.uris import shown, uri_to_path

PIECE_BYTES: Final = 1 << 20
# Signed anew where it takes longer: a URL need only be valid when a request begins.
_LIFETIME_S: Final = 3600


class Interrupted(Exception):
    """It broke off, and may go on from where it came to; the message says how."""


class Source(Protocol):
    """Of one artifact."""

    def read(self, offset: int) -> Iterator[bytes]:
        """Its bytes from there to the end, in pieces of a few MiB at the most. May be called again and again.

        Ending early, or with more than there should be, is for the caller to notice. Raises Interrupted where another
        call may bring the rest, MediactlError where none will.
        """
        ...


class FileSource:
    """A file of this machine. `whose` names the agent that published it."""

    def __init__(self, artifact: job_pb2.Artifact, whose: Callable[[], str]) -> None:
        self._path = uri_to_path(artifact.uri)
        self._size = artifact.size_bytes
        self._whose = whose

    def read(self, offset: int) -> Iterator[bytes]:
        """See `Source`. Raises OSError where it can't be read."""
        try:
            # Should a FIFO have taken its place, nobody waits for it.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise unavailable(
                f"{self._path} is not on this machine: agent {self._whose()} published it on its own; "
                "do this there, or copy it from there"
            ) from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != self._size:
                raise unavailable(
                    f"{self._path} of this machine is not what agent {self._whose()} published: it was changed, or is "
                    "another file than the agent's"
                )
            file.seek(offset)
            while data := file.read(PIECE_BYTES):
                yield data


class DepositSource:
    """What the controller has in its own store."""

    def __init__(self, artifact: job_pb2.Artifact, client: Client) -> None:
        self._uri = artifact.uri
        self._client = client

    def read(self, offset: int) -> Iterator[bytes]:
        """See `Source`."""
        for piece in self._client.read_deposit(self._uri, offset=offset):
            yield piece.data


class SignedUrls:
    """Of a job's artifacts, all signed at once and again when one has expired."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._signed: dict[str, job_service_pb2.SignedArtifact] = {}

    def url(self, uri: str, *, anew: bool = False) -> str:
        """Raises MediactlError where there is none."""
        if anew or uri not in self._signed:
            answer = self._client.sign_artifacts(self._job_id, lifetime_s=_LIFETIME_S)
            self._signed = {one.uri: one for one in answer.artifacts}
        signed = self._signed.get(uri)
        if signed is None:
            raise unavailable(f"{shown(uri)} is no artifact of the job any more")
        if signed.HasField("failure"):
            raise MediactlError(signed.failure.reason, signed.failure.message)
        return signed.url


class SignedSource:
    """An object, by a URL that an agent signs."""

    def __init__(self, artifact: job_pb2.Artifact, urls: SignedUrls) -> None:
        self._uri = artifact.uri
        self._size = artifact.size_bytes
        self._urls = urls

    def read(self, offset: int) -> Iterator[bytes]:
        """See `Source`."""
        try:
            try:
                yield from web.read(self._urls.url(self._uri), offset, self._size)
            except web.Denied:
                yield from web.read(self._urls.url(self._uri, anew=True), offset, self._size)
        except web.Broken as error:
            raise Interrupted(str(error)) from None
        except web.Denied as error:
            raise unavailable(
                f"{shown(self._uri)}: the store refuses a URL that was signed just now ({error}): the agents' "
                "credentials don't let them read it, or a clock is wrong"
            ) from None
        except web.Useless as error:
            raise unavailable(f"{shown(self._uri)}: {error}") from None


def unavailable(message: str) -> MediactlError:
    """An artifact can't be had."""
    return MediactlError(Reason.ARTIFACT_UNAVAILABLE, message)
