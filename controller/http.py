"""What operators' machines read over HTTP: `/metrics`, `/healthz`, `/readyz`. Nothing secret, nothing to change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from controller.metrics import Metrics
from mediactl.channel import TcpTarget, parse_address
from mediactl.errors import MediactlError
from presets.reasons import Reason

if TYPE_CHECKING:
    from aiohttp import web

READY_S = 2.0
"""How long the database may take to answer."""

_PATHS = "/metrics (Prometheus), /healthz (the process runs), /readyz (it serves and its database answers)"


def beside(listen: str) -> str:
    """Where HTTP is served by default: on loopback, at the port after the one for gRPC. Raises MediactlError."""
    target = parse_address(listen)
    if not isinstance(target, TcpTarget):
        raise MediactlError(Reason.INVALID_ARGUMENT, f"HOST:PORT is expected, got {listen}")
    return f"127.0.0.1:{target.port + 1 if target.port else 0}"


async def _readiness(ready: Callable[[], Awaitable[str]]) -> str:
    try:
        async with asyncio.timeout(READY_S):
            return await ready()
    except TimeoutError:
        return f"the database did not answer within {READY_S:.0f} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, it isn't ready
        return f"the database can't be reached ({type(error).__name__})"


@asynccontextmanager
async def serving(address: str, *, metrics: Metrics, ready: Callable[[], Awaitable[str]]) -> AsyncIterator[str]:
    """Serve at `host:port` within the block, in this event loop; gives the bound address.

    Port 0 is any free one. `ready` says why this controller is not ready, or nothing. Raises MediactlError where it
    can't listen.
    """
    target = parse_address(address)
    if not isinstance(target, TcpTarget):
        raise MediactlError(Reason.INVALID_ARGUMENT, f"HTTP is served at HOST:PORT, not at {address}")
    # A sixth of a second to import: no box that switches this off should wait for it.
    from aiohttp import web  # noqa: PLC0415

    async def tell_metrics(request: web.Request) -> web.Response:
        body, content_type = await metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def tell_health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def tell_readiness(_request: web.Request) -> web.Response:
        if reason := await _readiness(ready):
            return web.json_response({"ready": False, "reason": reason}, status=503)
        return web.json_response({"ready": True})

    @web.middleware
    async def name_the_paths(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(status=404, text=f"nothing is here; there are {_PATHS}\n")

    app = web.Application(middlewares=[name_the_paths])
    app.router.add_get("/metrics", tell_metrics)
    app.router.add_get("/healthz", tell_health)
    app.router.add_get("/readyz", tell_readiness)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, target.host, target.port).start()
        except OSError as error:
            raise MediactlError(
                Reason.INVALID_ARGUMENT,
                f"can't listen on {target} for HTTP: it is in use or not an address of this machine",
            ) from error
        yield str(TcpTarget(target.host, runner.addresses[0][1]))
    finally:
        await runner.cleanup()
