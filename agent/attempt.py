"""One attempt from its lease to its end report: its life. What it does is :mod:`agent.transform`'s."""

from __future__ import annotations

import asyncio
import errno
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from agent.core.ledger import Phase
from agent.core.progress import CEILING, Meter
from agent.journal import Journal
from agent.logbook import Logbook
from agent.means import Means
from agent.media.logs import redact
from agent.media.supervised import end_steps
from agent.media.usage import Usage
from agent.outbox import Outbox
from agent.records import explanation, failure_message, plan_message, record, usage_message
from agent.workspace import Workspace
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.problems import MediaFailure
from presets.reasons import Reason

if TYPE_CHECKING:
    from agent.transform import Transform

log = structlog.get_logger()

RECALL_S = 15.0
"""How long an attempt waits to hear whether the same was made before."""


class Attempt:
    """Runs as one asyncio task. `stop`, `leave` and `publish` come from the session.

    Whatever it learns and does is journalled in its workspace, so that an attempt that was left, or whose agent was
    killed, goes on where it was when it is run anew over the same workspace: `taken_up`.
    """

    def __init__(self, lease: pb.Lease, means: Means, outbox: Outbox, *, taken_up: bool = False) -> None:
        self._lease = lease
        self._outbox = outbox
        self._id = lease.attempt_id
        self._workspace = Workspace(means.scratch, lease.attempt_id)
        self._journal = Journal(self._workspace)
        self._logbook = Logbook(self._workspace.path, outbox.marks(self._id), self._take_log)
        self._meter = Meter()
        self._stopping = asyncio.Event()
        self._means = means
        self._transform: Transform | None = None
        self._activity = ""
        self._taken_up = taken_up
        self._staging_left = taken_up or bool(lease.redo)
        """A former life, or another agent, may have been killed while it staged: nobody knows what there is."""
        self._begun = time.monotonic()
        self._stop_reason = ""
        self._leave_staged = False
        self._may_publish = asyncio.Event()
        self._recalled: asyncio.Future[Sequence[job_pb2.Artifact]] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._running = False
        self._left = False
        self._closing = False

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run(), name=f"attempt {self._id}")
        return self._task

    def stop(self, reason: str, *, leave_staged: bool = False) -> None:
        """End it without publishing. Has no effect once it publishes."""
        self._stop_reason = self._stop_reason or reason
        self._leave_staged = self._leave_staged or leave_staged
        held = self._outbox.ledger.get(self._id)
        publishing = held is None or held.phase in (Phase.PUBLISHING, Phase.ENDED)
        if not publishing and not self._closing and not self._stopping.is_set():
            self._stopping.set()
            self._interrupt()

    def leave(self) -> None:
        """Let go of it as it is, FFmpeg running: another life of the agent takes it up. The task ends as cancelled."""
        self._left = True
        if not self._closing and not self._stopping.is_set():
            self._interrupt()

    def _interrupt(self) -> None:
        # A task that is cancelled before it began would clean up nothing.
        if self._task is not None and self._running:
            self._task.cancel()

    def publish(self) -> None:
        """The controller holds the redo records: staged outputs may become visible."""
        self._may_publish.set()

    async def recall(self, recipe: str) -> Sequence[job_pb2.Artifact]:
        """What was made before by a recipe; nothing where no controller says so in time."""
        self._outbox.ask(pb.Recall(attempt_id=self._id, recipe=recipe))
        try:
            async with asyncio.timeout(RECALL_S):
                return await self._recalled
        except TimeoutError:
            return ()
        finally:
            self._outbox.withdraw(self._id)

    def recalled(self, answer: pb.Recalled) -> None:
        """The controller's answer, as often as it gives it."""
        if not self._recalled.done():
            self._recalled.set_result(tuple(answer.artifacts))

    def status(self, activity: str, *, speed: float = 0.0, phase: Phase | None = None) -> None:
        progress = CEILING if phase is Phase.PUBLISHING else self._meter.value
        if activity != self._activity:
            self._activity = activity
            self.say(activity)
        self._outbox.status(self._id, progress=progress, activity=activity, speed=speed, phase=phase)

    def say(self, line: str) -> None:
        elapsed_s = time.monotonic() - self._begun
        self._logbook.say(f"{elapsed_s:9.3f} s  {line.rstrip()}")

    async def _run(self) -> None:
        failure: MediaFailure | None = None
        stopped = False
        shipping = asyncio.create_task(self._logbook.keep_shipping())
        self._running = True
        try:
            if self._stopping.is_set() or self._left:
                raise asyncio.CancelledError
            await self._work()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                if self._transform is not None:
                    await self._transform.end_probes()
                raise
            stopped = True
        except MediaFailure as error:
            failure = error
        except OSError as error:
            failure = _of_the_machine(error)
        except Exception as error:
            self.say(traceback.format_exc())
            log.error("attempt met a defect", attempt=self._id, exc_info=error)
            failure = MediaFailure(Reason.INTERNAL, f"the agent met a defect: {type(error).__name__}: {error}")
        finally:
            shipping.cancel()
        # From here on a stop changes nothing, and must not interrupt.
        self._closing = True
        try:
            await self._end(failure, stopped=stopped)
        except Exception:
            # The session says that it ended; what is here must not stay.
            await self._clear()
            raise

    async def _work(self) -> None:
        await asyncio.to_thread(self._journal.open, self._lease)
        self._begun = self._journal.begun_s
        self._logbook.catch_up()
        if self._taken_up:
            self.say("taken up again by a restarted agent")
        held = self._outbox.ledger.get(self._id)
        if held is not None and held.phase is Phase.PUBLISHING:
            self._may_publish.set()
        else:
            self.status("starting", phase=Phase.RUNNING)
        kind = await asyncio.to_thread(_transform)
        self._transform = transform = kind(
            self._lease,
            self._means,
            self._workspace,
            self._journal,
            self._logbook,
            self._meter,
            self,
            self._stopping,
        )
        if self._lease.redo:
            self._leave_staged = True
            try:
                await self._publish(transform)
            except (MediaFailure, OSError):
                # The attempt ends with this: whoever held it before must find nothing to publish when it comes back.
                self._leave_staged = False
                raise
            return
        await transform.make()
        if self._lease.kind == pb.TASK_KIND_PLAN or transform.reused:
            return
        if not self._may_publish.is_set():
            self.status("waiting to publish")
            self._outbox.stage(pb.StageReport(attempt_id=self._id, records=transform.staged))
            await self._may_publish.wait()
        await self._publish(transform)

    async def _publish(self, transform: Transform) -> None:
        self.status("publishing", phase=Phase.PUBLISHING)
        await transform.publish()

    async def _end(self, failure: MediaFailure | None, *, stopped: bool) -> None:
        """Nothing of it lives when its end is said, and its end is written down before its memory goes."""
        if self._transform is not None:
            await self._transform.end_probes()
        await end_steps(self._workspace.steps)
        if not await asyncio.to_thread(self._means.confinement.release, self._id):
            log.warning("something of the attempt will not die", attempt=self._id)
        if (failure is not None or stopped) and self._transform is not None and not self._leave_staged:
            self._staging_left |= not await self._transform.discard()
        report = self._report(failure, stopped)
        self._logbook.ship(final=True)
        self._outbox.conclude(report)
        if failure is not None:
            told = explanation(self._lease, report)
            # Not written down: another life, should one have to say it, looks at what is kept by then.
            report.kept_bytes = await asyncio.to_thread(self._means.remains.keep, self._workspace.path, self._id, told)
        await self._clear()
        self._outbox.end(report)

    async def _clear(self) -> None:
        try:
            await asyncio.to_thread(self._workspace.remove)
        except OSError as error:
            log.warning("workspace left over", attempt=self._id, path=str(self._workspace.path), error=str(error))
        self._means.room.release(self._id)

    def _report(self, failure: MediaFailure | None, stopped: bool) -> pb.EndReport:
        report = pb.EndReport(attempt_id=self._id, staging_left=self._staging_left)
        done = self._transform
        if done is not None:
            report.record_json = record(done.identities, done.facts, done.results)
            if done.plan is not None and done.binary is not None:
                report.plan.CopyFrom(plan_message(done.plan, done.binary, self._lease.cores))
        used = done.usage if done is not None else Usage()
        results = done.results if done is not None else {}
        report.usage.CopyFrom(usage_message(used, time.monotonic() - self._begun, results))
        if stopped and self._stop_reason == Reason.AGENT_STOPPING:
            report.outcome = pb.OUTCOME_FAILED
            report.failure.CopyFrom(
                job_pb2.Failure(reason=Reason.AGENT_STOPPING, message="the agent was stopped", retryable=True)
            )
        elif stopped:
            report.outcome = pb.OUTCOME_STOPPED
        elif failure is not None:
            report.outcome = pb.OUTCOME_FAILED
            self.say(f"failed: {failure.reason}: {failure.message}")
            log_tail = done.log_tail if done is not None else ""
            report.failure.CopyFrom(failure_message(failure, redact(log_tail.encode()).decode()))
        else:
            report.outcome = pb.OUTCOME_COMPLETED
            report.reused.extend(done.reused if done is not None else ())
        return report

    def _take_log(self, stream: str, data: bytes, marks: Mapping[str, int]) -> None:
        self._outbox.log(self._id, stream, data, marks)


def _transform() -> type[Transform]:
    """Loaded with the first attempt: a box that is idle need not hold the compiler, a quarter of all, in memory."""
    try:
        from agent.transform import Transform  # noqa: PLC0415
    except ImportError as error:
        log.error("the agent's installation is damaged", exc_info=error)
        damaged = f"the agent's installation is damaged ({error}): install it again, and restart the agent"
        raise MediaFailure(Reason.INTERNAL, damaged) from error
    return Transform


def _of_the_machine(error: OSError) -> MediaFailure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MediaFailure(Reason.SCRATCH_FULL, f"the agent's scratch space is full ({error.filename})")
    return MediaFailure(Reason.INTERNAL, f"the agent's machine failed: {error}")
