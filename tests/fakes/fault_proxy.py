"""An HTTP/1.1 proxy before an object store, which spoils the requests that a plan names and remembers all of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import defaultdict
from dataclasses import dataclass
from typing import Self, TypeAlias
from urllib.parse import unquote

from tests.fakes.http_faults import Kind, Plan

_HEAD_LIMIT = 256 * 1024
_TRICKLES = 20
_REMEMBERED_BYTES = 8 << 20
_ELSEWHERE = "/elsewhere"
_REFUSALS = {
    Kind.ERROR: (500, "InternalError"),
    Kind.SLOW_DOWN: (503, "SlowDown"),
    Kind.CONFLICT: (409, "ConditionalRequestConflict"),
}


_Question: TypeAlias = tuple[str, str, str, str | None]


class _Gone(Exception):
    """The client has no further request, or left in the middle of one."""


class _Cut(Exception):
    """The plan wants the connection reset now."""


@dataclass(slots=True)
class Exchange:
    """One request: `status` is what the client was answered, None where it heard none; `fault` what befell it.

    A fault that cannot befall a request, such as bytes changed in an answer without a body, is not recorded.
    """

    number: int
    method: str
    path: str
    query: str
    range: str | None
    sent_bytes: int = 0
    status: int | None = None
    fault: Kind | None = None

    def __str__(self) -> str:
        target = f"{self.path}?{self.query}" if self.query else self.path
        extent = f" [{self.range}]" if self.range else ""
        return f"{self.number} {self.method} {target}{extent}: {self.status or 'unanswered'}, {self.fault or 'whole'}"


@dataclass(frozen=True, slots=True)
class _Message:
    """A request or an answer: first line, header lines (names as sent), and the whole body."""

    first: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def without(self, *names: str) -> tuple[tuple[str, str], ...]:
        return tuple((key, value) for key, value in self.headers if key.lower() not in names)

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    def head(self) -> bytes:
        lines = [self.first, *(f"{key}: {value}" for key, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


class FaultProxy:
    """Listens at `address` for clients of the server at `target` (both host:port). An async context manager.

    Bodies are held in memory whole. `slow_s` is how long a trickling answer takes, `silence_s` how long an unanswered
    connection is held before it is reset. `plan` may be exchanged by `restart`. Completions of multipart uploads of
    one object are forwarded one after the other, as S3 carries them out and SeaweedFS does not.
    """

    def __init__(self, target: str, plan: Plan | None = None, *, slow_s: float = 0.5, silence_s: float = 30.0) -> None:
        self.exchanges: list[Exchange] = []
        """Every request since the start or the last `restart`, in the order in which they came."""
        self.plan = plan or Plan()
        self._target = target
        self._slow_s = slow_s
        self._silence_s = silence_s
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._in_a_row: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._writes: defaultdict[str, int] = defaultdict(int)
        self._answers: defaultdict[_Question, dict[int, _Message]] = defaultdict(dict)

    @property
    def address(self) -> str:
        assert self._server, "not started"
        return "{}:{}".format(*self._server.sockets[0].getsockname())

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def restart(self, plan: Plan) -> None:
        """Forgets the requests so far; the next one is number 1 of the new plan. What was written stays known."""
        self.plan = plan
        self.exchanges = []

    @property
    def befell(self) -> list[Kind]:
        """The faults that did befall requests, in their order."""
        return [exchange.fault for exchange in self.exchanges if exchange.fault]

    def __str__(self) -> str:
        return "\n".join([f"plan: {self.plan}", *map(str, self.exchanges)])

    # --- connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            while await self._serve(reader, writer):
                pass
        except _Cut:
            _reset(writer)
        except (_Gone, ConnectionError, asyncio.CancelledError):
            pass  # cancelled by `__aexit__` alone; asyncio's own callback would trip over it
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another may follow on this connection."""
        head = await _read_head(reader)
        method, target, _ = head.first.split(" ", 2)
        path, _, query = target.partition("?")
        exchange = Exchange(len(self.exchanges) + 1, method, unquote(path), query, head.get("range"))
        self.exchanges.append(exchange)
        if path.startswith(_ELSEWHERE):
            answer = _Message("HTTP/1.1 200 OK", (), b"not what was asked for")
        else:
            answer = await self._spoiled(head, reader, writer, exchange)
        exchange.status = answer.status
        await self._answer(answer, writer, exchange)
        return (head.get("connection") or "").lower() != "close" and exchange.fault is not Kind.TRUNCATED

    async def _spoiled(
        self, head: _Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: Exchange
    ) -> _Message:
        """The answer for the client, spoiled before, while or after the server made it. Raises _Cut."""
        kind = self.plan.fault_at(exchange.number)
        if kind is Kind.CUT_BEFORE:
            exchange.fault = kind
            raise _Cut
        kept = head.without("connection", "expect", "transfer-encoding", "content-length")
        if (head.get("expect") or "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(head.get("content-length") or 0)
        if kind is Kind.CUT_IN_REQUEST and length:
            exchange.fault = kind
            await self._forward_half(_Message(head.first, kept), reader, length)
            raise _Cut
        request = _Message(head.first, kept, await _read_body(head, reader, to_end=False))
        exchange.sent_bytes = len(request.body)
        if (kind in _REFUSALS) and (kind is not Kind.CONFLICT or request.get("if-none-match")):
            exchange.fault = kind
            return _refusal(*_REFUSALS[kind])
        if kind is Kind.REDIRECT:
            exchange.fault = kind
            where = f"{self.endpoint}{_ELSEWHERE}{head.first.split(' ')[1]}"
            return _refusal(307, "TemporaryRedirect", ("Location", where))
        if kind is Kind.SILENT:
            exchange.fault = kind
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_s):
                    await reader.read(1)  # until the client has had enough
            raise _Cut
        if kind is Kind.STALE and (stale := self._stale(request, exchange)):
            exchange.fault = kind
            return stale
        answer = await self._forwarded(request, exchange)
        self._remember(exchange, answer)
        if kind is Kind.CUT_AFTER:
            exchange.fault = kind
            raise _Cut
        if kind is Kind.SLOW or (kind in _OF_BODIES and answer.body):
            exchange.fault = kind
        return answer

    async def _answer(self, answer: _Message, writer: asyncio.StreamWriter, exchange: Exchange) -> None:
        body, declared = answer.body, len(answer.body)
        match exchange.fault:
            case Kind.CUT_IN_ANSWER | Kind.TRUNCATED:
                body = body[: len(body) // 2]
            case Kind.WRONG_LENGTH:
                body = body[: len(body) // 2]
                declared = len(body)
            case Kind.WRONG_BYTES:
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            case _:
                pass
        headers = answer.without("connection", "transfer-encoding", "content-length")
        if exchange.method == "HEAD":  # it tells the length of a body that it does not have
            body, declared = b"", int(answer.get("content-length") or declared)
        data = _Message(answer.first, (*headers, ("Content-Length", str(declared)))).head() + body
        if exchange.fault is Kind.SLOW:
            size = max(1, len(data) // _TRICKLES + 1)
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(self._slow_s / _TRICKLES)
            return
        writer.write(data)
        await writer.drain()
        if exchange.fault is Kind.CUT_IN_ANSWER:
            raise _Cut

    # --- the server

    async def _forwarded(self, request: _Message, exchange: Exchange) -> _Message:
        if exchange.method == "POST" and "uploadId=" in exchange.query:
            async with self._in_a_row[exchange.path]:
                return await self._exchange(request, exchange.method)
        return await self._exchange(request, exchange.method)

    async def _exchange(self, request: _Message, method: str) -> _Message:
        try:
            reader, writer = await self._dial()
        except OSError:
            return _refusal(502, "BadGateway")
        try:
            writer.write(_framed(request, len(request.body)).head() + request.body)
            await writer.drain()
            answer = await _read_head(reader)
            while answer.status == 100:
                answer = await _read_head(reader)
            if method == "HEAD" or answer.status in {204, 304}:
                return answer
            return _Message(answer.first, answer.headers, await _read_body(answer, reader, to_end=True))
        except (_Gone, ConnectionError) as error:
            raise _Cut from error
        finally:
            writer.close()

    async def _forward_half(self, request: _Message, reader: asyncio.StreamReader, length: int) -> None:
        _, writer = await self._dial()
        writer.write(_framed(request, length).head())
        left = max(1, length // 2)
        while left and (data := await reader.read(min(left, 65536))):
            writer.write(data)
            await writer.drain()
            left -= len(data)
        _reset(writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._target.rsplit(":", 1)
        return await asyncio.open_connection(host, int(port), limit=_HEAD_LIMIT)

    # --- what was there before

    def _remember(self, exchange: Exchange, answer: _Message) -> None:
        written = exchange.method in {"PUT", "DELETE"} and "uploadId=" not in exchange.query
        completed = exchange.method == "POST" and "uploadId=" in exchange.query
        if answer.status >= 300:
            return
        if written or completed:
            self._writes[exchange.path] += 1
        elif exchange.method in {"GET", "HEAD"} and len(answer.body) <= _REMEMBERED_BYTES:
            self._answers[_question(exchange)][self._writes[exchange.path]] = answer

    def _stale(self, request: _Message, exchange: Exchange) -> _Message | None:
        """The last answer to the same question from before a write, or that there was nothing; None without a write.

        A server that is behind is so with its conditions as well.
        """
        writes = self._writes[exchange.path]
        if exchange.method not in {"GET", "HEAD"} or not writes:
            return None
        earlier = {at: answer for at, answer in self._answers[_question(exchange)].items() if at < writes}
        if not earlier:
            return _refusal(404, "NoSuchKey")
        answer = earlier[max(earlier)]
        wanted = request.get("if-match")
        return answer if wanted in {None, "*", answer.get("etag")} else _refusal(412, "PreconditionFailed")


_OF_BODIES = frozenset({Kind.CUT_IN_ANSWER, Kind.TRUNCATED, Kind.WRONG_LENGTH, Kind.WRONG_BYTES})


def _question(exchange: Exchange) -> _Question:
    # A presigned request is another one each second; what it asks for is not.
    asked = "&".join(field for field in exchange.query.split("&") if not field.startswith("X-Amz-"))
    return exchange.method, exchange.path, asked, exchange.range


def _refusal(status: int, code: str, *headers: tuple[str, str]) -> _Message:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>by the fault proxy</Message><RequestId>0</RequestId></Error>"
    )
    return _Message(f"HTTP/1.1 {status} {code}", (*headers, ("Content-Type", "application/xml")), body.encode())


def _framed(request: _Message, length: int) -> _Message:
    framing = (("Content-Length", str(length)), ("Connection", "close"))
    return _Message(request.first, (*request.headers, *framing))


async def _read_head(reader: asyncio.StreamReader) -> _Message:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        raise _Gone from error
    first, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return _Message(first, tuple((name, value.strip()) for name, _, value in pairs))


async def _read_body(head: _Message, reader: asyncio.StreamReader, *, to_end: bool) -> bytes:
    """As its header says; where it says nothing, none or, `to_end`, all until the connection ends."""
    try:
        if (head.get("transfer-encoding") or "").lower() == "chunked":
            chunks = []
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                chunks.append(await reader.readexactly(size))
                await reader.readexactly(2)
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return b"".join(chunks)
        length = head.get("content-length")
        if length is not None:
            return await reader.readexactly(int(length))
        return await reader.read(-1) if to_end else b""
    except asyncio.IncompleteReadError as error:
        raise _Gone from error


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection at once; the peer sees "connection reset"."""
    end = writer.get_extra_info("socket")
    if end is not None and end.fileno() >= 0:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
