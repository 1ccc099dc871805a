"""What the simulation's people and agents were told, and whether the world at its end agrees with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sqlalchemy import Connection, select, text

from controller.core.states import JOB_ENDS, JobState
from controller.store.engine import AnyRow
from controller.store.tables import agents, artifacts, attempts, events, jobs, limit_counts, limits, log_chunks, tasks
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.running import check_invariants
from tests.simulation.places import Place


@dataclass(slots=True)
class Journal:
    """Everything that was acknowledged, and what was seen to be wrong on the way."""

    jobs: dict[str, list[str]] = field(default_factory=dict)
    logs: list[pb.LogChunk] = field(default_factory=list)
    ends: list[pb.EndReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    events: dict[int, tuple[str, int, str]] = field(default_factory=dict)

    def wrong(self, what: str) -> None:
        self.problems.append(what)

    def submitted(self, request_id: str, ids: list[str]) -> None:
        """The answer to a submission."""
        before = self.jobs.setdefault(request_id, ids)
        if before != ids:
            self.wrong(f"request {request_id} made {before} and then {ids}")

    def acknowledged_log(self, chunk: pb.LogChunk) -> None:
        self.logs.append(chunk)

    def acknowledged_end(self, report: pb.EndReport) -> None:
        self.ends.append(report)

    def watched(self, rows: list[AnyRow]) -> None:
        """Events as a watcher read them."""
        for row in rows:
            self.events[row.cursor] = (row.job_id, row.sequence, row.type)


def check_grant(connection: Connection, granted: set[str], cores: dict[str, int], journal: Journal) -> None:
    """Agents that were just given leases have room for all that they hold; no limit is exceeded."""
    held = connection.execute(
        text("SELECT holder, sum(cores) AS cores, count(*) AS tasks FROM attempts WHERE holder <> '' GROUP BY holder")
    ).all()
    for row in held:
        if row.holder in granted and (row.cores > cores[row.holder] or row.tasks > cores[row.holder]):
            journal.wrong(f"{row.holder} has {cores[row.holder]} cores and places and holds {row.cores}, {row.tasks}")
    running = connection.execute(text("SELECT count(*) FROM attempts WHERE holder <> '' AND limit_keys <> '[]'"))
    count = running.scalar_one()
    for maximum in connection.scalars(select(limits.c.maximum)):
        if count > maximum:
            journal.wrong(f"{count} run under a limit of {maximum}")


def check_willing(connection: Connection, granted: set[str], journal: Journal) -> None:
    """Agents that were just given anything are not drained."""
    for drained in connection.scalars(select(agents.c.id).where(agents.c.draining.is_(True))):
        if drained in granted:
            journal.wrong(f"{drained} was given a lease though a person drains it")


def check_end(connection: Connection, journal: Journal, place: Place) -> list[str]:
    """Everything that is wrong at the end, when nothing moves any more."""
    problems = list(journal.problems)
    try:
        check_invariants(connection)
    except AssertionError as error:
        problems.append(f"the database contradicts itself: {_where(error)}")
    known = {row.id: row for row in connection.execute(select(jobs))}
    tried = {row.id: row for row in connection.execute(select(attempts))}
    asked = {job_id for ids in journal.jobs.values() for job_id in ids}
    problems += [f"job {job_id} was acknowledged and is gone" for job_id in sorted(asked - known.keys())]
    problems += [f"job {job_id} exists and nobody asked for it" for job_id in sorted(known.keys() - asked)]
    for job in known.values():
        problems += _of_job(connection, job, tried, place)
    problems += _of_attempts(connection, tried)
    problems += _of_acknowledged(connection, journal, tried)
    return problems


def _where(error: AssertionError) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    line = traceback.tb_lineno if traceback is not None else 0
    return f"{str(error).strip() or 'an assertion'} (tests/fakes/running.py, line {line})"


def _of_job(connection: Connection, job: AnyRow, tried: dict[str, AnyRow], place: Place) -> list[str]:
    its = connection.execute(select(tasks).where(tasks.c.job_id == job.id)).all()
    if job.state not in JOB_ENDS:
        states = ", ".join(f"{task.name} {task.state}" for task in its)
        return [f"job {job.id} never ended: it is {job.state} ({states})"]
    if job.state == JobState.CANCELLED and not job.cancel_requested:
        return [f"job {job.id} is CANCELLED and nobody asked for that"]
    for task in its:
        handed_back = sum(one.state == "handed_back" for one in tried.values() if one.task_id == task.id)
        if task.attempts_used > task.attempts_made - handed_back:
            return [f"task {task.name} of job {job.id} paid for attempts that were handed back"]
    outputs = [output["uri"] for output in json.loads(job.intent)["outputs"]]
    published = [one for one in place.history if one.uri in outputs]
    if job.state != JobState.COMPLETED:
        return [f"job {job.id} is {job.state}, and {one.attempt_id} published {one.uri}" for one in published]
    problems = []
    listed = {row.uri: row for row in connection.execute(select(artifacts).where(artifacts.c.job_id == job.id))}
    publishers = {task.id for task in its if task.kind == "transform"}
    if not publishers:
        return [f"job {job.id} has nothing to publish and published {one.uri}" for one in published]
    for uri in outputs:
        its_own = [one for one in published if one.uri == uri]
        if len(its_own) != 1 or uri not in listed:
            problems.append(f"{uri} of completed job {job.id} was published {len(its_own)} times")
            continue
        attempt = tried.get(its_own[0].attempt_id)
        if attempt is None or attempt.state != "completed" or listed[uri].attempt_id != attempt.id:
            problems.append(f"{uri} of completed job {job.id} was published by stale attempt {its_own[0].attempt_id}")
            continue
        last = max((other for other in tried.values() if other.task_id == attempt.task_id), key=lambda one: one.number)
        if last.id != attempt.id or not attempt.leased_us <= its_own[0].at_us <= attempt.ended_us:
            problems.append(f"{uri} of completed job {job.id} was published outside the time of its last attempt")
    return problems


def _of_attempts(connection: Connection, tried: dict[str, AnyRow]) -> list[str]:
    problems = [f"attempt {row.id} is still held by {row.holder}" for row in tried.values() if row.holder]
    problems += [
        f"attempt {row.id} met a defect: {row.failure}"
        for row in tried.values()
        if row.failure and json.loads(row.failure)["reason"] == Reason.INTERNAL
    ]
    problems += [
        f"{row.running} are counted under {row.key} and none runs"
        for row in connection.execute(select(limit_counts).where(limit_counts.c.running != 0))
    ]
    problems += [
        f"agent {row.id} is lost though it is here"
        for row in connection.execute(select(agents).where(agents.c.lost.is_(True)))
    ]
    return problems


def _of_acknowledged(connection: Connection, journal: Journal, tried: dict[str, AnyRow]) -> list[str]:
    problems = []
    stored = {
        (row.attempt_id, row.stream, row.sequence): row.data for row in connection.execute(select(log_chunks)).all()
    }
    for chunk in journal.logs:
        # Of an attempt that was declined, or that nobody knows, nothing is kept.
        if chunk.attempt_id in tried and stored.get((chunk.attempt_id, chunk.stream, chunk.sequence)) != chunk.data:
            problems.append(f"log of {chunk.attempt_id} was acknowledged and is not there: {chunk.data.decode()!r}")
    lines = [line for data in stored.values() for line in data.decode().splitlines()]
    problems += [
        f"log line {line!r} is there twice" for line in sorted({line for line in lines if lines.count(line) > 1})
    ]
    for report in journal.ends:
        attempt = tried.get(report.attempt_id)
        if attempt is None:
            continue
        if attempt.ended_us is None:
            problems.append(f"the end of {attempt.id} was acknowledged and it never ended")
        elif report.outcome == pb.OUTCOME_COMPLETED and attempt.state != "completed":
            held = attempt.stop_reason or attempt.failure or ""
            if attempt.state not in ("lost", "cancelled", "handed_back") or _is_transform(connection, attempt):
                problems.append(f"{attempt.id} was completed and acknowledged and is {attempt.state} ({held})")
    found = {row.cursor: (row.job_id, row.sequence, row.type) for row in connection.execute(select(events)).all()}
    problems += [
        f"event {told} was seen and is gone" for cursor, told in journal.events.items() if found.get(cursor) != told
    ]
    return problems


def _is_transform(connection: Connection, attempt: AnyRow) -> bool:
    kind = connection.execute(select(tasks.c.kind).where(tasks.c.id == attempt.task_id)).scalar_one()
    return bool(kind == "transform")
