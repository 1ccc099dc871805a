"""One running controller: its store, services and loops, from start to orderly end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from controller.archive import Archive
from controller.core.liveness import Timers
from controller.deposits import Deposits
from controller.http import serving
from controller.library import Library
from controller.loops import (
    HOUSEKEEPING_S,
    STAGING_S,
    SWEEP_S,
    Dispatcher,
    Housekeeper,
    Sweeper,
    forever,
    relane,
    until_idle,
)
from controller.metrics import Metrics, Recent
from controller.observing import Observer
from controller.reception import Receptions
from controller.rpc.agents import AgentServicer
from controller.rpc.fleet import FleetServicer
from controller.rpc.interceptors import Bearer, Errors, Measured, Presence
from controller.rpc.jobs import JobServicer
from controller.rpc.presets import PresetServicer
from controller.rpc.queue import QueueServicer
from controller.rpc.remains import RemainsReader
from controller.rpc.transfers import TransferServicer
from controller.sessions import Sessions
from controller.settings import Settings
from controller.signatures import Signatures
from controller.store.backup import writing
from controller.store.databases import UnknownDatabase, open_database
from controller.store.engine import Database
from controller.store.migrations import upgrade
from controller.store.orphans import repair
from controller.store.overview import Overview, answers, take
from controller.store.writer import Store
from controller.sweeping import StagingSweeper
from mediactl.channel import (
    SERVER_OPTIONS,
    parse_address,
    read_token,
    require_protection,
    server_credentials,
    unix_bind_target,
)
from mediactl.errors import MediactlError
from mediactl.notify import Notifier
from mediactl.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    preset_service_pb2,
    preset_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    transfer_service_pb2,
    transfer_service_pb2_grpc,
)
from presets.reasons import Reason

log = structlog.get_logger()

SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    preset_service_pb2.DESCRIPTOR.services_by_name["PresetService"].full_name,
    queue_service_pb2.DESCRIPTOR.services_by_name["QueueService"].full_name,
    fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
    transfer_service_pb2.DESCRIPTOR.services_by_name["TransferService"].full_name,
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


@dataclass(frozen=True, slots=True)
class Running:
    """A controller that serves: where it is reached, and what its caller may look at."""

    addresses: tuple[str, ...]
    http: str
    store: Store
    presence: Presence
    sessions: Sessions

    def status(self) -> str:
        """In one line, for people."""
        agents = len(self.sessions.all())
        return f"serving {', '.join(self.addresses)}; {agents} agent{'' if agents == 1 else 's'} connected"


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A controller that serves within the block."""
    if settings.credentials.token_file is not None:
        # Better no start than a controller that refuses everybody.
        read_token(settings.credentials.token_file)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = _open(settings)
    async with AsyncExitStack() as stack:
        if settings.database is None:
            stack.callback(claim(settings.lock).close)
        await _upgrade(settings)
        store = Store(database)
        store.open()
        stack.push_async_callback(store.close)
        yield await _serving(settings, store, stack)


async def _serving(settings: Settings, store: Store, stack: AsyncExitStack) -> Running:
    sessions = Sessions(store.topics, settings.timers)
    presence = Presence()
    dice = random.Random()  # noqa: S311 - jitter, no secret
    archive = Archive(settings.store_url) if settings.store_url is not None else None
    overview = Recent(partial(_overview, store, settings.timers)).get
    metrics = Metrics(overview, sessions.caches)
    library = Library(store, metrics.knows)
    store.on_events = Observer(metrics, sessions, log_transitions=settings.log_transitions).observe
    store.on_commit = metrics.committed
    interceptors: list[grpc.aio.ServerInterceptor] = [Measured(metrics), Errors(), presence]
    if settings.credentials.token_file is not None:
        interceptors.insert(1, Bearer(settings.credentials.token_file))
    server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
    remains = RemainsReader(store, archive, settings.timers)
    signatures = Signatures(sessions, store.topics)
    staging = StagingSweeper(store, sessions, grace_s=settings.sweep_after_s)
    jobs = JobServicer(store, library, sessions, archive, remains, signatures)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)
    preset_service_pb2_grpc.add_PresetServiceServicer_to_server(PresetServicer(library), server)
    fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(FleetServicer(store, sessions, settings.timers), server)
    queue_service_pb2_grpc.add_QueueServiceServicer_to_server(QueueServicer(store, sessions, library, overview), server)
    deposits = Deposits(store, archive, settings.depositing)
    transfer_service_pb2_grpc.add_TransferServiceServicer_to_server(TransferServicer(deposits), server)
    receptions = Receptions(store, archive, settings.most_remains_bytes)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(
        AgentServicer(store, sessions, receptions, signatures, staging, settings.timers, dice), server
    )
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = _bind(server, settings)
    if settings.socket is not None:
        stack.callback(partial(settings.socket.unlink, missing_ok=True))
    await server.start()
    # Whatever goes wrong from here on: a server must not outlive its loop.
    stack.push_async_callback(server.stop, None)
    dispatcher = Dispatcher(store, sessions, settings.rules, metrics)
    store.follow_up = dispatcher.follow_up
    sweeper = Sweeper(store, sessions, settings.timers, dice)
    housekeeper = Housekeeper(store, archive, settings.keeping, deposits)
    loops = [
        asyncio.create_task(forever("dispatch", dispatcher.run, 0.1)),
        asyncio.create_task(forever("relane", lambda: relane(store), 1.0)),
        asyncio.create_task(forever("sweep", sweeper.sweep, SWEEP_S)),
        asyncio.create_task(forever("housekeeping", housekeeper.keep, HOUSEKEEPING_S)),
        asyncio.create_task(forever("sweep staging", staging.sweep, min(STAGING_S, settings.sweep_after_s))),
        asyncio.create_task(_repair(store)),
    ]
    draining = asyncio.Event()

    async def ready() -> str:
        if draining.is_set():
            return "it is stopping"
        await store.read(answers)
        return ""

    async def stop() -> None:
        # Those who choose among controllers look elsewhere before anybody is turned away.
        draining.set()
        await healthy.enter_graceful_shutdown()
        await asyncio.sleep(settings.drain_s)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        stopping = MediactlError(Reason.CONTROLLER_STOPPING, "the controller is stopping")
        for session in sessions.all():
            session.close(stopping)
        store.topics.close()
        await server.stop(STOP_GRACE_S)

    http = ""
    if settings.http is not None:
        http = await stack.enter_async_context(serving(settings.http, metrics=metrics, ready=ready))
    stack.push_async_callback(stop)
    for name in ("", *SERVICES):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    return Running(tuple(bound), http, store, presence, sessions)


def _open(settings: Settings) -> Database:
    try:
        return open_database(settings.database_url)
    except UnknownDatabase as error:
        raise MediactlError(Reason.INVALID_ARGUMENT, f"--database: {error}") from None


async def _upgrade(settings: Settings) -> None:
    with writing(settings.database_url) as engine:
        await asyncio.to_thread(upgrade, engine)


async def _repair(store: Store) -> None:
    """Mend what a former life, or a person with a database client, left."""
    try:
        for mended in await repair(store):
            log.warning("mended an orphan", job_id=mended.job_id, what=mended.told)
    except Exception as error:
        log.error("looking for orphans failed", exc_info=error)


async def _overview(store: Store, timers: Timers) -> Overview:
    now_us = await store.read(store.database.now_us)
    return await store.read(take, now_us, timers)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, or until idle where so configured."""
    notifier = Notifier()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    async with running(settings) as this:
        shown = {"http": this.http} if this.http else {}
        log.info("controller ready", addresses=list(this.addresses), data_dir=str(settings.data_dir), **shown)
        watching = asyncio.create_task(notifier.watch(this.status, this.store.alive))
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(stopping.wait())]
        if settings.exit_when_idle:
            waits.append(asyncio.create_task(until_idle(this.store, this.presence)))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        notifier.stopping("stopping")
        for wait in (watching, *waits):
            wait.cancel()
    log.info("controller stopped")
