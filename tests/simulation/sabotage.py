"""Rules broken on purpose: each must be found, or the checker proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from agent.core.ledger import Effect, Ledger
from agent.outbox import Outbox
from controller.core.states import TaskEvent
from controller.exchange import Exchange
from controller.store import attempts, fleet, leasing, submission
from controller.store.attempts import Answer, Stage, _Reports
from controller.store.fleet import ExpireAgents, Reconciled, Register
from controller.store.work import Happened, Work
from tests.simulation.attempts import SimulatedAttempt
from tests.simulation.base import Base, RolledBack

Sabotage = Callable[[], AbstractContextManager[Any]]


@contextmanager
def _stale_attempts_go_on() -> Iterator[None]:
    take, apply = _Reports.take, Register.apply

    def unstopped(self: Register, tx: Any) -> Reconciled:
        return replace(apply(self, tx), stops=())

    def sabotaged(self: _Reports, speaker: Any, item: Any) -> Answer:
        answer = take(self, speaker, item)
        return True if isinstance(item, Stage) else answer

    with patch.object(_Reports, "take", sabotaged), patch.object(Register, "apply", unstopped):
        yield


@contextmanager
def _ended_attempts_keep_their_holder() -> Iterator[None]:
    end_attempt = Work.end_attempt

    def sabotaged(self: Work, attempt: Any, state: str, **columns: Any) -> None:
        holder = attempt.holder
        end_attempt(self, attempt, state, **columns)
        attempt.set(holder=holder)

    with patch.object(Work, "end_attempt", sabotaged):
        yield


@contextmanager
def _sessions_repeat_nothing() -> Iterator[None]:
    def sabotaged(self: Outbox) -> None:
        self.flush()
        self._unsent = []
        self.fresh.set()

    with patch.object(Outbox, "restart", sabotaged):
        yield


@contextmanager
def _answers_come_before_the_commit() -> Iterator[None]:
    transact = Base.transact

    def sabotaged(
        self: Base, commands: Any, *, follow_up: Any = None, roll_back: bool = False
    ) -> tuple[list[Any], set[str]]:
        told: list[tuple[list[Any], set[str]]] = []
        if not roll_back:
            return transact(self, commands, follow_up=follow_up)
        try:
            with self.connection.begin():
                with patch.object(self.connection, "begin", self.connection.begin_nested):
                    told.append(transact(self, commands, follow_up=follow_up))
                raise RolledBack
        except RolledBack:
            return told[0]

    with patch.object(Base, "transact", sabotaged):
        yield


@contextmanager
def _nobody_asks_before_publishing() -> Iterator[None]:
    start = SimulatedAttempt.start

    def sabotaged(self: SimulatedAttempt) -> None:
        start(self)
        self.publish()

    with patch.object(SimulatedAttempt, "start", sabotaged):
        yield


@contextmanager
def _every_life_numbers_its_log_from_one() -> Iterator[None]:
    lease = Ledger.lease

    def sabotaged(self: Ledger[Any, Any, Any], attempt_id: str, first: int = 0, *, to_publish: bool = False) -> Effect:
        return lease(self, attempt_id, to_publish=to_publish)

    with patch.object(Ledger, "lease", sabotaged):
        yield


@contextmanager
def _welcomes_come_in_bundles() -> Iterator[None]:
    bundled = Exchange.bundled

    def sabotaged(self: Exchange, frames: Any) -> Any:
        if len(frames) > 1 and frames[0].HasField("welcome"):
            return [*bundled(self, frames[1:]), frames[0]]
        return bundled(self, frames)

    with patch.object(Exchange, "bundled", sabotaged):
        yield


@contextmanager
def _what_is_held_costs_nothing() -> Iterator[None]:
    with patch.object(leasing, "charged", lambda connection, database, offers: tuple(offers)):
        yield


@contextmanager
def _orphaned_publications_stay_orphans() -> Iterator[None]:
    with patch.object(leasing, "_adopt_publications", lambda tx, offers: []):
        yield


@contextmanager
def _requests_are_not_remembered() -> Iterator[None]:
    with patch.object(submission, "remembered", lambda tx, keys: {}):
        yield


@contextmanager
def _dependants_are_not_told() -> Iterator[None]:
    with patch.object(Work, "_tell_dependants", lambda self, ended: None):
        yield


@contextmanager
def _publications_expire() -> Iterator[None]:
    expire = ExpireAgents.apply

    def sabotaged(self: ExpireAgents, tx: Any) -> Any:
        with patch.object(fleet, "TaskState", _NothingIsPublishing):
            return expire(self, tx)

    with patch.object(ExpireAgents, "apply", sabotaged):
        yield


class _NothingIsPublishing:
    PUBLISHING = "nothing"


@contextmanager
def _what_an_agent_lost_is_not_missed() -> Iterator[None]:
    with patch.object(Register, "_compare", lambda self, unit, attempt_id, resend, stops: None):
        yield


@contextmanager
def _draining_is_forgotten() -> Iterator[None]:
    with patch.object(leasing, "drained", lambda tx: frozenset()):
        yield


@contextmanager
def _what_is_handed_back_is_cancelled() -> Iterator[None]:
    def sabotaged(unit: Work, attempt: Any, task: Any, used: Any) -> None:
        unit.end_attempt(attempt, "cancelled", **used)
        unit.move(task, TaskEvent.CANCEL, Happened("cancelled", attempt.id, attempt.agent_id), attempt_id="")

    with patch.object(attempts, "_hand_back", sabotaged):
        yield


SABOTAGES: Mapping[str, Sabotage] = {
    "stale attempts are neither stopped nor refused": _stale_attempts_go_on,
    "ended attempts keep their holder": _ended_attempts_keep_their_holder,
    "sessions repeat nothing": _sessions_repeat_nothing,
    "answers come before the commit": _answers_come_before_the_commit,
    "nobody asks before publishing": _nobody_asks_before_publishing,
    "every life numbers its log from one": _every_life_numbers_its_log_from_one,
    "welcomes come in bundles": _welcomes_come_in_bundles,
    "what is held costs nothing": _what_is_held_costs_nothing,
    "orphaned publications stay orphans": _orphaned_publications_stay_orphans,
    "requests are not remembered": _requests_are_not_remembered,
    "dependants are not told": _dependants_are_not_told,
    "publications expire": _publications_expire,
    "what an agent lost is not missed": _what_an_agent_lost_is_not_missed,
    "draining is forgotten": _draining_is_forgotten,
    "what is handed back is cancelled": _what_is_handed_back_is_cancelled,
}
