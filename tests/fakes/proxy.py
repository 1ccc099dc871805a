"""A proxy between a client and a server, for links that break, hang or are slow. It knows no protocol: bytes only."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_CHUNK = 64 * 1024
_MOST_UNDER_WAY = 256
_PATIENCE_S = 10.0

_UnderWay = asyncio.Queue[tuple[float, bytes]]
"""Bytes that one direction has taken and not yet delivered, each with the loop time it is due; none is the end."""


@dataclass(eq=False, slots=True)
class _Link:
    """One connection: the sockets of both its ends and, once they carry bytes, their writers."""

    sockets: list[socket.socket]
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Ends both ends at once, unsent bytes lost: a TCP peer sees "connection reset"."""
        for end in self.sockets:
            if end.fileno() >= 0 and end.family != socket.AF_UNIX:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for writer in self.writers:
            writer.transport.abort()
        if self.task:
            self.task.cancel()

    def close_rest(self) -> None:
        """Closes what has no writer that does so. Only when the task is over: until then the loop may watch them."""
        for end in self.sockets[len(self.writers) :]:
            end.close()


class Proxy:
    """Passes bytes between whoever connects to `address` and `target`; both are `unix:PATH` or `host:port` (IPv4).

    An async context manager, used from its own event loop; `proxy_thread` has one for everybody else. `delay_s` may
    be set at any time: it holds back every byte, in each direction, without limiting how many are under way.
    """

    def __init__(self, target: str, *, listen: str = "127.0.0.1:0", delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.accepted = 0
        """Connections taken since the start, those that are gone included."""
        self._target = target
        self._listen = listen
        self._links: set[_Link] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: socket.socket | None = None
        self._holder: socket.socket | None = None

    @property
    def address(self) -> str:
        """Where clients connect to, the same for as long as the proxy lives, cut or not."""
        return self._listen

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        if not self._listen.startswith("unix:"):
            # Bound all the while and never listening: the port is refused while cut, and is nobody else's.
            self._holder = _bound(self._listen)
            self._listen = "{}:{}".format(*self._holder.getsockname())
        self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [link.task for link in self._links if link.task]
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._holder:
            self._holder.close()
        if self._listen.startswith("unix:"):
            Path(self._listen.removeprefix("unix:")).unlink(missing_ok=True)

    def cut(self) -> None:
        """Resets every connection and refuses new ones until `mend`."""
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for link in self._links:
            link.reset()
        self._links.clear()

    def mend(self) -> None:
        """Takes new connections again after `cut`."""
        if self._listener:
            return
        self._listener = _bound(self._listen)
        self._listener.listen(512)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._take)

    def freeze(self) -> None:
        """Lets no byte through in either direction; connections stay, and new ones are still taken."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Lets bytes flow again after `freeze`; none are lost."""
        self._flowing.set()

    def _take(self) -> None:
        assert self._listener
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        self.accepted += 1
        link = _Link([client])
        self._links.add(link)
        link.task = asyncio.get_running_loop().create_task(self._serve(link))
        link.task.add_done_callback(lambda _: self._over(link))

    def _over(self, link: _Link) -> None:
        link.close_rest()
        self._links.discard(link)

    async def _serve(self, link: _Link) -> None:
        broken = False
        try:
            await self._connect(link)
        except* OSError:
            broken = True
        if broken:
            await self._flowing.wait()  # a reset travels no better than bytes do
            link.reset()

    async def _connect(self, link: _Link) -> None:
        family, address = _parsed(self._target)
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setblocking(False)
        link.sockets.append(server)
        await asyncio.get_running_loop().sock_connect(server, address)
        readers = []
        for end in link.sockets:
            opening = asyncio.open_unix_connection if end.family == socket.AF_UNIX else asyncio.open_connection
            reader, writer = await opening(sock=end)
            readers.append(reader)
            link.writers.append(writer)
        async with asyncio.TaskGroup() as group:
            for reader, writer in zip(readers, reversed(link.writers), strict=True):
                under_way: _UnderWay = asyncio.Queue(_MOST_UNDER_WAY)
                group.create_task(self._fetch(reader, under_way))
                group.create_task(self._deliver(under_way, writer))
        for writer in link.writers:
            writer.close()

    async def _fetch(self, reader: asyncio.StreamReader, under_way: _UnderWay) -> None:
        data = b"-"
        while data:
            data = await reader.read(_CHUNK)
            await under_way.put((asyncio.get_running_loop().time() + self.delay_s, data))

    async def _deliver(self, under_way: _UnderWay, writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await under_way.get()
            if (left := due - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(left)
            await self._flowing.wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()


class ThreadedProxy:
    """A `Proxy` in a thread of its own, for callers without its event loop: the same words, each done on return."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop

    @property
    def address(self) -> str:
        return self._proxy.address

    @property
    def connections(self) -> int:
        return self._proxy.connections

    @property
    def accepted(self) -> int:
        return self._proxy.accepted

    @property
    def delay_s(self) -> float:
        return self._proxy.delay_s

    @delay_s.setter
    def delay_s(self, seconds: float) -> None:
        self._proxy.delay_s = seconds

    def cut(self) -> None:
        self._do(self._proxy.cut)

    def mend(self) -> None:
        self._do(self._proxy.mend)

    def freeze(self) -> None:
        self._do(self._proxy.freeze)

    def thaw(self) -> None:
        self._do(self._proxy.thaw)

    def _do(self, action: Callable[[], None]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(_PATIENCE_S)


@contextmanager
def proxy_thread(target: str, *, listen: str = "127.0.0.1:0", delay_s: float = 0.0) -> Iterator[ThreadedProxy]:
    """A proxy that needs nobody's event loop. Raises what starting it raised (OSError: the address is taken)."""
    started: Future[tuple[ThreadedProxy, asyncio.Event]] = Future()

    async def live() -> None:
        async with Proxy(target, listen=listen, delay_s=delay_s) as proxy:
            ended = asyncio.Event()
            started.set_result((ThreadedProxy(proxy, asyncio.get_running_loop()), ended))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except OSError as error:
            started.set_exception(error)

    thread = threading.Thread(target=run, name="proxy", daemon=True)
    thread.start()
    threaded, ended = started.result(_PATIENCE_S)
    try:
        yield threaded
    finally:
        threaded._loop.call_soon_threadsafe(ended.set)
        thread.join(_PATIENCE_S)


def _parsed(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.startswith("unix:"):
        return socket.AF_UNIX, address.removeprefix("unix:")
    host, port = address.rsplit(":", 1)
    return socket.AF_INET, (host, int(port))


def _bound(address: str) -> socket.socket:
    family, place = _parsed(address)
    bound = socket.socket(family, socket.SOCK_STREAM)
    if isinstance(place, str):
        Path(place).unlink(missing_ok=True)  # left behind by `cut`, so that clients are refused all the same
    else:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
    except OSError:
        bound.close()
        raise
    return bound
