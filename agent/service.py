"""An agent that serves: its parts put together, from the first look at the machine to the last word."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import structlog

from agent.detect import binaries, detect
from agent.identity import agent_id, instance_id
from agent.journal import boot_id
from agent.lookout import Lookout
from agent.means import Means
from agent.media.confinement import Confinement
from agent.remains import Remains
from agent.scratch import Scratch
from agent.session import Agent
from agent.settings import Settings
from agent.storage import InputCache, Stores
from agent.storage.stores import reaches
from agent.transfers import Transfers
from agent.watching import watching
from mediactl.notify import Notifier
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2
from presets.reasons import Reason

log = structlog.get_logger()

_OF_GPUS = frozenset({Reason.ENCODER_SESSION_LIMIT, Reason.GPU_UNAVAILABLE})


async def serve_agent(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT (work in hand is finished or handed back) or SIGUSR1 (it is left running)."""
    notifier = Notifier()
    identity, instance = agent_id(settings.data_dir), instance_id()
    # Before any other process is started: it moves this one into a group of its own.
    confinement = await asyncio.to_thread(Confinement.find, identity, nice=settings.nice)
    log.info("tasks are limited", by=confinement.words)

    def look(doubting: bool) -> fleet_service_pb2.Capabilities:
        found = detect(
            ffmpegs=settings.ffmpegs,
            scratch=settings.scratch,
            media_roots=settings.media_roots,
            stores=reaches(settings.stores),
            max_tasks=settings.max_tasks,
            encoder_sessions=settings.encoder_sessions,
            cache_file=settings.cache,
            doubting=doubting,
        )
        found.confinement = confinement.words
        return found

    notifier.busy("finding out what this machine can do")
    capabilities = await asyncio.to_thread(look, False)
    cache = InputCache(settings.input_cache, settings.cache_bytes, boot=boot_id())
    await asyncio.to_thread(cache.open)
    transfers = Transfers(settings.controller, settings.credentials)
    means = Means(
        binaries=binaries(capabilities),
        ffprobe=capabilities.ffprobe_path,
        stores=Stores([Path(root) for root in settings.media_roots], settings.stores, cache=cache, deposits=transfers),
        scratch=settings.scratch,
        room=Scratch(settings.scratch, time.monotonic, kept_bytes=settings.scratch_reserve, cache=cache),
        confinement=confinement,
        remains=Remains(settings.remains, keep_s=settings.keep_failed_s, keep_bytes=settings.keep_failed_bytes),
    )

    def hello() -> pb.Hello:
        return pb.Hello(
            agent_id=identity,
            instance_id=instance,
            name=settings.name,
            version=version("mediactl"),
            labels=settings.labels,
            capabilities=capabilities,
        )

    def changed(found: fleet_service_pb2.Capabilities) -> None:
        nonlocal capabilities
        log.info("the machine can do something else now", revision=found.revision)
        capabilities = found
        agent.renew(replace(means, binaries=binaries(found), ffprobe=found.ffprobe_path))

    def failed(reason: Reason) -> None:
        if reason in _OF_GPUS:
            lookout.doubt()

    agent = Agent(settings, hello, means, random.Random())  # noqa: S311 - jitter, no secret
    lookout = Lookout(look, capabilities, changed)
    agent.attempts.on_failure = failed

    def stop() -> None:
        agent.stop()
        notifier.stopping(agent.status())

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    loop.add_signal_handler(signal.SIGUSR1, agent.leave)
    telling = asyncio.create_task(notifier.watch(agent.status, agent.alive))
    async with watching(settings, agent, means, lookout):
        await agent.run()
    telling.cancel()
    await transfers.close()
    if not agent.leaving:
        await asyncio.to_thread(confinement.close)
    log.info("agent stopped")
