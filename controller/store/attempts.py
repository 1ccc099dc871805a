"""What agents report of their attempts. Every report names the attempt; only the task's current one moves it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

from sqlalchemy import delete

from controller.core.retries import BLAMES_AGENT, BLAMES_GPU, GiveUp, History, TryAgain, after_failure, uses_attempt
from controller.core.states import TaskEvent, TaskState
from controller.store import tables, topics
from controller.store.lanes import known_lanes
from controller.store.records import AttemptRecord, TaskRecord
from controller.store.refiling import after_gpu_failure, expand, refile
from controller.store.tables import AgentId, AttemptId, JobId, Tenant, failures
from controller.store.work import Happened, Work, failure, failure_text
from controller.store.writer import Tx
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.reasons import TABLE, Reason

MOST_AVOIDED = 8
"""Agents that a task remembers as places where it failed."""
COST_WEIGHT = 0.2
"""Of a new figure in the moving average of what tasks of a class cost."""


class EpochSuperseded(Exception):
    """A newer session of the same agent took over."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Which session says it."""

    agent_id: AgentId
    epoch: int


@dataclass(frozen=True, slots=True)
class Start:
    """The agent began. A repeat does nothing."""

    attempt_id: AttemptId


@dataclass(frozen=True, slots=True)
class Stage:
    """Outputs are staged: store the redo records by compare-and-set on the current attempt.

    The answer is whether the agent may publish. False: the attempt is not the current one, or it was told to stop, and
    must publish nothing.
    """

    report: pb.StageReport


@dataclass(frozen=True, slots=True)
class End:
    """An attempt is over at the agent. A repeat, or the report of an attempt ended otherwise, does nothing."""

    report: pb.EndReport
    jitter: float


@dataclass(frozen=True, slots=True)
class Decline:
    """The agent can't take the lease after all: the task goes back in line and no attempt is counted."""

    attempt_id: AttemptId
    message: str


@dataclass(frozen=True, slots=True)
class Recall:
    """What was made before by this recipe? The answer is a serialized Artifact for each output; none: nothing known.

    What the attempt itself makes is found by the recipe once its job is complete.
    """

    attempt_id: AttemptId
    recipe: str


@dataclass(frozen=True, slots=True)
class Log:
    """A piece of a log, stored once. Of attempts that nobody knows it is dropped."""

    chunk: pb.LogChunk


Item: TypeAlias = Start | Stage | End | Decline | Recall | Log
Answer: TypeAlias = bool | tuple[bytes, ...] | None


def _attempt_id(item: Item) -> str:
    match item:
        case Start() | Decline() | Recall():
            return item.attempt_id
        case Stage() | End():
            return item.report.attempt_id
        case Log():
            return item.chunk.attempt_id
        case _:
            assert_never(item)


@dataclass(frozen=True, slots=True)
class Report:
    """What one session said, in its order. Returns the answer to each item. Raises EpochSuperseded."""

    speaker: Speaker
    items: tuple[Item, ...]

    @property
    def weight(self) -> int:
        return 4 * len(self.items)

    def apply(self, tx: Tx) -> list[Answer]:
        [result] = self.apply_all(tx, [self])
        if isinstance(result, Exception):
            raise result
        return result

    @classmethod
    def apply_all(cls, tx: Tx, commands: Sequence[Report]) -> list[list[Answer] | EpochSuperseded]:
        """The answers, or the refusal, for each."""
        clause, values = tx.database.any_of("id", "ids", {command.speaker.agent_id for command in commands})
        epochs = {row.id: row.epoch for row in tx.rows(f"SELECT id, epoch FROM agents WHERE {clause}", **values)}  # noqa: S608
        heard = [command for command in commands if epochs.get(command.speaker.agent_id) == command.speaker.epoch]
        unit = Work(tx)
        unit.lock_attempts({_attempt_id(item) for command in heard for item in command.items})
        reports = _Reports(unit)
        answers: list[list[Answer] | EpochSuperseded] = [
            [reports.take(command.speaker.agent_id, item) for item in command.items]
            if epochs.get(command.speaker.agent_id) == command.speaker.epoch
            else EpochSuperseded()
            for command in commands
        ]
        reports.write()
        return answers


class _Reports:
    """Reports of any sessions, applied to one unit of work."""

    def __init__(self, unit: Work) -> None:
        self._unit = unit
        self._logs: list[dict[str, Any]] = []
        self._artifacts: list[dict[str, Any]] = []
        self._completed: list[tuple[AttemptRecord, TaskRecord]] = []

    def take(self, speaker: AgentId, item: Item) -> Answer:
        unit = self._unit
        attempt = unit.attempts.get(_attempt_id(item))
        if isinstance(item, Log):
            if attempt is not None:
                self._log(attempt, item.chunk)
            return None
        task = None
        if attempt is not None and attempt.holder == speaker:
            task = unit.current_task(attempt)
        if attempt is None or task is None:
            return False if isinstance(item, Stage) else None
        match item:
            case Start():
                self._start(attempt, task)
            case Stage():
                return self._stage(attempt, task, item.report)
            case End():
                self._end(attempt, task, item)
            case Decline():
                decline(unit, attempt, task, item.message)
            case Recall():
                return self._recall(task, item.recipe)
            case _:
                assert_never(item)
        return None

    def write(self) -> None:
        unit, tx = self._unit, self._unit.tx
        self._learn()
        unit.flush()
        tx.database.insert(tx.connection, tables.artifacts, self._artifacts)
        # Of a lease that was declined in the same breath nothing is left that a log could belong to.
        kept = [row for row in self._logs if row["attempt_id"] in unit.attempts]
        tx.database.insert(tx.connection, tables.log_chunks, kept, if_new=True)

    def _log(self, attempt: AttemptRecord, chunk: pb.LogChunk) -> None:
        self._logs.append(
            {
                "position": self._unit.tx.ticket(),
                "tenant": attempt.tenant,
                "job_id": attempt.job_id,
                "attempt_id": attempt.id,
                "stream": chunk.stream,
                "sequence": chunk.sequence,
                "data": chunk.data,
            }
        )
        self._unit.tx.changed.add(topics.log(JobId(attempt.job_id)))

    def _start(self, attempt: AttemptRecord, task: TaskRecord) -> None:
        unit, now_us = self._unit, self._unit.tx.now_us
        if task.state != TaskState.LEASED:
            return
        attempt.set(state="running", started_us=now_us)
        job = unit.job_of(task)
        if job.started_us is None:
            job.set(started_us=now_us)
            if job.timeout_us is not None:
                job.set(expires_us=min(now_us + job.timeout_us, job.expires_us or now_us + job.timeout_us))
        started = Happened("started", attempt_id=attempt.id, agent_id=attempt.holder, since_us=attempt.leased_us)
        unit.move(task, TaskEvent.START, started)

    def _stage(self, attempt: AttemptRecord, task: TaskRecord, report: pb.StageReport) -> bool:
        if task.state == TaskState.PUBLISHING:
            return True
        self._start(attempt, task)
        if attempt.stop_reason is not None or task.state != TaskState.RUNNING or task.kind != "transform":
            return False
        attempt.set(state="publishing")
        happened = Happened("staged", attempt_id=attempt.id, agent_id=attempt.holder)
        self._unit.move(task, TaskEvent.STAGE, happened, redo=report.SerializeToString())
        return True

    def _recall(self, task: TaskRecord, recipe: str) -> tuple[bytes, ...]:
        tx = self._unit.tx
        mine = {"recipe": recipe, "tenant": task.tenant, "job_id": task.job_id}
        tx.database.insert(tx.connection, tables.recipes, [mine], if_new=True)
        return made_before(tx, recipe, Tenant(task.tenant))

    def _end(self, attempt: AttemptRecord, task: TaskRecord, item: End) -> None:
        unit, report = self._unit, item.report
        used = {
            "run_us": report.usage.run_time.ToMicroseconds(),
            "cpu_seconds": report.usage.cpu_seconds,
            "peak_memory_bytes": report.usage.peak_memory_bytes,
            "bytes_read": report.usage.bytes_read,
            "bytes_written": report.usage.bytes_written,
            "media_us": int(report.usage.media_seconds * 1e6),
            "plan": report.plan.SerializeToString(),
            "record": report.record_json,
            "kept_bytes": report.kept_bytes,
            "sweep_us": unit.tx.now_us if report.staging_left else None,
        }
        broken = ""
        match report.outcome:
            case pb.OUTCOME_COMPLETED if report.reused and attempt.stop_reason is not None:
                stopped(unit, attempt, task, used)
            case pb.OUTCOME_COMPLETED if report.reused and task.state != TaskState.PUBLISHING:
                self._complete(attempt, task, used, report.reused)
            case pb.OUTCOME_COMPLETED:
                if task.kind == "transform" and task.state != TaskState.PUBLISHING:
                    broken = "the agent reported success without staging its outputs"
                else:
                    self._complete(attempt, task, used)
            case pb.OUTCOME_STOPPED if attempt.stop_reason is not None:
                stopped(unit, attempt, task, used)
            case pb.OUTCOME_STOPPED:
                gone = job_pb2.Failure(reason=Reason.AGENT_STOPPING, message="the agent stopped it by itself")
                fail(unit, attempt, task, gone, item.jitter, used)
            case pb.OUTCOME_REFILED | pb.OUTCOME_EXPANDED if attempt.stop_reason is not None:
                stopped(unit, attempt, task, used)
            case pb.OUTCOME_REFILED | pb.OUTCOME_EXPANDED if task.state == TaskState.PUBLISHING:
                broken = "the agent staged outputs and then wanted other tasks"
            case pb.OUTCOME_REFILED:
                self._start(attempt, task)
                broken = refile(unit, attempt, task, report, used)
            case pb.OUTCOME_EXPANDED:
                self._start(attempt, task)
                broken = expand(unit, attempt, task, report, used)
                if not broken:
                    self._completed.append((attempt, task))
            case _:
                fail(unit, attempt, task, report.failure, item.jitter, used)
        if broken:
            fail(unit, attempt, task, job_pb2.Failure(reason=Reason.INTERNAL, message=broken), item.jitter, used)

    def _complete(
        self,
        attempt: AttemptRecord,
        task: TaskRecord,
        used: dict[str, Any],
        reused: Sequence[job_pb2.Artifact] = (),
    ) -> None:
        unit = self._unit
        self._start(attempt, task)
        staged = pb.StageReport()
        if task.redo is not None:
            staged.ParseFromString(task.redo)
        made = reused or [record.artifact for record in staged.records]
        happened = Happened("completed", attempt_id=attempt.id, agent_id=attempt.agent_id)
        if reused:
            happened = happened._replace(message=f"by what job {reused[0].made_by_job} made of the same")
        self._artifacts += [
            {
                "tenant": task.tenant,
                "job_id": task.job_id,
                "ordinal": ordinal,
                "attempt_id": attempt.id,
                "uri": artifact.uri,
                "size_bytes": artifact.size_bytes,
                "sha256": artifact.sha256,
                "document": artifact.SerializeToString(),
            }
            for ordinal, artifact in enumerate(made)
        ]
        unit.end_attempt(attempt, "completed", **used)
        unit.move(task, TaskEvent.COMPLETE, happened)
        if reused:
            # What that took says nothing of what such a job takes.
            return
        self._completed.append((attempt, task))

    def _learn(self) -> None:
        """What tasks of these classes cost, and that agents can do them after all."""
        if not self._completed:
            return
        tx = self._unit.tx
        lanes = known_lanes(tx, {task.lane for _, task in self._completed})
        costs: dict[str, list[float]] = {}
        proved: set[tuple[str, str]] = set()
        for attempt, task in self._completed:
            if (facts := lanes.get(task.lane)) is not None and attempt.started_us is not None:
                used = attempt.cores * (tx.now_us - attempt.started_us) / 1e6
                costs.setdefault(facts.class_key, []).append(used)
                proved.add((attempt.agent_id, facts.class_key))
        for class_key, figures in sorted(costs.items()):
            learn_cost(tx, class_key, figures)
        for agent_id, class_key in tx.rows("SELECT DISTINCT agent_id, class_key FROM failures LIMIT 1000"):
            if (agent_id, class_key) in proved:
                tx.connection.execute(
                    delete(failures).where(failures.c.agent_id == agent_id, failures.c.class_key == class_key)
                )


def made_before(tx: Tx, recipe: str, tenant: Tenant) -> tuple[bytes, ...]:
    """The artifacts of the newest job that was completed by this recipe."""
    found = tx.rows(
        "SELECT a.job_id, a.document FROM artifacts a JOIN recipes r ON r.job_id = a.job_id AND r.tenant = a.tenant"
        " JOIN jobs j ON j.id = r.job_id AND j.tenant = r.tenant"
        " WHERE r.recipe = :recipe AND r.tenant = :tenant AND j.state = 'COMPLETED'"
        " ORDER BY j.seq DESC, a.ordinal LIMIT 200",
        recipe=recipe,
        tenant=tenant,
    )
    made = []
    for row in found:
        artifact = job_pb2.Artifact.FromString(row.document)
        if row.job_id == found[0].job_id:
            artifact.made_by_job = artifact.made_by_job or row.job_id
            made.append(artifact.SerializeToString())
    return tuple(made)


def learn_cost(tx: Tx, class_key: str, figures: Sequence[float]) -> None:
    """Take core-seconds of tasks into the moving average of their class."""
    mean = sum(figures) / len(figures)
    keep = (1 - COST_WEIGHT) ** len(figures)
    known = tx.rows("SELECT cost FROM classes WHERE class_key = :class_key", class_key=class_key)
    if not known:
        tx.database.insert(tx.connection, tables.classes, [{"class_key": class_key, "cost": mean}], if_new=True)
    else:
        cost = known[0].cost * keep + mean * (1 - keep)
        tx.database.update(tx.connection, tables.classes, ("class_key",), [{"cost": cost, "class_key": class_key}])


def decline(unit: Work, attempt: AttemptRecord, task: TaskRecord, message: str) -> None:
    """Undo a lease that the agent did not begin: it leaves an event and no attempt."""
    if task.state != TaskState.LEASED:
        return
    if attempt.stop_reason not in (None, Reason.AGENT_STOPPING):
        stopped(unit, attempt, task, {})
        return
    job = unit.job_of(task)
    unit.end_attempt(attempt, "declined")
    unit.drop_attempt(attempt)
    del unit.attempts[attempt.id]
    job.set(attempt_count=job.attempt_count - 1)
    unit.move(
        task,
        TaskEvent.GIVE_BACK,
        Happened("declined", attempt_id=attempt.id, agent_id=attempt.agent_id, message=message),
        attempt_id="",
        attempts_made=task.attempts_made - 1,
    )


def stopped(unit: Work, attempt: AttemptRecord, task: TaskRecord, used: dict[str, Any]) -> None:
    """End an attempt that was told to stop, and its task with it; one that its agent had no time for is begun anew."""
    if attempt.stop_reason == Reason.AGENT_STOPPING:
        _hand_back(unit, attempt, task, used)
        return
    unit.end_attempt(attempt, "cancelled", **used)
    if attempt.stop_reason == Reason.TIMED_OUT:
        late = job_pb2.Failure(reason=Reason.TIMED_OUT, message="the time allowed for the job was used up")
        happened = Happened("dead", attempt.id, attempt.agent_id, late.reason, late.message)
        unit.move(task, TaskEvent.KILL, happened, failed=late, attempt_id="")
    else:
        unit.move(task, TaskEvent.CANCEL, Happened("cancelled", attempt.id, attempt.agent_id), attempt_id="")


def _hand_back(unit: Work, attempt: AttemptRecord, task: TaskRecord, used: dict[str, Any]) -> None:
    # Neither the task's failure nor the fleet's: however often people drain, it counts against nothing.
    why = failure(Reason.AGENT_STOPPING, "the agent is being drained, and the time that it was given for it is up")
    unit.end_attempt(attempt, "handed_back", **{**used, "failure": failure_text(why)})
    happened = Happened("given_back", attempt.id, attempt.agent_id, why.reason, why.message)
    unit.move(task, TaskEvent.GIVE_BACK, happened, failed=why, attempt_id="", ready_us=unit.tx.now_us)


def fail(
    unit: Work,
    attempt: AttemptRecord,
    task: TaskRecord,
    failed: job_pb2.Failure,
    jitter: float,
    used: dict[str, Any],
    *,
    state: str = "failed",
) -> None:
    """End a failed attempt and decide what follows."""
    tx, job = unit.tx, unit.job_of(task)
    reason = Reason(failed.reason) if failed.reason in Reason.__members__ else Reason.INTERNAL
    facts = TABLE[reason]
    failed.retryable = facts.retryable or facts.infrastructure
    publishing = task.state == TaskState.PUBLISHING
    if attempt.stop_reason is not None and not publishing:
        stopped(unit, attempt, task, {**used, "failure": failure_text(failed)})
        return
    since = task.infrastructure_since_us
    if since is not None and attempt.started_us is not None:
        # An agent that worked on it and was then taken away did not keep it waiting.
        since += tx.now_us - attempt.started_us
    verdict = after_failure(
        reason,
        History(
            attempts_used=task.attempts_used,
            attempts_made=task.attempts_made,
            max_attempts=job.max_attempts,
            agents_lost=task.agents_lost,
            infrastructure_since_s=None if since is None else since / 1e6,
        ),
        now_s=tx.now_s,
        jitter=jitter,
    )
    if job.cancel_requested and isinstance(verdict, TryAgain):
        # What was being published could only complete or fail; nobody wants another try.
        verdict = GiveUp("a cancel was asked for meanwhile")
    ended = "handed_back" if reason is Reason.AGENT_STOPPING else state
    unit.end_attempt(attempt, ended, failure=failure_text(failed), **used)
    if reason in BLAMES_AGENT:
        _blame(unit, attempt, task)
    happened = Happened("failed", attempt.id, attempt.agent_id, reason, failed.message)
    avoided = [agent for agent in json.loads(task.avoid) if agent != attempt.agent_id][-MOST_AVOIDED + 1 :]
    columns: dict[str, Any] = {
        "attempt_id": "",
        "redo": None,
        "attempts_used": task.attempts_used + uses_attempt(verdict),
        "agents_lost": task.agents_lost + (reason is Reason.AGENT_LOST),
        "infrastructure_since_us": since or (tx.now_us if facts.infrastructure else None),
        "avoid": json.dumps([*avoided, attempt.agent_id]),
    }
    if reason in BLAMES_GPU:
        columns |= after_gpu_failure(unit, task)
    match verdict:
        case TryAgain(not_before_s=at) if at <= tx.now_s and not publishing:
            gave_back = happened._replace(type="given_back")
            unit.move(task, TaskEvent.GIVE_BACK, gave_back, failed=failed, ready_us=tx.now_us, **columns)
        case TryAgain(not_before_s=at):
            unit.move(task, TaskEvent.FAIL, happened, failed=failed, ready_us=int(at * 1e6), **columns)
        case GiveUp(because=because):
            message = f"{failed.message} ({because})" if facts.retryable else failed.message
            dead = happened._replace(type="dead", message=message)
            unit.move(task, TaskEvent.KILL, dead, failed=failed, **columns)
        case _:
            assert_never(verdict)


def _blame(unit: Work, attempt: AttemptRecord, task: TaskRecord) -> None:
    tx = unit.tx
    facts = known_lanes(tx, [task.lane]).get(task.lane)
    if facts is None:
        return
    row = {"agent_id": attempt.agent_id, "class_key": facts.class_key, "task_id": task.id, "at_us": tx.now_us}
    tx.database.insert(tx.connection, failures, [row], if_new=True)
    tx.database.update(tx.connection, failures, ("agent_id", "class_key", "task_id"), [row])
