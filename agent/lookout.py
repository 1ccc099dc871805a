"""Looks at the machine again while the agent works: drivers are replaced, GPUs come, go and are used up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from mediactl.v1 import fleet_service_pb2

EVERY_S = 300.0
LEAST_S = 30.0
"""Between two looks, however often there is doubt: each uses the GPU for a second or two."""


class Lookout:
    """Calls ``changed`` with what the machine can do, each time that this is something else. `run` until cancelled.

    ``look`` blocks, and is told whether to doubt what was proved before (:func:`agent.detect.detect`). What it raises
    ends `run`.
    """

    def __init__(
        self,
        look: Callable[[bool], fleet_service_pb2.Capabilities],
        known: fleet_service_pb2.Capabilities,
        changed: Callable[[fleet_service_pb2.Capabilities], None],
        *,
        every_s: float = EVERY_S,
        least_s: float = LEAST_S,
    ) -> None:
        self._look = look
        self._revision = known.revision
        self._changed = changed
        self._every_s = every_s
        self._least_s = least_s
        self._doubt = asyncio.Event()

    def doubt(self) -> None:
        """A GPU failed at work: prove it anew, soon."""
        self._doubt.set()

    async def run(self) -> None:
        """Look every ``every_s`` seconds, and in doubt as soon as the last look is ``least_s`` seconds ago."""
        while True:
            await asyncio.sleep(self._least_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._every_s - self._least_s)):
                    await self._doubt.wait()
            doubting = self._doubt.is_set()
            self._doubt.clear()
            found = await asyncio.to_thread(self._look, doubting)
            if found.revision != self._revision:
                self._revision = found.revision
                self._changed(found)
