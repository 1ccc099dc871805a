"""The requests of S3: one client for a store, its calls in threads, its errors as faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from agent.storage.faults import Fault, Kind
from agent.storage.values import SignedUrl

if TYPE_CHECKING:
    from datetime import datetime

    from types_boto3_s3 import S3Client

    from agent.storage.patience import Patience
    from agent.storage.stores import StoreTable

T = TypeVar("T")

#: Requests of one store at once: what several attempts download and upload in parallel.
THREADS = 16

_KINDS = {
    "NoSuchKey": Kind.MISSING,
    "NoSuchVersion": Kind.MISSING,
    "NoSuchBucket": Kind.NO_BUCKET,
    "NoSuchUpload": Kind.GONE,
    "PreconditionFailed": Kind.EXISTS,
    "InvalidRange": Kind.CHANGED,
    "ConditionalRequestConflict": Kind.BUSY,
    "OperationAborted": Kind.BUSY,
    "RequestTimeout": Kind.BUSY,
    "BadDigest": Kind.BUSY,
    "IncompleteBody": Kind.BUSY,
    "XAmzContentChecksumMismatch": Kind.BUSY,
    "XAmzContentSHA256Mismatch": Kind.BUSY,
    "TemporaryRedirect": Kind.BUSY,
    "SlowDown": Kind.BUSY,
    "Throttling": Kind.BUSY,
    "ThrottlingException": Kind.BUSY,
    "RequestLimitExceeded": Kind.BUSY,
    "InternalError": Kind.BUSY,
    "ServiceUnavailable": Kind.BUSY,
}
_BY_STATUS = {401: Kind.DENIED, 403: Kind.DENIED, 404: Kind.MISSING, 408: Kind.BUSY, 409: Kind.BUSY, 412: Kind.EXISTS}


class Requests:
    """Made at the first call; then the same one. Methods may be used by several tasks at once."""

    def __init__(self, table: StoreTable, patience: Patience, *, signature: str | None = None) -> None:
        self._table = table
        self._patience = patience
        self._signature = signature
        self._made: asyncio.Future[S3Client] | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")

    async def call(self, work: Callable[[S3Client], T]) -> T:
        """What ``work`` gives, done in a thread. Cancelled, it does not wait for the thread.

        :raises Fault: for what the library or the server answered.
        """
        if self._made is None:
            # Takes a third of a second and a lock, so no two do it.
            making = partial(client_of, self._table, self._patience, self._signature)
            self._made = asyncio.ensure_future(self._run(making))
        try:
            made = await asyncio.shield(self._made)
        except Fault:
            self._made = None
            raise
        return await self._run(lambda: work(made))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: translated(work))


def client_of(table: StoreTable, patience: Patience, signature: str | None = None) -> S3Client:
    """A client of boto3. Its own retries are off: there is one place for them."""
    import boto3  # noqa: PLC0415 - takes 40 MB, which an idle agent does not have to spare
    import botocore.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    settings = botocore.session.get_session()
    if table.credentials_file is not None:
        settings.set_config_variable("credentials_file", str(table.credentials_file))
        # What the file says counts, not what the environment has for others.
        settings.set_config_variable("profile", table.profile or "default")
        resolver = settings.get_component("credential_provider")
        resolver.providers[:] = [resolver.get_provider("shared-credentials-file")]
    session = boto3.session.Session(
        botocore_session=settings, profile_name=table.profile or None, region_name=table.region or None
    )
    made: S3Client = session.client(
        "s3",
        endpoint_url=table.endpoint or None,
        # A server of one's own seldom has regions, but signing needs a name.
        region_name=table.region or session.region_name or "us-east-1",
        config=Config(
            connect_timeout=patience.connect_s,
            read_timeout=patience.silence_s,
            retries={"total_max_attempts": 1},
            max_pool_connections=THREADS,
            signature_version=signature,
            # Of the whole, not of ranges: that is the download's to do.
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if table.path_style else "auto"},
            tcp_keepalive=True,
        ),
    )
    return made


def signed_url(client: S3Client, bucket: str, key: str, name: str, lifetime_s: int) -> SignedUrl:
    """A URL of an object that browsers save as ``name``. It ends with the credentials that sign it, where these end."""
    expires = time.time() + lifetime_s
    ascii_name = "".join(each if " " <= each <= "~" and each not in '\\"%' else "_" for each in name)
    disposition = f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"
    url = client.generate_presigned_url(
        "get_object",
        Params={"Bucket": bucket, "Key": key, "ResponseContentDisposition": disposition},
        ExpiresIn=lifetime_s,
    )
    # Asked afterwards: signing renews what is about to end.
    ends: datetime | None = getattr(client._get_credentials(), "_expiry_time", None)  # type: ignore[attr-defined]
    return SignedUrl(url, expires if ends is None else min(expires, ends.timestamp()))


def translated(work: Callable[[], T]) -> T:
    """What ``work`` gives; the exceptions of boto3 and what is below it become faults.

    :raises Fault: without the library's words, in which there may be more than a code.
    """
    from boto3.exceptions import Boto3Error  # noqa: PLC0415
    from botocore import exceptions as said  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        return work()
    except said.ClientError as error:
        raise answered(error.response) from None
    except (
        said.NoCredentialsError,
        said.PartialCredentialsError,
        said.CredentialRetrievalError,
        said.ProfileNotFound,
        said.ConfigNotFound,
        said.ConfigParseError,
        said.TokenRetrievalError,
        said.SSOError,
    ) as error:
        raise Fault(Kind.DENIED, f"no credentials: {type(error).__name__}") from None
    except (said.ParamValidationError, said.InvalidEndpointConfigurationError, said.InvalidRegionError) as error:
        raise Fault(Kind.REFUSED, f"the request cannot be made: {type(error).__name__}") from None
    except (said.BotoCoreError, Boto3Error, HTTPError) as error:
        raise Fault(Kind.BUSY, f"the connection to the store failed: {type(error).__name__}") from None
    except RecursionError:
        # The library looks for the bucket's region upon each redirect, also upon one of that question.
        raise Fault(Kind.BUSY, "it redirects without end; check the store's region and endpoint") from None
    except ValueError as error:
        raise Fault(Kind.REFUSED, f"the request cannot be made: {type(error).__name__}") from None


def answered(response: Any) -> Fault:
    """What an error answer of S3 means."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = 0
    with suppress(TypeError, ValueError):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    kind = _KINDS.get(code)
    if kind is None:
        busy = status >= 500 or status == 429 or 200 <= status < 300
        kind = Kind.BUSY if busy else _BY_STATUS.get(status, Kind.REFUSED)
    words = f"it answered {code if code.isalnum() else 'an error'}"
    if status and code != str(status):
        words += f" ({status})"
    if 300 <= status < 400:
        words += "; check the store's region and endpoint"
    return Fault(kind, words)


def slice_of(source: Path, start: int, length: int) -> Any:
    """A part of a file to send, read as it is sent."""
    from s3transfer.utils import ReadFileChunk  # noqa: PLC0415

    return ReadFileChunk.from_filename(str(source), start, length)
