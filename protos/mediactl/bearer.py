"""A bearer token on every call (RFC 6750).

gRPC's own call credentials are refused on channels it does not count as secure, loopback and unix sockets among
them; interceptors work on all of them. The token is asked for at each call, so that a rotated file is taken up.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from grpc import aio

METADATA_KEY: Final = "authorization"

Token = Callable[[], str]

_Q = TypeVar("_Q")
_C = TypeVar("_C")


def credential(token: str) -> str:
    """The metadata value that carries a token."""
    return f"Bearer {token}"


@dataclass(frozen=True)
class _SyncDetails(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class SyncBearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """For `grpc.intercept_channel`."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def _with_token(self, details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        return _SyncDetails(
            details.method,
            details.timeout,
            (*(details.metadata or ()), (METADATA_KEY, credential(self._token()))),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, _Q], _C],
        client_call_details: grpc.ClientCallDetails,
        request: _Q,
    ) -> _C:
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, _Q], _C],
        client_call_details: grpc.ClientCallDetails,
        request: _Q,
    ) -> _C:
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Iterator[_Q]], _C],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[_Q],
    ) -> _C:
        return continuation(self._with_token(client_call_details), request_iterator)

    def intercept_stream_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Iterator[_Q]], _C],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[_Q],
    ) -> _C:
        return continuation(self._with_token(client_call_details), request_iterator)


def aio_bearer(token: Token) -> list[aio.ClientInterceptor]:
    """For `grpc.aio` channels, which take one object for each kind of call."""
    return [_AioUnaryUnary(token), _AioUnaryStream(token), _AioStreamUnary(token), _AioStreamStream(token)]


def _aio_with_token(details: aio.ClientCallDetails, token: Token) -> aio.ClientCallDetails:
    metadata = aio.Metadata(*(details.metadata or ()))
    metadata.add(METADATA_KEY, credential(token()))
    return aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


class _AioUnaryUnary(aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_unary_unary(
        self,
        continuation: Callable[[aio.ClientCallDetails, _Q], Awaitable[_C]],
        client_call_details: aio.ClientCallDetails,
        request: _Q,
    ) -> _C:
        return await continuation(_aio_with_token(client_call_details, self._token), request)


class _AioUnaryStream(aio.UnaryStreamClientInterceptor):
    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_unary_stream(
        self,
        continuation: Callable[[aio.ClientCallDetails, _Q], Awaitable[_C]],
        client_call_details: aio.ClientCallDetails,
        request: _Q,
    ) -> _C:
        return await continuation(_aio_with_token(client_call_details, self._token), request)


_Stream = AsyncIterable[_Q] | Iterable[_Q]


class _AioStreamUnary(aio.StreamUnaryClientInterceptor):
    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_stream_unary(
        self,
        continuation: Callable[[aio.ClientCallDetails, _Stream[_Q]], Awaitable[_C]],
        client_call_details: aio.ClientCallDetails,
        request_iterator: _Stream[_Q],
    ) -> _C:
        return await continuation(_aio_with_token(client_call_details, self._token), request_iterator)


class _AioStreamStream(aio.StreamStreamClientInterceptor):
    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_stream_stream(
        self,
        continuation: Callable[[aio.ClientCallDetails, _Stream[_Q]], Awaitable[_C]],
        client_call_details: aio.ClientCallDetails,
        request_iterator: _Stream[_Q],
    ) -> _C:
        return await continuation(_aio_with_token(client_call_details, self._token), request_iterator)
