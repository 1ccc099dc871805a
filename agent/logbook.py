"""The log of one attempt: files in its workspace that only grow, handed on from where they were left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from agent.core.throttle import LogThrottle
from agent.media.logs import Tail

POLL_S = 0.2
AGENT = "agent"
FFMPEG = "ffmpeg"


class Taker(Protocol):
    """Who takes the log: a piece of it, and how far its source has been handed on with that, in bytes."""

    def __call__(self, stream: str, data: bytes, marks: Mapping[str, int]) -> None: ...


class Logbook:
    """`marks`: how far each source had been handed on in a former life of the agent. Sources are named from `folder`.

    What was handed on and what was marked are one and the same to a restarted agent: no line is missing or said twice.
    FFmpeg's log is sent no faster than a bounded rate; what is left out is noted, and stays in its file.
    """

    def __init__(self, folder: Path, marks: Mapping[str, int], take: Taker) -> None:
        self._folder = folder
        self._marks = dict(marks)
        self._take = take
        self._own = self._tail(folder / "agent.log")
        self._followed: list[Tail] = []
        self._throttle = LogThrottle(time.monotonic())

    def catch_up(self) -> None:
        """Hand on what a former life of the agent could not."""
        self._ship(AGENT, self._own, final=True)
        for path in sorted(self._folder.glob("steps/*/*.log")):
            self.follow(path)
        self.ship(final=True)

    def say(self, line: str) -> None:
        """A line of the agent's own."""
        said = line.encode(errors="replace") + b"\n"
        try:
            with self._own.path.open("ab") as file:
                file.write(said)
        except OSError:
            # Without space it is at least not lost to the controller.
            self._take(AGENT, said, {})
        else:
            self._ship(AGENT, self._own, final=True)

    def follow(self, path: Path) -> None:
        """Hand on what FFmpeg writes there, from where that was left."""
        if all(tail.path != path for tail in self._followed):
            self._followed.append(self._tail(path))

    def ship(self, *, final: bool = False) -> None:
        """Hand on what is new. `final`: what is followed grows no more, and is not followed any longer."""
        for tail in self._followed:
            self._ship(FFMPEG, tail, final=final)
        if final and self._followed:
            if rest := self._throttle.end():
                self._take(FFMPEG, rest, self._marked(self._followed[-1]))
            self._followed.clear()

    async def keep_shipping(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.ship()

    def _tail(self, path: Path) -> Tail:
        return Tail(path, self._marks.get(self._name(path), 0))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _marked(self, tail: Tail) -> Mapping[str, int]:
        mark = {self._name(tail.path): tail.offset}
        self._marks |= mark
        return mark

    def _ship(self, stream: str, tail: Tail, *, final: bool) -> None:
        with suppress(OSError):
            while piece := tail.read(final=final):
                sent = piece if stream == AGENT else self._throttle.take(piece, time.monotonic())
                # What was held back is marked with what is sent after it.
                if sent:
                    self._take(stream, sent, self._marked(tail))
