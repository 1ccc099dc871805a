"""Work of stores that blocks."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[threading.Event], T], undo: Callable[[T], None] | None = None) -> T:
    """Runs ``work`` in a thread; cancelled, tells it by the event and waits until it has ended, or is undone."""
    abandoned = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, abandoned))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        abandoned.set()
        await asyncio.wait({task})
        if task.exception() is None and undo is not None:
            await asyncio.to_thread(undo, task.result())
        raise
