"""One running controller: its store, services and loops, from start to orderly end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from controller.core.states import JOB_ENDS
from controller.library import Library
from controller.loops import SWEEP_S, Sweeper, dispatch, forever, until_idle
from controller.rpc.agents import AgentServicer
from controller.rpc.fleet import FleetServicer
from controller.rpc.interceptors import Bearer, Errors, Presence
from controller.rpc.jobs import JobServicer
from controller.rpc.presets import PresetServicer
from controller.sessions import Sessions
from controller.settings import Settings
from controller.store.migrations import upgrade
from controller.store.writer import Store
from mediactl.channel import (
    SERVER_OPTIONS,
    parse_address,
    read_token,
    require_protection,
    server_credentials,
    unix_bind_target,
)
from mediactl.errors import MediactlError
from mediactl.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    preset_service_pb2,
    preset_service_pb2_grpc,
)
from presets.reasons import Reason

log = structlog.get_logger()

SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    preset_service_pb2.DESCRIPTOR.services_by_name["PresetService"].full_name,
    fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
)
STOP_GRACE_S = 0.5


def claim(lock: Path) -> IO[bytes]:
    """Be the only controller on this data directory for as long as the file is open. Raises MediactlError."""
    handle = lock.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise MediactlError(
            Reason.INVALID_ARGUMENT,
            f"another controller works on {lock.parent}: stop it first, or choose another --data-dir",
        ) from None
    return handle


def _bind(server: grpc.aio.Server, settings: Settings) -> list[str]:
    bound = []
    if settings.socket is not None:
        settings.socket.unlink(missing_ok=True)
        target = unix_bind_target(settings.socket)
        # Nobody else may connect, not even between bind and chmod.
        before = os.umask(0o177)
        try:
            port = server.add_insecure_port(target)
        finally:
            os.umask(before)
        if not port:
            raise MediactlError(Reason.INVALID_ARGUMENT, f"can't listen on {settings.socket}")
        bound.append(f"unix:{settings.socket}")
    if settings.listen is not None:
        address = parse_address(settings.listen)
        require_protection(address, settings.credentials)
        tls = server_credentials(settings.credentials)
        try:
            port = server.add_secure_port(str(address), tls) if tls else server.add_insecure_port(str(address))
        except RuntimeError:
            port = 0
        if not port:
            raise MediactlError(
                Reason.INVALID_ARGUMENT,
                f"can't listen on {address}: it is in use or not an address of this machine",
            )
        bound.append(f"{str(address).rpartition(':')[0]}:{port}")
    return bound


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[list[str], Store, Presence]]:
    """A controller that serves within the block: (bound addresses, store, presence)."""
    if settings.credentials.token_file is not None:
        # Better no start than a controller that refuses everybody.
        read_token(settings.credentials.token_file)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = claim(settings.lock)
    try:
        upgrade(settings.database)
    except BaseException:
        lock.close()
        raise
    store = Store(settings.database)
    sessions = Sessions(store.topics, settings.timers)
    presence = Presence()
    dice = random.Random()  # noqa: S311 - jitter, no secret
    library = Library(store)

    def on_event(event: Mapping[str, Any]) -> None:
        if event["job_state"] in JOB_ENDS or event["type"] == "leased":
            sessions.forget_progress(event["job_id"])
        if settings.log_transitions:
            told = {key: value for key, value in event.items() if value and key not in ("at_us", "type")}
            log.info(f"job {event['type']}", **told)

    store.on_event = on_event
    store.open()
    interceptors: list[grpc.aio.ServerInterceptor] = [Errors(), presence]
    if settings.credentials.token_file is not None:
        interceptors.insert(0, Bearer(settings.credentials.token_file))
    server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(store, library, sessions), server)
    preset_service_pb2_grpc.add_PresetServiceServicer_to_server(PresetServicer(library), server)
    fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(FleetServicer(store, sessions, settings.timers), server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(
        AgentServicer(store, sessions, settings.timers, dice), server
    )
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    loops: list[asyncio.Task[None]] = []
    try:
        bound = _bind(server, settings)
        await server.start()
        sweeper = Sweeper(store, sessions, settings.timers, dice)
        loops = [
            asyncio.create_task(forever("dispatch", lambda: dispatch(store, sessions), 0.1)),
            asyncio.create_task(forever("sweep", sweeper.sweep, SWEEP_S)),
        ]
        for name in ("", *SERVICES):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        yield bound, store, presence
    finally:
        await healthy.enter_graceful_shutdown()
        for loop in loops:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop
        await server.stop(STOP_GRACE_S)
        await store.close()
        if settings.socket is not None:
            settings.socket.unlink(missing_ok=True)
        lock.close()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, or until idle where so configured."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    async with running(settings) as (bound, store, presence):
        log.info("controller ready", addresses=bound, data_dir=str(settings.data_dir))
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(stopping.wait())]
        if settings.exit_when_idle:
            waits.append(asyncio.create_task(until_idle(store, presence)))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    log.info("controller stopped")
