"""A network that delays, cuts and duplicates. Within a stream order holds, as TCP's does; between streams none does:
what an old one still carries may arrive after a newer one has begun.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from mediactl.v1 import agent_service_pb2 as pb
from tests.simulation.scheduler import Process, Scheduler

F = TypeVar("F")


@dataclass(slots=True)
class Weather:
    """How bad the network is just now; delays in seconds, chances of one frame or one cut."""

    slow: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    least_s: float = 0.0002
    most_s: float = 0.003
    slowest_s: float = 2.0


class Pipe(Generic[F]):
    """One direction. `hear` gets the frames, `over` the news that nothing more comes."""

    def __init__(self, scheduler: Scheduler, weather: Weather, to: Process) -> None:
        self.hear: Callable[[F], None] = lambda frame: None
        self.over: Callable[[], None] = lambda: None
        self._scheduler = scheduler
        self._weather = weather
        self._to = to
        self._sent = 0
        self._delivered = 0
        self._cutoff: int | None = None
        self._deaf = False
        self._last_us = 0

    def send(self, frame: F, *, once: bool = False) -> None:
        """Put a frame on its way. On a stream that was cut it is lost, as the sender learns only later."""
        if self._cutoff is not None:
            return
        scheduler, weather = self._scheduler, self._weather
        times = 1 + (not once and weather.twice > 0 and scheduler.chance(weather.twice))
        for _ in range(times):
            self._sent += 1
            slow = weather.slow > 0 and scheduler.chance(weather.slow)
            delay_s = scheduler.between(weather.least_s, weather.slowest_s if slow else weather.most_s)
            self._last_us = max(self._last_us, scheduler.now_us + int(delay_s * 1e6))
            scheduler.at(self._last_us, self._to, partial(self._deliver, self._sent, frame))

    def _deliver(self, number: int, frame: F) -> None:
        if not self._deaf and (self._cutoff is None or number <= self._cutoff):
            self._delivered = number
            self.hear(frame)

    def cut(self, notice_s: float) -> None:
        """Lose what is under way, from any frame on. The end is noticed after a while."""
        if self._cutoff is not None:
            return
        scheduler = self._scheduler
        self._cutoff = scheduler.dice.randint(self._delivered, self._sent)
        if self._weather.late > 0 and scheduler.chance(self._weather.late):
            # What survives lingers in the network until other streams have begun.
            lingers_s = scheduler.between(0.5, 8.0) + max(0, self._last_us - scheduler.now_us) / 1e6
            self._linger(lingers_s)
            notice_s += lingers_s
        self._end(notice_s)

    def _linger(self, seconds: float) -> None:
        hear = self.hear
        held: list[F] = []
        self.hear = held.append

        def arrive() -> None:
            for frame in held:
                if not self._deaf:
                    hear(frame)

        self._scheduler.after(seconds, self._to, arrive)

    def finish(self) -> None:
        """Send nothing more; what is under way arrives."""
        if self._cutoff is None:
            self._cutoff = self._sent
            self._end(0.0)

    def drop(self) -> None:
        """Nobody listens any more."""
        self._cutoff = self._delivered
        self._deaf = True

    def _end(self, notice_s: float) -> None:
        when_us = max(self._last_us, self._scheduler.now_us + int(notice_s * 1e6))
        self._scheduler.at(when_us, self._to, lambda: None if self._deaf else self.over())


class Stream:
    """Of one agent to one controller."""

    def __init__(self, scheduler: Scheduler, weather: Weather, agent: Process, controller: Process) -> None:
        self.agent = agent
        self.controller = controller
        self.up: Pipe[pb.SessionRequest] = Pipe(scheduler, weather, controller)
        self.down: Pipe[pb.SessionResponse] = Pipe(scheduler, weather, agent)
        self.open = True
        self._scheduler = scheduler

    def cut(self, most_notice_s: float) -> None:
        """Break it in both directions, each of which is noticed in its own time."""
        self.open = False
        self.up.cut(self._scheduler.between(0.0, most_notice_s))
        self.down.cut(self._scheduler.between(0.0, most_notice_s))

    def hang_up(self) -> None:
        """The controller ends it."""
        self.open = False
        self.up.drop()
        self.down.finish()

    def give_up(self) -> None:
        """The agent ends it."""
        self.open = False
        self.down.drop()
        self.up.cut(0.0)
