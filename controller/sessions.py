"""The agents that are connected to this controller now: what they offer, what they hold, what they must be told.

Nothing here is needed to survive: a new session brings all of it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from google.protobuf import json_format

from controller.core.liveness import Health, Timers, health
from controller.core.matching import Offer
from controller.store.attempts import Speaker
from controller.store.leasing import Leased
from controller.store.tables import AgentId
from controller.store.topics import Topics, job
from mediactl.v1 import agent_service_pb2, fleet_service_pb2, job_pb2
from presets.capabilities import Resources

_KINDS = {
    "transform": agent_service_pb2.TASK_KIND_TRANSFORM,
    "plan": agent_service_pb2.TASK_KIND_PLAN,
}


def offer_of(
    agent_id: str,
    name: str,
    labels: Mapping[str, str],
    capabilities: fleet_service_pb2.Capabilities,
    *,
    scratch_free: int | None = None,
) -> Offer:
    """An agent as the matcher sees it, with everything that it has altogether as free."""
    total = Resources(
        cores=capabilities.cores,
        memory_bytes=capabilities.memory_bytes,
        scratch_bytes=capabilities.scratch_bytes if scratch_free is None else scratch_free,
    )
    return Offer(
        agent_id=agent_id,
        name=name,
        labels=dict(labels),
        media_roots=tuple(capabilities.media_roots),
        binaries=tuple(frozenset(binary.capabilities) for binary in capabilities.binaries),
        failed_trials={
            f"encoder:{trial.encoder}": trial.message
            for binary in capabilities.binaries
            for trial in binary.trials
            if not trial.works
        },
        total=total,
        free=total,
        free_tasks=capabilities.max_tasks,
    )


def lease_frame(leased: Leased) -> agent_service_pb2.SessionResponse:
    """A lease as it goes over the wire."""
    lease = agent_service_pb2.Lease(
        attempt_id=leased.attempt_id,
        task_id=leased.task_id,
        job_id=leased.job_id,
        kind=_KINDS[leased.task_kind],
        intent_json=leased.intent,
        requirements_json=leased.requirements,
        cores=leased.cores,
        memory_bytes=leased.memory_bytes,
        verbose=leased.verbose,
    )
    if leased.redo is not None:
        staged = json_format.Parse(leased.redo, agent_service_pb2.StageReport())
        lease.redo.extend(staged.records)
    return agent_service_pb2.SessionResponse(lease=lease)


class Session:
    """One agent's stream."""

    def __init__(self, hello: agent_service_pb2.Hello, epoch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.hello = hello
        self.speaker = Speaker(AgentId(hello.agent_id), epoch)
        self.status = agent_service_pb2.AgentStatus(holdings=hello.holdings)
        self.begun: set[str] = set()
        self._reported = False
        self._clock = clock
        self._heard = clock()
        self._outgoing: asyncio.Queue[agent_service_pb2.SessionResponse | Exception | None] = asyncio.Queue()

    def hear(self) -> None:
        """Any frame is a sign of life."""
        self._heard = self._clock()

    def report(self, status: agent_service_pb2.AgentStatus) -> None:
        """Keep the newest status."""
        self.status = status
        self._reported = True

    @property
    def silent_s(self) -> float:
        return self._clock() - self._heard

    @property
    def held(self) -> frozenset[str]:
        return frozenset(holding.attempt_id for holding in self.status.holdings)

    def offer(self) -> Offer:
        scratch = self.status.scratch_free_bytes if self._reported else None
        hello = self.hello
        return offer_of(hello.agent_id, hello.name, hello.labels, hello.capabilities, scratch_free=scratch)

    def send(self, frame: agent_service_pb2.SessionResponse) -> None:
        self._outgoing.put_nowait(frame)

    def close(self, why: Exception | None = None) -> None:
        """End the stream: regularly, or by raising `why` from `frames`."""
        self._outgoing.put_nowait(why)

    async def frames(self) -> agent_service_pb2.SessionResponse | None:
        """The next frame to send, None at the end."""
        item = await self._outgoing.get()
        if isinstance(item, Exception):
            raise item
        return item


class Sessions:
    """All of this controller's, by agent, and the newest progress of every job they work on."""

    def __init__(self, topics: Topics, timers: Timers) -> None:
        self._topics = topics
        self._timers = timers
        self._by_agent: dict[str, Session] = {}
        self._progress: dict[str, job_pb2.Progress] = {}

    def add(self, session: Session) -> Session | None:
        """Returns the session of the same agent that this one supersedes."""
        before = self._by_agent.get(session.speaker.agent_id)
        self._by_agent[session.speaker.agent_id] = session
        return before

    def remove(self, session: Session) -> None:
        if self._by_agent.get(session.speaker.agent_id) is session:
            del self._by_agent[session.speaker.agent_id]

    def get(self, agent_id: str) -> Session | None:
        return self._by_agent.get(agent_id)

    def all(self) -> list[Session]:
        return list(self._by_agent.values())

    def offers(self) -> tuple[Offer, ...]:
        """What the agents that may be given work have altogether."""
        return tuple(
            session.offer()
            for session in self._by_agent.values()
            if not session.status.draining and health(session.silent_s, self._timers) is Health.READY
        )

    def progress(self, job_id: str) -> job_pb2.Progress | None:
        return self._progress.get(job_id)

    def report_progress(self, holding: agent_service_pb2.Holding) -> None:
        """Keep the newest; within an attempt it never falls."""
        job_id = job_of(holding.attempt_id)
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
