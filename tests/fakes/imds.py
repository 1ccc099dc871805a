"""An instance metadata service of EC2 (IMDSv2), as strict as the real one, whose documents a test decides."""

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

SPOT = "spot/instance-action"
SCHEDULED = "events/maintenance/scheduled"
REBALANCE = "events/recommendations/rebalance"


class FakeImds:
    """Knows no path but those that were `put`. Without a token it has given itself it answers 401."""

    def __init__(self) -> None:
        self.url = ""
        self.documents: dict[str, str] = {}
        self.tokens: set[str] = set()
        self.asked: list[str] = []
        self.status = 200
        self.piece = 10
        self.hang = asyncio.Event()
        self.hang.set()

    def put(self, path: str, document: Any) -> None:
        """Tell something from now on; text is told as it is."""
        self.documents[path] = document if isinstance(document, str) else json.dumps(document)

    def spot(self, at_s: float, action: str = "terminate") -> None:
        """Announce an interruption."""
        self.put(SPOT, {"action": action, "time": f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"})

    def withdraw(self, path: str) -> None:
        self.documents.pop(path)

    def expire_tokens(self) -> None:
        self.tokens.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        await self.hang.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        if request.path == "/latest/api/token":
            lifetime = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if request.method != "PUT" or not lifetime.isdigit() or not 1 <= int(lifetime) <= 21_600:
                return web.Response(status=400 if request.method == "PUT" else 405)
            token = secrets.token_urlsafe(16)
            self.tokens.add(token)
            return web.Response(text=token)
        if request.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return web.Response(status=401)
        document = self.documents.get(request.path.removeprefix("/latest/meta-data/"))
        if document is None:
            return web.Response(status=404)
        # In pieces, as any answer may come.
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(document), self.piece):
            await response.write(document[start : start + self.piece].encode())
            await asyncio.sleep(0)
        await response.write_eof()
        return response


@asynccontextmanager
async def imds() -> AsyncIterator[FakeImds]:
    """Serves on loopback within the block."""
    fake = FakeImds()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        fake.hang.set()
        await runner.cleanup()


@contextmanager
def imds_thread() -> Iterator[FakeImds]:
    """One that needs nobody's event loop. What is `put` and withdrawn may be so from any thread."""
    started: Future[tuple[FakeImds, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        async with imds() as host:
            ended = asyncio.Event()
            started.set_result((host, asyncio.get_running_loop(), ended))
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="imds", daemon=True)
    thread.start()
    host, loop, ended = started.result(10)
    try:
        yield host
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
