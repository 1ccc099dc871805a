"""What the agent looks at again and again beside its work: its disk, and what its host has to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog

from agent.cordon import Cordon
from agent.lookout import Lookout
from agent.means import Means
from agent.session import Agent
from agent.settings import Settings

log = structlog.get_logger()

DISK_S = 5.0
MACHINE_S = 30.0
"""After a look at the machine that failed."""


@asynccontextmanager
async def watching(
    settings: Settings, agent: Agent, means: Means, lookout: Lookout | None = None
) -> AsyncIterator[None]:
    """Within the block, the agent objects to new work while scratch is low or the host is about to go away, forgets
    what it kept for too long, and looks out for changes of what the machine can do.
    """
    async with AsyncExitStack() as stack:
        cordon = Cordon(
            settings.scratch,
            settings.scratch_reserve,
            say=partial(agent.object, "disk"),
            make_room=partial(_make_room, means),
        )
        looks: list[tuple[str, Callable[[], Awaitable[None]], float]] = [("disk", cordon.look, DISK_S)]
        if settings.metadata_url:
            # A tenth of a second and 8 MB to import: no box that is not a cloud's should pay for it.
            from agent.notices import Heed, metadata_at  # noqa: PLC0415

            metadata = await stack.enter_async_context(
                metadata_at(settings.metadata_url, heed_rebalance=settings.heed_rebalance)
            )
            heed = Heed(metadata, say=partial(agent.object, "notice"), hand_back=agent.attempts.hand_back)
            looks.append(("notices", heed.look, settings.metadata_interval_s))
            log.info("heeding notices of the host", metadata=settings.metadata_url)
        if lookout is not None:
            looks.append(("machine", lookout.run, MACHINE_S))
        tasks = [asyncio.create_task(_forever(*look)) for look in looks]
        tasks.append(asyncio.create_task(means.remains.sweep_forever()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _make_room(means: Means, wanted_bytes: int) -> None:
    """Inputs can be downloaded again, what failed attempts left is nowhere else."""
    freed = means.stores.cache.make_room(wanted_bytes, means.scratch) if means.stores.cache is not None else 0
    if freed < wanted_bytes:
        means.remains.make_room(wanted_bytes - freed, volume_of=means.scratch)


async def _forever(name: str, look: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """What goes wrong is logged and tried again, for nothing here may end silently."""
    while True:
        try:
            await look()
        except Exception as error:
            log.error("a look failed", at=name, exc_info=error)
        await asyncio.sleep(pause_s)
