"""What the agent holds: attempts that run here, from a lease or from what a former life left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

import structlog

from agent.attempt import Attempt
from agent.core.ledger import Effect
from agent.journal import left_lease
from agent.means import Means
from agent.media.supervised import end_steps
from agent.outbox import Outbox
from agent.records import failure_message
from agent.workspace import Workspace, workspaces
from mediactl.v1 import agent_service_pb2 as pb
from presets.capabilities import Requirements, choose_binary
from presets.problems import MediaFailure
from presets.reasons import Reason

log = structlog.get_logger()

KINDS = (pb.TASK_KIND_TRANSFORM, pb.TASK_KIND_PLAN)


class Attempts:
    """Outlives sessions. `take_up` first. `means`: what those to come work with."""

    def __init__(self, means: Means, outbox: Outbox) -> None:
        self.means = means
        self._outbox = outbox
        self._running: dict[str, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False
        self.idle = asyncio.Event()
        """Set when the last one that ran has ended."""
        self.on_failure: Callable[[Reason], None] = lambda reason: None
        """Hears of their failures."""

    def __len__(self) -> int:
        return len(self._running)

    async def take_up(self) -> None:
        """Hold again what was held, and go on with what can go on. Nobody else works in the scratch folder."""
        for attempt_id in self._outbox.load():
            held = self._outbox.ledger.get(attempt_id)
            if held is not None and held.ended is not None:
                held.ended.kept_bytes = await asyncio.to_thread(self.means.remains.kept_bytes, attempt_id)
                continue
            lease = left_lease(Workspace(self.means.scratch, attempt_id))
            if lease is None:
                self._outbox.forget(attempt_id)
                continue
            log.info("attempt taken up again", attempt=attempt_id, job=lease.job_id)
            self._begin(lease, taken_up=True)
        for orphan in workspaces(self.means.scratch):
            if orphan.attempt_id not in self._running:
                await self._remove(orphan)
        await asyncio.to_thread(self.means.confinement.sweep, tuple(self._running))

    async def _remove(self, orphan: Workspace) -> None:
        """As far as that goes: the agent must start, if only so that there is room again on a full disk."""
        try:
            try:
                await end_steps(orphan.steps)
            finally:
                await asyncio.to_thread(orphan.remove)
        except OSError as error:
            log.warning("an orphaned workspace resists", attempt=orphan.attempt_id, error=str(error))
        else:
            log.info("removed an orphaned workspace", attempt=orphan.attempt_id)

    def take(self, lease: pb.Lease, revision: str) -> None:
        """Begin what a lease says, or decline it. `revision`: of what the agent can do now."""
        if wrong := self._unfit(lease, revision):
            log.info("lease declined", attempt=lease.attempt_id, why=wrong)
            self._outbox.decline(pb.Decline(attempt_id=lease.attempt_id, message=wrong))
            return
        try:
            effect = self._outbox.lease(lease.attempt_id, lease.incarnation, to_publish=bool(lease.redo))
        except OSError as error:
            self._outbox.decline(pb.Decline(attempt_id=lease.attempt_id, message=f"the agent's disk: {error}"))
            return
        if effect is not Effect.START:
            return
        log.info("attempt leased", attempt=lease.attempt_id, job=lease.job_id)
        self._begin(lease, taken_up=False)

    def _unfit(self, lease: pb.Lease, revision: str) -> str:
        """Why a lease that this agent doesn't hold yet can't be taken; empty: it can."""
        if self._outbox.ledger.get(lease.attempt_id) is not None:
            return ""
        if lease.kind not in KINDS:
            return "this agent's version does not know this kind of task"
        if lease.capability_revision != revision and lease.requirements_json:
            needs = Requirements.from_json(json.loads(lease.requirements_json)).alternatives
            if choose_binary(self.means.binaries, needs[0]) is None:
                return "this agent's capabilities have changed, and it lacks what the task needs"
        return ""

    def _begin(self, lease: pb.Lease, *, taken_up: bool) -> None:
        attempt = Attempt(lease, self.means, self._outbox, taken_up=taken_up)
        self._running[lease.attempt_id] = attempt
        self.idle.clear()
        task = attempt.start()
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, lease.attempt_id))

    def stop(self, stop: pb.Stop) -> None:
        """End what a stop says, held or not."""
        match self._outbox.ledger.stop(stop.attempt_id):
            case Effect.STOP:
                log.info("attempt told to stop", attempt=stop.attempt_id, reason=stop.reason)
                self._running[stop.attempt_id].stop(stop.reason, leave_staged=stop.leave_staged)
            case Effect.REPORT_STOPPED:
                self._outbox.report_stopped(stop.attempt_id)
            case _:
                pass

    def hand_back(self, why: str) -> None:
        """Stop what runs, to be begun anew elsewhere; what is being published is finished. A repeat does no harm."""
        if self._running:
            log.info("handing back what runs", attempts=list(self._running), why=why)
        for attempt in list(self._running.values()):
            attempt.stop(Reason.AGENT_STOPPING)

    def _ended(self, attempt_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._leaving:
            return
        del self._running[attempt_id]
        if not self._running:
            self.idle.set()
        held = self._outbox.ledger.get(attempt_id)
        if held is not None and held.ended is None:
            # Stopped before its first step, or a defect in its clean-up: the controller waits for an end all the same.
            report = pb.EndReport(attempt_id=attempt_id, outcome=pb.OUTCOME_STOPPED, staging_left=True)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.error("attempt ended by a defect", attempt=attempt_id, exc_info=error)
                # Uses an attempt: what meets a defect once may meet it for ever.
                report.outcome = pb.OUTCOME_FAILED
                defect = f"the agent met a defect: {type(error).__name__}"
                report.failure.CopyFrom(failure_message(MediaFailure(Reason.INTERNAL, defect), ""))
            self._outbox.conclude(report)
            self._outbox.end(report)
        outcome = pb.Outcome.Name(held.ended.outcome) if held is not None and held.ended is not None else "?"
        log.info("attempt ended", attempt=attempt_id, outcome=outcome)
        if held is not None and held.ended is not None and held.ended.failure.reason in Reason.__members__:
            self.on_failure(Reason(held.ended.failure.reason))

    def publish(self, attempt_id: str) -> None:
        """The controller permits it, as often as it says so."""
        if self._outbox.publish(attempt_id) is Effect.PUBLISH:
            self._running[attempt_id].publish()

    def recalled(self, answer: pb.Recalled) -> None:
        """What the controller knows to have been made before, for the attempt that asked."""
        if (attempt := self._running.get(answer.attempt_id)) is not None:
            attempt.recalled(answer)

    async def leave(self, within_s: float) -> None:
        """Let go of all as they are, for the next life; those that are just ending may do so."""
        self._leaving = True
        for attempt in self._running.values():
            attempt.leave()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
