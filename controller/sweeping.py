"""The sweeper of staging: what attempts left that ended without their agents, removed by agents that reach it.

The database says which attempts have ended; credentials and disks are the agents'. Asking twice, or two agents at
once, does no harm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from controller.core.fitting import beneath
from controller.core.liveness import Health
from controller.sessions import Session, Sessions
from controller.store.sweeping import MarkSwept, SweepLater, unswept
from controller.store.writer import Store
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.intent import manifest_uri
from presets.reasons import Reason
from presets.uris import place, shown

log = structlog.get_logger()

GRACE_S = 60.0
"""After its end: an agent that is cut off has time to hear that it must stop, and tidies up itself."""
PATIENCE_S = 60.0
"""How long an agent may take."""
PAGE = 32
"""Attempts asked for at once; an agent takes as many."""
MOST_ASKED = 3
"""Agents, one after the other, until the next round."""


@dataclass(frozen=True, slots=True)
class _Asked:
    session: Session
    answer: asyncio.Future[pb.Swept]


class StagingSweeper:
    """One controller's. `sweep` makes a round, `hear` takes whatever an agent says."""

    def __init__(
        self, store: Store, sessions: Sessions, *, grace_s: float = GRACE_S, patience_s: float = PATIENCE_S
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._grace_s = grace_s
        self._patience_s = patience_s
        self._asked: dict[str, _Asked] = {}

    def hear(self, session: Session, swept: pb.Swept) -> None:
        """Take what was asked for; anything else, or what comes too late, is nobody's."""
        asked = self._asked.get(swept.attempt_id)
        if asked is not None and asked.session is session and not asked.answer.done():
            asked.answer.set_result(swept)

    def leave(self, session: Session) -> None:
        """The stream is over: nothing more comes from it."""
        for asked in self._asked.values():
            if asked.session is session and not asked.answer.done():
                asked.answer.set_result(_failed(session, "was cut off"))

    async def sweep(self) -> None:
        """Have everything swept that is due and that a connected agent reaches."""
        store = self._store
        if not self._able():
            return
        before_us = await store.read(store.database.now_us) - int(self._grace_s * 1e6)
        after = (-1, "")
        while rows := await store.read(unswept, before_us, after, PAGE):
            after = (rows[-1].sweep_us, rows[-1].id)
            await asyncio.gather(*(self._one(row) for row in rows))

    async def _one(self, row: Any) -> None:
        uris = _targets(row.intent, row.job_id)
        # Its own agent first: a file's path may be on its disk alone.
        able = sorted(
            (session for session in self._able() if _reaches(session, uris)),
            key=lambda session: (session.agent_id != row.agent_id, session.silent_s),
        )
        swept: pb.Swept | None = None
        for session in able[:MOST_ASKED]:
            swept = await self._ask(session, row.id, uris)
            if not swept.HasField("failure"):
                break
        if swept is None:
            # Another controller may have such an agent, or this one soon.
            return
        told = {"job_id": row.job_id, "attempt_id": row.id, "removed": [shown(uri) for uri in swept.removed]}
        if swept.HasField("failure"):
            log.warning("what an attempt left staged could not be removed yet", why=swept.failure.message, **told)
            await self._store.execute(SweepLater(row.tenant, row.id))
            return
        if swept.removed:
            log.info("removed what an attempt left staged", **told)
        await self._store.execute(MarkSwept(row.tenant, row.id))

    def _able(self) -> list[Session]:
        return [
            session
            for session in self._sessions.all()
            if session.exchange.sweeps and self._sessions.health(session) is Health.READY
        ]

    async def _ask(self, session: Session, attempt_id: str, uris: Sequence[str]) -> pb.Swept:
        asked = self._asked[attempt_id] = _Asked(session, asyncio.get_running_loop().create_future())
        session.send(pb.SessionResponse(sweep=pb.Sweep(attempt_id=attempt_id, uris=uris)))
        try:
            async with asyncio.timeout(self._patience_s):
                return await asked.answer
        except TimeoutError:
            return _failed(session, "did not answer in time")
        finally:
            del self._asked[attempt_id]


def _targets(intent: str, job_id: str) -> list[str]:
    """Wherever an attempt may have staged something."""
    outputs = [str(output["uri"]) for output in json.loads(intent)["outputs"]]
    manifest = manifest_uri(outputs, job_id)
    return [*outputs, *([manifest] if manifest is not None else ())]


def _reaches(session: Session, uris: Iterable[str]) -> bool:
    able = session.exchange.hello.capabilities
    roots = [*able.media_roots, *able.stores]
    return all(beneath(str(place(uri)), roots) for uri in uris)


def _failed(session: Session, what: str) -> pb.Swept:
    name = session.exchange.hello.name
    return pb.Swept(failure=job_pb2.Failure(reason=Reason.AGENT_LOST, message=f"agent {name} {what}"))
