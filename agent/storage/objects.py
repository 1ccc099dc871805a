"""The stores behind ``gs://`` and ``az://``: objects staged under a key of the attempt's own beside their target."""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from agent.storage.content import content_of
from agent.storage.content_types import content_type
from agent.storage.download import AT_ONCE, CHUNK_BYTES, PIECE_BYTES, Found, Remote, Write
from agent.storage.faults import Fault, Kind, unpublished, unsigned
from agent.storage.patience import Patience, patiently
from agent.storage.stores import StoreKind
from agent.storage.values import Identity, SignedUrl, Staged
from presets.uris import object_uri, place

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

    from agent.storage.stores import StoreTable

T = TypeVar("T")

STAGING = ".mediactl"

# Names of Azure's metadata are those of variables.
_ATTEMPT, _SHA256 = "mediactl_attempt", "mediactl_sha256"


class Key(NamedTuple):
    """An object of a bucket (Azure calls those containers)."""

    bucket: str
    name: str


class ObstoreStore(Remote):
    """Objects of Google Cloud Storage or Azure Blob Storage. See :class:`ObjectStore`.

    ``opened`` makes what talks to a bucket, given how often it asks again by itself.
    """

    def __init__(
        self,
        name: str,
        table: StoreTable,
        *,
        patience: Patience | None = None,
        opened: Callable[[str, int], Bucket] | None = None,
    ) -> None:
        super().__init__(name, patience or Patience())
        self._table = table
        self._opened = opened or (lambda bucket, retries: open_bucket(table, bucket, self.patience, retries))
        self._buckets: dict[tuple[str, int], Bucket] = {}

    # --- inputs

    async def find(self, uri: str) -> Found:
        key = self._key(uri)
        meta, attributes = await self._head(key)
        tag = meta["e_tag"] or ""
        return Found(
            Identity(meta["size"], tag.strip('"') or f"{meta['last_modified'].isoformat()}-{meta['size']}"),
            tag=tag,
            sha256=attributes.get(_SHA256, ""),
        )

    async def copy(self, uri: str, found: Found, start: int, end: int, write: Write) -> None:
        import obstore  # noqa: PLC0415 - an idle agent needs none

        key = self._key(uri)
        options: Any = {"range": (start, end), "if_match": found.tag or None}

        async def read() -> None:
            got = await obstore.get_async(self._bucket(key), key.name, options=options)
            if got.range != (start, end) or got.meta["size"] != found.identity.size:
                raise Fault(Kind.CHANGED, "it is another version now")
            async for data in got.stream(CHUNK_BYTES):
                await asyncio.to_thread(write, bytes(data))

        try:
            await _translated(read())
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                raise Fault(Kind.CHANGED, "it is gone now") from None
            raise

    # --- outputs

    async def check_target(self, uri: str, *, overwrite: bool) -> None:
        async def check() -> None:
            key = self._target(uri)
            try:
                await self._head(key)
            except Fault as fault:
                if fault.kind is not Kind.MISSING:
                    raise
            else:
                if not overwrite:
                    raise Fault(Kind.EXISTS, "")

        await self._publishing(uri, check)

    async def stage(self, source: Path, uri: str, attempt_id: str) -> Staged:
        if "/" in attempt_id or not attempt_id:
            raise ValueError(f"attempt id {attempt_id!r} cannot be part of a name")

        async def put() -> Staged:
            import obstore  # noqa: PLC0415

            key = self._staging(self._target(uri), attempt_id)
            size, sha256 = await asyncio.to_thread(content_of, source)
            attributes: Any = {"Content-Type": content_type(key.name), _ATTEMPT: attempt_id, _SHA256: sha256}
            await _translated(
                obstore.put_async(
                    self._bucket(key, self.patience.tries - 1),
                    key.name,
                    source,
                    attributes=attributes,
                    use_multipart=size > PIECE_BYTES,
                    chunk_size=max(PIECE_BYTES, -(-size // 9_000)),
                    max_concurrency=AT_ONCE,
                )
            )
            meta, _ = await self._head(key)
            if meta["size"] != size:
                raise Fault(Kind.BUSY, "what arrived is not as long as what was sent")
            return Staged(self._staging_uri(uri, attempt_id), size, sha256)

        work = asyncio.ensure_future(self._publishing(uri, put))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            with suppress(Exception):
                await self.discard(self._staging_uri(uri, attempt_id))
            raise

    async def complete(self, final_uri: str, staged_uri: str, *, sha256: str, size: int, overwrite: bool) -> None:
        await self._publishing(final_uri, lambda: self._complete(final_uri, staged_uri, sha256, size, overwrite))

    async def _complete(self, final_uri: str, staged_uri: str, sha256: str, size: int, overwrite: bool) -> None:
        import obstore  # noqa: PLC0415

        final, staged = self._target(final_uri), self._staged(staged_uri)
        attempt_id = posixpath.basename(posixpath.dirname(staged.name))
        try:
            meta, _ = await self._head(staged)
            if meta["size"] != size:
                raise Fault(Kind.GONE, "what was staged for it has been altered")
            await _translated(obstore.copy_async(self._bucket(final), staged.name, final.name, overwrite=overwrite))
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                await self._check_published(final, sha256, size)
                return
            if fault.kind is not Kind.EXISTS:
                raise
            meta, attributes = await self._head(final)
            if (meta["size"], attributes.get(_ATTEMPT), attributes.get(_SHA256)) != (size, attempt_id, sha256):
                raise
        await self._delete(staged)

    async def _check_published(self, final: Key, sha256: str, size: int) -> None:
        try:
            meta, attributes = await self._head(final)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                raise Fault(Kind.BUSY, "what was staged for it is gone and nothing was published") from None
            raise
        if meta["size"] == size:
            known = attributes.get(_SHA256) or await self._digest_of(final)
            if known == sha256:
                return
        raise Fault(Kind.GONE, "what was staged for it is gone and the name bears other content")

    async def discard(self, staged_uri: str) -> None:
        await self._publishing(staged_uri, lambda: self._delete(self._staged(staged_uri)), leaving=True)

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        async def remove() -> bool:
            staged = self._staging(self._target(uri), attempt_id)
            try:
                await self._head(staged)
            except Fault as fault:
                if fault.kind is Kind.MISSING:
                    return False
                raise
            await self._delete(staged)
            return True

        return await self._publishing(uri, remove, leaving=True)

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        import obstore  # noqa: PLC0415

        try:
            key, begun = self._key(uri), time.time()
            # With a role instead of a key this asks the cloud to sign. The object's own name is what it is saved under.
            signing = obstore.sign_async(self._bucket(key), "GET", key.name, timedelta(seconds=lifetime_s))  # type: ignore[call-overload]
            return SignedUrl(await _translated(signing), begun + lifetime_s)
        except Fault as fault:
            raise unsigned(uri, self.name, fault) from None

    async def _publishing(self, uri: str, work: Callable[[], Awaitable[T]], *, leaving: bool = False) -> T:
        try:
            return await patiently(self.patience, work)
        except Fault as fault:
            if leaving:
                fault = Fault(Kind.GONE, f"what was staged for it cannot be removed: {fault.words}")
            raise unpublished(uri, self.name, fault) from None

    # --- single requests

    async def _head(self, key: Key) -> tuple[Any, dict[str, str]]:
        import obstore  # noqa: PLC0415

        got = await _translated(obstore.get_async(self._bucket(key), key.name, options={"head": True}))
        return got.meta, {str(name): value for name, value in got.attributes.items()}

    async def _delete(self, key: Key) -> None:
        import obstore  # noqa: PLC0415

        try:
            await _translated(obstore.delete_async(self._bucket(key), key.name))
        except Fault as fault:
            if fault.kind is not Kind.MISSING:
                raise

    async def _digest_of(self, key: Key) -> str:
        import obstore  # noqa: PLC0415

        async def read() -> str:
            digest = hashlib.sha256()
            got = await obstore.get_async(self._bucket(key), key.name)
            async for data in got.stream(CHUNK_BYTES):
                await asyncio.to_thread(digest.update, bytes(data))
            return digest.hexdigest()

        return await _translated(read())

    def _bucket(self, key: Key, retries: int = 0) -> Bucket:
        made = self._buckets.get((key.bucket, retries))
        if made is None:
            try:
                made = self._buckets[key.bucket, retries] = self._opened(key.bucket, retries)
            except Exception as error:  # noqa: BLE001 - of the library, whose words may hold what it was given
                raise Fault(Kind.DENIED, f"it cannot be used as configured: {type(error).__name__}") from None
        return made

    # --- names

    def _key(self, uri: str) -> Key:
        bucket, _, name = self._table.path_of(uri).partition("/")
        # The library would take some of these for other names, and refuse the rest.
        parts = name.split("/")
        if not name or not {"", ".", ".."}.isdisjoint(parts) or any(ord(each) < 32 for each in name):
            raise Fault(Kind.REFUSED, "a name without empty parts, parts of dots and control characters is expected")
        return Key(bucket, name)

    def _target(self, uri: str) -> Key:
        key = self._key(uri)
        if len(key.name.encode()) > 1024 - 64:
            raise Fault(Kind.REFUSED, "the name is too long to be staged beside")
        return key

    def _staging(self, target: Key, attempt_id: str) -> Key:
        return Key(target.bucket, _beside(target.name, attempt_id))

    def _staging_uri(self, uri: str, attempt_id: str) -> str:
        at = place(uri)
        return object_uri(at.store, _beside(at.path, attempt_id))

    def _staged(self, staged_uri: str) -> Key:
        key = self._key(staged_uri)
        if key.name.split("/")[-3:-2] != [STAGING]:
            raise Fault(Kind.GONE, "it is no staged content")
        return key


def open_bucket(table: StoreTable, bucket: str, patience: Patience, retries: int) -> Bucket:
    """What talks to a bucket. Credentials: the table's file, else the platform's usual chain."""
    from obstore.store import AzureStore, GCSStore  # noqa: PLC0415

    client: Any = {
        "connect_timeout": timedelta(seconds=patience.connect_s),
        "read_timeout": timedelta(seconds=patience.silence_s),
        # Of a whole request: a piece or a part over a line of a megabit.
        "timeout": timedelta(minutes=5),
        "allow_http": bool(table.endpoint and table.endpoint.startswith("http:")),
    }
    retry: Any = {
        "max_retries": retries,
        "retry_timeout": timedelta(minutes=3),
        "backoff": {
            "init_backoff": timedelta(seconds=patience.first_wait_s),
            "max_backoff": timedelta(seconds=patience.longest_wait_s),
            "base": 2,
        },
    }
    settings: Any = {}
    if table.kind is StoreKind.GS:
        if table.endpoint:
            settings["base_url"] = table.endpoint
        if table.credentials_file:
            settings["service_account"] = str(table.credentials_file)
        return GCSStore(bucket, config=settings, client_options=client, retry_config=retry)
    if table.endpoint:
        settings["endpoint"] = table.endpoint
    if table.account:
        settings["account_name"] = table.account
    if table.credentials_file:
        settings["account_key"] = table.credentials_file.read_text(encoding="utf-8").strip()
    return AzureStore(bucket, config=settings, client_options=client, retry_config=retry)


async def _translated(work: Awaitable[T]) -> T:
    """What ``work`` gives; the library's exceptions become faults, without their words: URLs stand in them."""
    from obstore import exceptions as said  # noqa: PLC0415

    try:
        return await work
    except FileNotFoundError:
        raise Fault(Kind.MISSING, "there is no such object") from None
    except (said.PermissionDeniedError, said.UnauthenticatedError) as error:
        raise Fault(Kind.DENIED, type(error).__name__) from None
    except said.AlreadyExistsError:
        raise Fault(Kind.EXISTS, "something else has the name") from None
    except (said.PreconditionError, said.NotModifiedError):
        raise Fault(Kind.CHANGED, "it is another version now") from None
    except (said.NotSupportedError, said.InvalidPathError, said.UnknownConfigurationKeyError, ValueError) as error:
        raise Fault(Kind.REFUSED, f"the store cannot do this: {type(error).__name__}") from None
    except said.BaseError as error:
        raise Fault(Kind.BUSY, f"the connection to the store failed: {type(error).__name__}") from None


def _beside(name: str, attempt_id: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{STAGING}/{attempt_id}/{last}"
