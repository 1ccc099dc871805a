"""One virtual clock, one heap of what is due and one die: whatever happens in a simulation happens here, in an order
that its seed alone decides.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

EPOCH_US = 1_700_000_000_000_000
"""When every simulation begins, for the database."""
LAST_STEPS = 40
"""How many steps are remembered for the message of a failure."""

Action = Callable[[], None]


@dataclass(slots=True, eq=False)
class Process:
    """Something that can be killed and paused. What was due for a former life never happens."""

    name: str
    life: int = 0
    paused: int = 0
    """Which pause it is in; 0: none."""
    pauses: int = 0
    waiting: list[Action] = field(default_factory=list)
    """What came while it stood still, in the order in which it came."""

    def end_life(self) -> None:
        """Nothing that was due happens."""
        self.life += 1
        self.paused = 0
        self.waiting = []


NOBODY = Process("")
"""Whose actions happen whatever is killed: the network's, people's."""


class Scheduler:
    """`trace` holds the last steps, or all of them where `whole_trace`."""

    def __init__(self, seed: int, *, whole_trace: bool = False) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - what a seed decides
        self.now_us = 0
        self.steps = 0
        self.trace: deque[tuple[int, str, str]] = deque(maxlen=None if whole_trace else LAST_STEPS)
        self._heap: list[tuple[int, int, Process, int, Action]] = []
        self._count = 0

    @property
    def now_s(self) -> float:
        return self.now_us / 1e6

    def database_us(self) -> int:
        """The time as the database has it."""
        return EPOCH_US + self.now_us

    def after(self, delay_s: float, process: Process, action: Action) -> None:
        """Have a process do something; nothing comes of it where it is killed before."""
        self.at(self.now_us + max(0, int(delay_s * 1e6)), process, action)

    def at(self, when_us: int, process: Process, action: Action) -> None:
        """As `after`, at a time."""
        self._count += 1
        heappush(self._heap, (max(when_us, self.now_us), self._count, process, process.life, action))

    def pause(self, process: Process, seconds: float) -> None:
        """As SIGSTOP, and SIGCONT after a while."""
        process.pauses += 1
        process.paused = number = process.pauses
        self.after(seconds, NOBODY, lambda: self.thaw(process) if process.paused == number else None)

    def thaw(self, process: Process) -> None:
        """Go on: everything that came meanwhile is there at once."""
        process.paused = 0
        waiting, process.waiting = process.waiting, []
        for action in waiting:
            self.after(0.0, process, action)

    def between(self, least: float, most: float) -> float:
        return least + (most - least) * self.dice.random()

    def chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    def say(self, who: str, what: str) -> None:
        """Leave a line in the trace."""
        self.trace.append((self.now_us, who, what))

    def run(self, until_s: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until `done`, which is asked after every step, or until a time. Returns whether it was done."""
        until_us = int(until_s * 1e6)
        while self._heap and self._heap[0][0] <= until_us:
            when_us, _, process, life, action = heappop(self._heap)
            if process.life != life:
                continue
            self.now_us = when_us
            if process.paused:
                process.waiting.append(action)
                continue
            self.steps += 1
            action()
            if done():
                return True
        self.now_us = max(self.now_us, until_us)
        return done()

    def told(self) -> str:
        """The trace, for a person."""
        return "\n".join(f"{when_us / 1e6:11.6f} s  {who:<12} {what}" for when_us, who, what in self.trace)
