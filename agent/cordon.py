"""Keeps new work away while the scratch volume is low."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from agent.core.reserve import Reserve


class Cordon:
    """`look` every few seconds. `say` hears why nothing new is to be taken, empty for nothing."""

    def __init__(self, scratch: Path, reserve: int | None, *, say: Callable[[str], None]) -> None:
        self._scratch = scratch
        self._reserve = Reserve(reserve)
        self._say = say

    async def look(self) -> None:
        try:
            volume = os.statvfs(self._scratch)
        except OSError as error:
            self._say(f"scratch can't be looked at: {error.strerror}")
            return
        size = volume.f_frsize
        self._say(self._reserve.measure(volume.f_bavail * size, volume.f_blocks * size))
