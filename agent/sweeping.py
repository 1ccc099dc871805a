"""What ended attempts left staged, removed on the controller's word: it alone knows which have ended."""

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

FEATURE = "sweep"
"""The feature of answering Sweep."""
MOST_AT_ONCE = 32
"""Attempts; for more there is no answer, and the controller asks again."""


class Sweeping:
    """Answers, in any order, that wait to be taken. `fresh` is called when there is one.

    What this agent itself still `holds` it leaves alone, whatever the controller says. For one stream: `reset` when
    that ends.
    """

    def __init__(self, stores: Stores, holds: Callable[[str], bool], fresh: Callable[[], None]) -> None:
        self._stores = stores
        self._holds = holds
        self._fresh = fresh
        self._answers: deque[pb.Swept] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, sweep: pb.Sweep) -> None:
        """Remove all of it. A repeat while that goes on changes nothing."""
        attempt_id = sweep.attempt_id
        if attempt_id not in self._tasks and len(self._tasks) < MOST_AT_ONCE:
            self._tasks[attempt_id] = asyncio.create_task(self._answer(sweep), name=f"sweep {attempt_id}")

    def take(self) -> pb.Swept | None:
        """An answer that waits, if any."""
        return self._answers.popleft() if self._answers else None

    def reset(self) -> None:
        """Forget what was asked for. What is being removed is removed; nobody hears of it."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}
        self._answers.clear()

    async def _answer(self, sweep: pb.Sweep) -> None:
        answer = pb.Swept(attempt_id=sweep.attempt_id)
        if self._holds(sweep.attempt_id):
            answer.failure.reason, answer.failure.message = Reason.INTERNAL, "this agent still holds the attempt"
        else:
            for uri in sweep.uris:
                await self._sweep(uri, answer)
        if answer.removed:
            log.info("removed what was left staged", attempt=sweep.attempt_id, uris=[shown(uri) for uri in sweep.uris])
        del self._tasks[sweep.attempt_id]
        self._answers.append(answer)
        self._fresh()

    async def _sweep(self, uri: str, answer: pb.Swept) -> None:
        """As far as that goes: what one store refuses keeps nothing elsewhere."""
        try:
            if await self._stores.store_for(uri).sweep(uri, answer.attempt_id):
                answer.removed.append(uri)
        except MediaFailure as failure:
            answer.failure.reason, answer.failure.message = failure.reason, failure.message
        except Exception as error:
            log.error("staged content could not be removed", uri=shown(uri), exc_info=error)
            answer.failure.reason = Reason.INTERNAL
            answer.failure.message = f"{shown(uri)}: a defect of the agent: {type(error).__name__}"
