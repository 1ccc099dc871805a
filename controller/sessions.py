"""The agents that are connected to this controller now: what they offer, what they hold, what they must be told.

Nothing here is needed to survive: a new session brings all of it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from controller.core.fitting import Offer
from controller.core.liveness import Health, Timers, health
from controller.exchange import Exchange
from controller.store.tables import AgentId
from controller.store.topics import Topics, job
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2

DECLINE_PAUSE_S = 1.0
"""How long an agent that declined a lease gets no other: it is about to say what has changed."""
MOST_PROGRESS = 50_000
"""Jobs whose progress is remembered: agents may name any."""


class Session:
    """One agent's stream."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float] = time.monotonic) -> None:
        self.exchange = exchange
        self._clock = clock
        self._heard = clock()
        self._paused_until = 0.0
        self._outgoing: list[pb.SessionResponse] = []
        self._news = asyncio.Event()
        self._over = False
        self._why: Exception | None = None

    @property
    def agent_id(self) -> AgentId:
        return self.exchange.speaker.agent_id

    def hear(self) -> None:
        """Any frame is a sign of life."""
        self._heard = self._clock()

    def pause(self) -> None:
        """It declined a lease."""
        self._paused_until = self._clock() + DECLINE_PAUSE_S

    @property
    def silent_s(self) -> float:
        return self._clock() - self._heard

    @property
    def takes_work(self) -> bool:
        return not self.exchange.status.draining and self._clock() >= self._paused_until

    def send(self, *frames: pb.SessionResponse) -> None:
        self._outgoing += frames
        self._news.set()

    def close(self, why: Exception | None = None) -> None:
        """End the stream: regularly, or by raising `why` from `frames`."""
        if not self._over:
            self._over, self._why = True, why
            self._news.set()

    async def frames(self) -> Iterable[pb.SessionResponse]:
        """What is to be sent next; nothing at the end."""
        await self._news.wait()
        self._news.clear()
        frames, self._outgoing = self._outgoing, []
        if frames:
            if self._over:
                self._news.set()
            return self.exchange.bundled(frames)
        if self._why is not None:
            raise self._why
        return () if self._over else await self.frames()


class Sessions:
    """All of this controller's, by agent, and the newest progress of every job they work on."""

    def __init__(self, topics: Topics, timers: Timers) -> None:
        self._topics = topics
        self._timers = timers
        self._by_agent: dict[str, Session] = {}
        self._progress: dict[str, job_pb2.Progress] = {}

    def add(self, session: Session) -> Session | None:
        """Returns the session of the same agent that this one supersedes."""
        before = self._by_agent.get(session.agent_id)
        self._by_agent[session.agent_id] = session
        return before

    def remove(self, session: Session) -> None:
        if self._by_agent.get(session.agent_id) is session:
            del self._by_agent[session.agent_id]

    def get(self, agent_id: str) -> Session | None:
        return self._by_agent.get(agent_id)

    def all(self) -> list[Session]:
        return list(self._by_agent.values())

    def offers(self) -> tuple[Offer, ...]:
        """What the agents that may be given work have altogether."""
        return tuple(
            session.exchange.offer()
            for session in self._by_agent.values()
            if session.takes_work and self.health(session) is Health.READY
        )

    def health(self, session: Session) -> Health:
        """Whether it was heard of in time."""
        return health(session.silent_s, self._timers)

    def objection(self, agent_id: str, stored: str | None) -> str:
        """Why an agent takes no new work, by its own words: the newest, or `stored` if it isn't connected here."""
        session = self._by_agent.get(agent_id)
        return session.exchange.objection if session is not None else stored or ""

    def progress(self, job_id: str) -> job_pb2.Progress | None:
        return self._progress.get(job_id)

    def report_progress(self, holding: pb.Holding) -> None:
        """Keep the newest; within an attempt it never falls."""
        job_id = job_of(holding.attempt_id)
        if len(self._progress) >= MOST_PROGRESS and job_id not in self._progress:
            self._progress.pop(next(iter(self._progress)))
        before = self._progress.get(job_id)
        floor = before.fraction if before is not None and before.attempt_id == holding.attempt_id else 0.0
        self._progress[job_id] = job_pb2.Progress(
            job_id=job_id,
            attempt_id=holding.attempt_id,
            fraction=min(0.99, max(floor, holding.progress)),
            activity=holding.activity,
            speed=holding.speed,
        )
        self._topics.publish([job(job_id)])

    def forget_progress(self, job_id: str) -> None:
        self._progress.pop(job_id, None)


def job_of(attempt_id: str) -> str:
    """Attempt ids begin with their job's."""
    return attempt_id.partition("-")[0]
