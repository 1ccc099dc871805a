"""The store behind ``https://`` and ``http://``: inputs only, from wherever a URL may lead, which is not everywhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Never
from urllib.parse import quote, urljoin, urlsplit

from agent.storage.addresses import forbidden
from agent.storage.download import CHUNK_BYTES, Found, Remote, Write
from agent.storage.faults import Fault, Kind, unpublished, unsigned
from agent.storage.patience import Patience
from agent.storage.values import Identity, SignedUrl, Staged
from presets.uris import WEB

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from aiohttp.abc import AbstractResolver

    from agent.storage.stores import StoreTable

MOST_REDIRECTS = 5

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_DENIED = frozenset({401, 403, 407})


class WebStore(Remote):
    """Reads what a URL leads to. See :class:`ObjectStore`.

    Neither a URL nor a redirect leads to the machine itself or to what only the host's own software is meant to ask,
    unless it is the endpoint that the store was configured with.
    """

    def __init__(self, name: str, table: StoreTable, *, patience: Patience | None = None) -> None:
        super().__init__(name, patience or Patience())
        self._table = table

    async def find(self, uri: str) -> Found:
        # A range tells whether there are ranges, and a signed URL is often good for GET alone.
        async with self._get(uri, {"Range": "bytes=0-0"}) as answer:
            told = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status == 416 and told and told[3] == "0":
                return Found(Identity(0, ""))
            ranged = answer.status == 206 and told is not None
            if not ranged:
                _check_status(answer, 200)
            size = int(told[3]) if ranged and told else answer.content_length
            if size is None:
                raise Fault(Kind.REFUSED, "the server does not tell how long it is")
            tag = answer.headers.get("ETag", "")
            return Found(Identity(size, _token(answer, size)), tag="" if tag.startswith("W/") else tag, ranged=ranged)

    async def copy(self, uri: str, found: Found, start: int, end: int, write: Write) -> None:
        asked = {"If-Match": found.tag} if found.tag else {}
        if found.ranged:
            asked["Range"] = f"bytes={start}-{end - 1}"
        async with self._get(uri, asked) as answer:
            if answer.status in (404, 410, 412, 416):
                raise Fault(Kind.CHANGED, "it is another version now")
            _check_status(answer, 206 if found.ranged else 200)
            size = found.identity.size
            if found.ranged and answer.headers.get("Content-Range") != f"bytes {start}-{end - 1}/{size}":
                told = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                kind = Kind.CHANGED if told and int(told[3]) != size else Kind.BUSY
                raise Fault(kind, "the server sent another range than was asked for")
            if _token(answer, size) != found.identity.token:
                raise Fault(Kind.CHANGED, "it is another version now")
            async for data in answer.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(write, data)

    async def check_target(self, uri: str, *, overwrite: bool) -> None:
        self._refuse(uri)

    async def stage(self, source: Path, uri: str, attempt_id: str) -> Staged:
        self._refuse(uri)

    async def complete(self, final_uri: str, staged_uri: str, *, sha256: str, size: int, overwrite: bool) -> None:
        self._refuse(final_uri)

    async def discard(self, staged_uri: str) -> None:
        self._refuse(staged_uri)

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        self._refuse(uri)

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        try:
            return SignedUrl(self._url(uri), None)
        except Fault as fault:
            raise unsigned(uri, self.name, fault) from None

    def _refuse(self, uri: str) -> Never:
        raise unpublished(uri, self.name, Fault(Kind.REFUSED, f"the store {self.name!r} is for inputs only"))

    def _url(self, uri: str) -> str:
        path = self._table.path_of(uri)
        scheme = uri.partition(":")[0].lower()
        if scheme in WEB or self._table.endpoint is None:
            return f"{scheme}://{path}"
        return f"{self._table.endpoint.rstrip('/')}/{quote(path, safe='/~')}"

    @asynccontextmanager
    async def _get(self, uri: str, headers: Mapping[str, str]) -> AsyncIterator[ClientResponse]:
        """The answer behind all redirects."""
        import aiohttp  # noqa: PLC0415 - an idle agent needs none
        import yarl  # noqa: PLC0415

        url = self._url(uri)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.patience.connect_s, sock_read=self.patience.silence_s
        )
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver()),
                timeout=timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "mediactl", **headers},
                read_bufsize=CHUNK_BYTES,
            ) as session:
                for _ in range(MOST_REDIRECTS + 1):
                    self._check_host(url)
                    async with session.get(yarl.URL(url, encoded=True), allow_redirects=False) as answer:
                        if answer.status not in (301, 302, 303, 307, 308):
                            yield answer
                            return
                        url = _followed(url, answer.headers.get("Location", ""))
                raise Fault(Kind.REFUSED, f"more than {MOST_REDIRECTS} redirects")
        except (aiohttp.InvalidURL, ValueError):
            raise Fault(Kind.REFUSED, "it is no URL that can be asked for") from None
        except aiohttp.ClientConnectorCertificateError:
            raise Fault(Kind.REFUSED, "the server's certificate is not valid for it") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            cause = error.__cause__
            if isinstance(cause, _Forbidden):
                raise Fault(Kind.REFUSED, str(cause)) from None
            raise Fault(Kind.BUSY, f"the connection failed: {type(error).__name__}") from None

    def _check_host(self, url: str) -> None:
        """Addresses written as such never come to the resolver."""
        host = urlsplit(url).hostname or ""
        if not self._is_endpoint(url) and (why := forbidden(host)):
            raise Fault(Kind.REFUSED, _leads(why))

    def _is_endpoint(self, url: str) -> bool:
        return self._table.endpoint is not None and _authority(url) == _authority(self._table.endpoint)

    def _resolver(self) -> AbstractResolver:
        import aiohttp  # noqa: PLC0415

        endpoint = _authority(self._table.endpoint)[1:] if self._table.endpoint else None

        class Resolver(aiohttp.ThreadedResolver):
            async def resolve(self, host: str, port: int = 0, family: int = 0):  # type: ignore[no-untyped-def]
                found = await super().resolve(host, port, family)  # type: ignore[arg-type]
                # Exactly these are connected to: a name can't lead elsewhere a moment later.
                for each in found:
                    if (host, port) != endpoint and (why := forbidden(each["host"])):
                        raise _Forbidden(_leads(why))
                return found

        return Resolver()


class _Forbidden(OSError):
    """A name leads where no job may."""


def _leads(why: str) -> str:
    return f"it leads to {why}, which jobs may not ask"


def _authority(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _followed(url: str, location: str) -> str:
    target = urljoin(url, location)
    scheme = urlsplit(target).scheme
    if not location or scheme not in WEB:
        raise Fault(Kind.REFUSED, "the server redirects to what is no https: or http: URL")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise Fault(Kind.REFUSED, "the server redirects from https: to http:")
    return target


def _check_status(answer: ClientResponse, expected: int) -> None:
    """:raises Fault: for any answer that does not bring what was asked for."""
    status = answer.status
    words = f"the server answered {status}"
    if status == expected:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Fault(Kind.REFUSED, "the server sends it compressed only")
        return
    if status in (404, 410):
        raise Fault(Kind.MISSING, words)
    if status in _DENIED:
        raise Fault(Kind.DENIED, words)
    busy = status >= 500 or status in (408, 425, 429) or 200 <= status < 300
    raise Fault(Kind.BUSY if busy else Kind.REFUSED, words)


def _token(answer: ClientResponse, size: int) -> str:
    if tag := answer.headers.get("ETag", "").removeprefix("W/").strip('"'):
        return tag
    modified = answer.headers.get("Last-Modified", "")
    return f"{modified}-{size}" if modified else ""
