"""URLs that the controller asks for, signed with the credentials that only agents have, and told to nobody else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from agent.storage import Stores
from mediactl.v1 import agent_service_pb2 as pb
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import shown

log = structlog.get_logger()

FEATURE = "sign"
"""The feature of answering Sign."""
MOST_AT_ONCE = 32
"""Requests; who asks for more gets no answer, and asks another agent."""


class Signing:
    """Answers, in any order, that wait to be taken. `fresh` is called when there is one.

    For one stream: `reset` when that ends.
    """

    def __init__(self, stores: Stores, fresh: Callable[[], None]) -> None:
        self._stores = stores
        self._fresh = fresh
        self._answers: deque[pb.Signed] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, sign: pb.Sign) -> None:
        """Sign all of it."""
        if len(self._tasks) < MOST_AT_ONCE:
            task = asyncio.create_task(self._answer(sign), name="signing")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def take(self) -> pb.Signed | None:
        """An answer that waits, if any."""
        return self._answers.popleft() if self._answers else None

    def reset(self) -> None:
        """Forget what was asked for."""
        for task in self._tasks:
            task.cancel()
        self._answers.clear()

    async def _answer(self, sign: pb.Sign) -> None:
        uris = await asyncio.gather(*(self._signed(uri, sign.lifetime.seconds) for uri in sign.uris))
        self._answers.append(pb.Signed(request_id=sign.request_id, uris=uris))
        self._fresh()

    async def _signed(self, uri: str, lifetime_s: int) -> pb.SignedUri:
        answer = pb.SignedUri(uri=uri)
        try:
            signed = await self._stores.store_for(uri).sign(uri, lifetime_s)
        except MediaFailure as failure:
            # Whatever reason it is for the input or output of a job.
            answer.failure.reason, answer.failure.message = Reason.ARTIFACT_UNAVAILABLE, failure.message
        except Exception as error:  # noqa: BLE001 - its words may hold a signature
            log.error("a URL could not be signed", uri=shown(uri), error=type(error).__name__)
            answer.failure.reason = Reason.INTERNAL
            answer.failure.message = f"{shown(uri)}: a defect of the agent: {type(error).__name__}"
        else:
            answer.url = signed.url
            if signed.expires is not None:
                answer.expire_time.FromSeconds(int(signed.expires))
        return answer
