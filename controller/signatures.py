"""URLs of artifacts, signed by agents: credentials of stores are theirs alone.

A URL is on its way to whoever asked for it and nowhere else: nothing here logs one or stores one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.core.fitting import beneath
from controller.core.liveness import Health
from controller.sessions import Session, Sessions
from controller.store.topics import DISPATCH, Topics
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2, job_service_pb2
from presets.reasons import Reason
from presets.uris import FILE, Place, place, shown

PATIENCE_S = 15.0
"""How long agents are waited for altogether: half of what is left for each but the last."""


@dataclass(frozen=True, slots=True)
class _Asked:
    session: Session
    answer: asyncio.Future[pb.Signed]


class Signatures:
    """All that this controller asks its agents for. `hear` takes whatever an agent says."""

    def __init__(
        self,
        sessions: Sessions,
        topics: Topics,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._topics = topics
        self._patience_s = patience_s
        self._clock = clock
        self._asked: dict[str, _Asked] = {}

    def hear(self, session: Session, signed: pb.Signed) -> None:
        """Take what was asked for; anything else, or what comes too late, is nobody's."""
        asked = self._asked.get(signed.request_id)
        if asked is not None and asked.session is session and not asked.answer.done():
            asked.answer.set_result(signed)

    def leave(self, session: Session) -> None:
        """The stream is over: nothing more comes from it."""
        for asked in self._asked.values():
            if asked.session is session and not asked.answer.done():
                asked.answer.set_result(pb.Signed())

    async def sign(
        self, artifacts: Iterable[job_pb2.Artifact], lifetime_s: int
    ) -> list[job_service_pb2.SignedArtifact]:
        """A URL, or why there is none, for each."""
        answers = [job_service_pb2.SignedArtifact(name=one.name, uri=one.uri) for one in artifacts]
        places = {answer.uri: _place(answer.uri) for answer in answers}
        signed = await self._by_agents({uri: at for uri, at in places.items() if at is not None}, lifetime_s)
        for answer in answers:
            its = signed.get(answer.uri) or _failed(answer.uri, Reason.ARTIFACT_UNAVAILABLE, _of_file(answer.uri))
            answer.url = its.url
            if its.HasField("expire_time"):
                answer.expire_time.CopyFrom(its.expire_time)
            if its.HasField("failure"):
                answer.failure.CopyFrom(its.failure)
        return answers

    async def _by_agents(self, places: Mapping[str, Place], lifetime_s: int) -> dict[str, pb.SignedUri]:
        """One agent after the other is asked for what it reaches, until nothing is left to ask for."""
        ends = self._clock() + self._patience_s
        with self._topics.subscribe(DISPATCH) as changes:
            # Just after a controller's start agents are about to come.
            while places and not self._sessions.all() and (left_s := ends - self._clock()) > 0:
                await changes.wait(left_s)
        found = {uri: _unreached(uri, at, self._sessions.all()) for uri, at in places.items()}
        left = set(places)
        able = [(session, uris) for session in self._in_turn() if (uris := _reached(session, places))]
        for number, (session, uris) in enumerate(able):
            wanted = sorted(left & uris)
            if not wanted:
                continue
            others = any(left & later for _, later in able[number + 1 :])
            patience_s = (ends - self._clock()) * (0.5 if others else 1.0)
            for uri, answer in (await self._ask(session, wanted, lifetime_s, patience_s)).items():
                found[uri] = answer
                if answer.url:
                    left.discard(uri)
        return found

    def _in_turn(self) -> list[Session]:
        """Those that were heard of most lately first."""
        here = [session for session in self._sessions.all() if session.exchange.signs]
        return sorted(here, key=lambda one: (self._sessions.health(one) is not Health.READY, one.silent_s))

    async def _ask(
        self, session: Session, uris: Sequence[str], lifetime_s: int, patience_s: float
    ) -> dict[str, pb.SignedUri]:
        request_id = secrets.token_hex(16)
        asked = self._asked[request_id] = _Asked(session, asyncio.get_running_loop().create_future())
        frame = pb.Sign(request_id=request_id, uris=uris)
        frame.lifetime.FromSeconds(lifetime_s)
        session.send(pb.SessionResponse(sign=frame))
        try:
            async with asyncio.timeout(patience_s):
                answers = {one.uri: one for one in (await asked.answer).uris}
        except TimeoutError:
            answers = {}
        finally:
            del self._asked[request_id]
        return {uri: answers.get(uri) or _silent(uri, session) for uri in uris}


def _reached(session: Session, places: Mapping[str, Place]) -> frozenset[str]:
    stores = session.exchange.hello.capabilities.stores
    return frozenset(uri for uri, at in places.items() if beneath(str(at), stores))


def _place(uri: str) -> Place | None:
    """In a store; None where it is in none."""
    try:
        at = place(uri)
    except ValueError:
        return None
    return None if at.store == FILE else at


def _of_file(uri: str) -> str:
    return (
        f"{shown(uri)} is a file of an agent's machine, which has no URL; on that machine "
        "`mediactl jobs artifacts ID --download DIR` copies it"
    )


def _unreached(uri: str, at: Place, sessions: Sequence[Session]) -> pb.SignedUri:
    old = sorted(one.exchange.hello.name for one in sessions if _reached(one, {uri: at}) and not one.exchange.signs)
    told = f"no agent that is connected to this controller reaches the store {at.store!r} of {shown(uri)}"
    if old:
        told = (
            f"of the agents that are connected to this controller only {', '.join(old)} reach the store {at.store!r} "
            f"of {shown(uri)}, in a version that can't sign URLs: upgrade them"
        )
    return _failed(uri, Reason.NO_CAPABLE_AGENT, told)


def _silent(uri: str, session: Session) -> pb.SignedUri:
    told = f"agent {session.exchange.hello.name} gave no URL of {shown(uri)} in time; try again"
    return _failed(uri, Reason.ARTIFACT_UNAVAILABLE, told)


def _failed(uri: str, reason: Reason, message: str) -> pb.SignedUri:
    return pb.SignedUri(uri=uri, failure=job_pb2.Failure(reason=reason, message=message))
