"""Keeps new work away while the scratch volume is low."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from agent.core.reserve import Reserve


class Cordon:
    """`look` every few seconds. `say` hears why nothing new is to be taken, empty for nothing.

    Before anything is said, `make_room` is asked to free bytes on the volume. It may block, and raise OSError.
    """

    def __init__(
        self,
        scratch: Path,
        reserve: int | None,
        *,
        say: Callable[[str], None],
        make_room: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._scratch = scratch
        self._reserve = Reserve(reserve)
        self._say = say
        self._make_room = make_room

    async def look(self) -> None:
        try:
            if missing := self._reserve.missing(*self._measured()):
                await asyncio.to_thread(self._make_room, missing)
            self._say(self._reserve.measure(*self._measured()))
        except OSError as error:
            self._say(f"scratch can't be looked at: {error.strerror}")

    def _measured(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        volume = os.statvfs(self._scratch)
        return volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize
