"""In-process wake-ups: after a commit, whoever waits for a topic looks at the database again.

A wake-up is a hint and may be spurious; every waiter also has a timeout, so a lost one delays and never loses.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

DISPATCH = "dispatch"
JOBS = "jobs"
FLEET = "fleet"
RELANE = "relane"


def job(job_id: str) -> str:
    """Something about this job changed."""
    return f"job:{job_id}"


def log(job_id: str) -> str:
    """The job's log grew."""
    return f"log:{job_id}"


def agent(agent_id: str) -> str:
    """The agent must be told to stop something."""
    return f"agent:{agent_id}"


class TopicsClosed(Exception):
    """The controller is stopping: nothing more will be told."""


class Topics:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def publish(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for waiter in self._waiting.get(topic, ()):
                waiter.set()

    def publish_all(self) -> None:
        """Something may have changed that nobody was told of."""
        self.publish(list(self._waiting))

    def close(self) -> None:
        """Whoever waits, or will, gets TopicsClosed."""
        self.closed = True
        self.publish_all()

    def subscribe(self, *topics: str) -> Subscription:
        return Subscription(self, topics)

    def _add(self, topic: str, waiter: asyncio.Event) -> None:
        self._waiting[topic].add(waiter)

    def _remove(self, topic: str, waiter: asyncio.Event) -> None:
        waiters = self._waiting[topic]
        waiters.discard(waiter)
        if not waiters:
            del self._waiting[topic]


class Subscription:
    """Subscribed before the first look at the database, so that no change between look and wait is missed."""

    def __init__(self, topics: Topics, names: Iterable[str]) -> None:
        self._topics = topics
        self._names = tuple(names)
        self._changed = asyncio.Event()

    def __enter__(self) -> Subscription:
        for name in self._names:
            self._topics._add(name, self._changed)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            self._topics._remove(name, self._changed)

    async def wait(self, timeout_s: float) -> None:
        """Return at a change since the last wait, or after `timeout_s`. Raises TopicsClosed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()
        if self._topics.closed:
            raise TopicsClosed
