"""What agents report of their attempts. Every command names the attempt; only the task's current one moves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from google.protobuf import json_format
from sqlalchemy import Row, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from controller.core.retries import GiveUp, History, TryAgain, after_failure, uses_attempt
from controller.core.states import HELD_BY_AGENT, TaskEvent, TaskState
from controller.store.tables import AgentId, AttemptId, agents, artifacts, attempts, jobs, log_chunks, tasks
from controller.store.topics import DISPATCH, log
from controller.store.transitions import Happened, failure_text, move
from controller.store.writer import Tx
from mediactl.v1 import agent_service_pb2, job_pb2
from presets.reasons import TABLE, Reason


class EpochSuperseded(Exception):
    """A newer session of the same agent took over."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Which session says it."""

    agent_id: AgentId
    epoch: int

    def require(self, tx: Tx) -> None:
        """Refuse what an older session says; raises EpochSuperseded."""
        epoch = tx.connection.execute(select(agents.c.epoch).where(agents.c.id == self.agent_id)).scalar_one_or_none()
        if epoch != self.epoch:
            raise EpochSuperseded


def _attempt(tx: Tx, attempt_id: str) -> Row[Any] | None:
    return tx.connection.execute(select(attempts).where(attempts.c.id == attempt_id)).one_or_none()


def current_task(tx: Tx, attempt: Row[Any]) -> Row[Any] | None:
    """The task, if this attempt is the one that may move it and an agent still holds it."""
    return tx.connection.execute(
        select(tasks).where(
            tasks.c.tenant == attempt.tenant,
            tasks.c.id == attempt.task_id,
            tasks.c.attempt_id == attempt.id,
            tasks.c.state.in_(HELD_BY_AGENT),
        )
    ).one_or_none()


def _cancel_requested(tx: Tx, attempt: Row[Any]) -> bool:
    return bool(
        tx.connection.execute(
            select(jobs.c.cancel_requested).where(jobs.c.tenant == attempt.tenant, jobs.c.id == attempt.job_id)
        ).scalar_one()
    )


def end_attempt(tx: Tx, attempt: Row[Any], state: str, **columns: object) -> None:
    """Close an attempt: nobody holds it and its resources are free."""
    tx.connection.execute(
        update(attempts)
        .where(attempts.c.tenant == attempt.tenant, attempts.c.id == attempt.id)
        .values(state=state, holder="", ended_us=tx.now_us, **columns)
    )
    tx.changed.add(DISPATCH)


@dataclass(frozen=True, slots=True)
class Start:
    """The agent began. A repeat does nothing."""

    speaker: Speaker
    attempt_id: AttemptId

    def apply(self, tx: Tx) -> None:
        self.speaker.require(tx)
        attempt = _attempt(tx, self.attempt_id)
        if attempt is None or attempt.holder != self.speaker.agent_id:
            return
        task = current_task(tx, attempt)
        if task is None or task.state != TaskState.LEASED:
            return
        tx.connection.execute(
            update(attempts)
            .where(attempts.c.tenant == attempt.tenant, attempts.c.id == attempt.id)
            .values(state="running", started_us=tx.now_us)
        )
        tx.connection.execute(
            update(jobs)
            .where(jobs.c.tenant == task.tenant, jobs.c.id == task.job_id, jobs.c.started_us.is_(None))
            .values(started_us=tx.now_us)
        )
        happened = Happened("started", attempt_id=attempt.id, agent_id=self.speaker.agent_id)
        move(tx, task, TaskEvent.START, happened)


@dataclass(frozen=True, slots=True)
class Stage:
    """Store the redo records by compare-and-set on the current attempt; true: the agent may publish.

    False: the attempt is not the current one, or it was told to stop, and must publish nothing.
    """

    speaker: Speaker
    report: agent_service_pb2.StageReport

    def apply(self, tx: Tx) -> bool:
        self.speaker.require(tx)
        attempt = _attempt(tx, self.report.attempt_id)
        if attempt is None or attempt.holder != self.speaker.agent_id:
            return False
        task = current_task(tx, attempt)
        if task is None:
            return False
        if task.state == TaskState.PUBLISHING:
            return True
        if attempt.stop_reason is not None or task.state != TaskState.RUNNING or task.kind != "transform":
            return False
        tx.connection.execute(
            update(attempts)
            .where(attempts.c.tenant == attempt.tenant, attempts.c.id == attempt.id)
            .values(state="publishing")
        )
        happened = Happened("staged", attempt_id=attempt.id, agent_id=self.speaker.agent_id)
        redo = json_format.MessageToJson(self.report, indent=None)
        move(tx, task, TaskEvent.STAGE, happened, redo=redo)
        return True


@dataclass(frozen=True, slots=True)
class End:
    """An attempt is over at the agent. A repeat, or the report of an attempt ended otherwise, does nothing."""

    speaker: Speaker
    report: agent_service_pb2.EndReport
    jitter: float

    def apply(self, tx: Tx) -> None:
        self.speaker.require(tx)
        report = self.report
        attempt = _attempt(tx, report.attempt_id)
        if attempt is None or attempt.holder != self.speaker.agent_id:
            return
        task = current_task(tx, attempt)
        if task is None:
            return
        used = {
            "run_us": report.usage.run_time.ToMicroseconds(),
            "cpu_seconds": report.usage.cpu_seconds,
            "peak_memory_bytes": report.usage.peak_memory_bytes,
            "plan": json_format.MessageToJson(report.plan, indent=None),
            "record": report.record_json,
        }
        match report.outcome:
            case agent_service_pb2.OUTCOME_COMPLETED:
                if task.kind == "transform" and task.state != TaskState.PUBLISHING:
                    broken = job_pb2.Failure(
                        reason=Reason.INTERNAL,
                        message="the agent reported success without staging its outputs",
                    )
                    fail(tx, attempt, task, broken, self.jitter, used)
                    return
                _complete(tx, attempt, task, used)
            case agent_service_pb2.OUTCOME_STOPPED if attempt.stop_reason is not None:
                cancel(tx, attempt, task, used)
            case agent_service_pb2.OUTCOME_STOPPED:
                stopped = job_pb2.Failure(reason=Reason.AGENT_STOPPING, message="the agent stopped it by itself")
                fail(tx, attempt, task, stopped, self.jitter, used)
            case _:
                fail(tx, attempt, task, report.failure, self.jitter, used)


def _complete(tx: Tx, attempt: Row[Any], task: Row[Any], used: dict[str, Any]) -> None:
    staged = agent_service_pb2.StageReport()
    if task.redo is not None:
        json_format.Parse(task.redo, staged)
    for ordinal, record in enumerate(staged.records):
        tx.connection.execute(
            insert(artifacts).values(
                tenant=task.tenant,
                job_id=task.job_id,
                ordinal=ordinal,
                attempt_id=attempt.id,
                uri=record.artifact.uri,
                size_bytes=record.artifact.size_bytes,
                sha256=record.artifact.sha256,
                document=json_format.MessageToJson(record.artifact, indent=None),
            )
        )
    end_attempt(tx, attempt, "completed", **used)
    if task.state == TaskState.LEASED:
        move(tx, task, TaskEvent.START, Happened("started", attempt_id=attempt.id, agent_id=attempt.agent_id))
        task = tx.connection.execute(select(tasks).where(tasks.c.tenant == task.tenant, tasks.c.id == task.id)).one()
    move(tx, task, TaskEvent.COMPLETE, Happened("completed", attempt_id=attempt.id, agent_id=attempt.agent_id))


def cancel(tx: Tx, attempt: Row[Any], task: Row[Any], used: dict[str, Any]) -> None:
    """End an attempt that was told to stop, and its task with it."""
    end_attempt(tx, attempt, "cancelled", **used)
    move(tx, task, TaskEvent.CANCEL, Happened("cancelled", attempt_id=attempt.id, agent_id=attempt.agent_id))


def fail(
    tx: Tx,
    attempt: Row[Any],
    task: Row[Any],
    failure: job_pb2.Failure,
    jitter: float,
    used: dict[str, Any],
    *,
    state: str = "failed",
) -> None:
    """End a failed attempt and decide what follows."""
    reason = Reason(failure.reason) if failure.reason in Reason.__members__ else Reason.INTERNAL
    facts = TABLE[reason]
    failure.retryable = facts.retryable or facts.infrastructure
    cancelled = _cancel_requested(tx, attempt)
    if cancelled and task.state != TaskState.PUBLISHING:
        cancel(tx, attempt, task, {**used, "failure": failure_text(failure)})
        return
    now_s = tx.now_us / 1e6
    verdict = after_failure(
        reason,
        History(
            attempts_used=task.attempts_used,
            max_attempts=task.max_attempts,
            agents_lost=task.agents_lost,
            infrastructure_since_s=(
                None if task.infrastructure_since_us is None else task.infrastructure_since_us / 1e6
            ),
        ),
        now_s=now_s,
        jitter=jitter,
    )
    if cancelled and isinstance(verdict, TryAgain):
        # What was being published could only complete or fail; nobody wants another try.
        verdict = GiveUp("a cancel was asked for meanwhile")
    end_attempt(
        tx,
        attempt,
        "handed_back" if reason is Reason.AGENT_STOPPING else state,
        failure=failure_text(failure),
        **used,
    )
    happened = Happened("failed", attempt.id, attempt.agent_id, reason, failure.message)
    columns: dict[str, object] = {
        "attempt_id": "",
        "redo": None,
        "attempts_used": task.attempts_used + uses_attempt(verdict),
        "agents_lost": task.agents_lost + (reason is Reason.AGENT_LOST),
        "infrastructure_since_us": task.infrastructure_since_us or (tx.now_us if facts.infrastructure else None),
    }
    match verdict:
        case TryAgain(not_before_s=at) if at <= now_s and task.state != TaskState.PUBLISHING:
            gave_back = happened._replace(type="given_back")
            move(tx, task, TaskEvent.GIVE_BACK, gave_back, failure=failure, ready_us=tx.now_us, **columns)
        case TryAgain(not_before_s=at):
            move(tx, task, TaskEvent.FAIL, happened, failure=failure, ready_us=int(at * 1e6), **columns)
        case GiveUp(because=because):
            message = f"{failure.message} ({because})" if facts.retryable else failure.message
            move(
                tx,
                task,
                TaskEvent.KILL,
                happened._replace(type="dead", message=message),
                failure=failure,
                **columns,
            )
        case _:
            assert_never(verdict)


@dataclass(frozen=True, slots=True)
class AppendLog:
    """Store log chunks once each. Chunks of attempts that nobody knows are dropped."""

    chunks: tuple[agent_service_pb2.LogChunk, ...]

    def apply(self, tx: Tx) -> None:
        for chunk in self.chunks:
            attempt = _attempt(tx, chunk.attempt_id)
            if attempt is None:
                continue
            tx.connection.execute(
                sqlite_insert(log_chunks)
                .values(
                    tenant=attempt.tenant,
                    job_id=attempt.job_id,
                    attempt_id=attempt.id,
                    stream=chunk.stream,
                    sequence=chunk.sequence,
                    data=chunk.data,
                )
                .on_conflict_do_nothing()
            )
            tx.changed.add(log(attempt.job_id))


@dataclass(frozen=True, slots=True)
class RetryDue:
    """Put tasks whose back-off is over in line again."""

    def apply(self, tx: Tx) -> None:
        due = tx.connection.execute(
            select(tasks).where(tasks.c.state == TaskState.FAILED, tasks.c.ready_us <= tx.now_us)
        ).all()
        for task in due:
            move(tx, task, TaskEvent.RETRY, Happened("retry_due"))
