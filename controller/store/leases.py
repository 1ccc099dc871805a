"""Leases as they are written down, and all that a Lease frame says of one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, text

from controller.store.engine import Database
from controller.store.tables import AgentId, AttemptId, JobId, TaskId, attempts, texts
from presets.capabilities import Requirements


@dataclass(frozen=True, slots=True)
class Leased:
    """All that a Lease frame says."""

    agent_id: AgentId
    attempt_id: AttemptId
    task_id: TaskId
    job_id: JobId
    task_kind: str
    intent: str
    texts: Mapping[str, str]
    requirements: str
    revision: str
    cores: int
    memory_bytes: int
    scratch_bytes: int
    gpu: int | None
    encoder_sessions: int
    verbose: bool
    redo: bytes | None
    pinned_inputs: str
    queue: str = ""
    preset: str = ""
    queue_wait_s: float = 0.0


def leases_of(connection: Connection, database: Database, agent_id: str, *attempt_ids: str) -> list[Leased]:
    """The open leases of an agent, or those of them that are named."""
    query = select(attempts).where(attempts.c.holder == agent_id, text("holder <> ''"))
    if attempt_ids:
        query = query.where(attempts.c.id.in_(attempt_ids))
    return leased_of(connection, database, [dict(row._mapping) for row in connection.execute(query)])


def leased_of(connection: Connection, database: Database, found: Sequence[Mapping[str, Any]]) -> list[Leased]:
    """Leases of rows of `attempts`, in their order."""
    of_job: dict[tuple[str, str], tuple[Any, ...]] = {}
    of_task: dict[tuple[str, str], tuple[Any, ...]] = {}
    for tenant in {row["tenant"] for row in found}:
        mine = [row for row in found if row["tenant"] == tenant]
        for part, source, key in ((of_job, _JOBS, "job_id"), (of_task, _TASKS, "task_id")):
            clause, values = database.any_of("id", "ids", sorted({row[key] for row in mine}))
            sql = f"{source} WHERE tenant = :tenant AND {clause}"
            for whole in database.fetch(connection, sql, {"tenant": tenant, **values}):
                part[tenant, whole[0]] = whole
    chosen: dict[tuple[str, int], str] = {}
    leased = []
    for row in found:
        _, intent, verbose, pinned_inputs, queue, preset = of_job[row["tenant"], row["job_id"]]
        _, kind, own_intent, requirements, redo = of_task[row["tenant"], row["task_id"]]
        needs = (requirements, row["alternative"])
        if needs not in chosen:
            chosen[needs] = _chosen(*needs)
        leased.append(
            Leased(
                agent_id=AgentId(row["holder"]),
                attempt_id=AttemptId(row["id"]),
                task_id=TaskId(row["task_id"]),
                job_id=JobId(row["job_id"]),
                task_kind=kind,
                intent=own_intent or intent,
                texts=_texts(connection, _references(own_intent or intent), database.texts),
                requirements=chosen[needs],
                revision=row["revision"],
                cores=row["cores"],
                memory_bytes=row["memory_bytes"],
                scratch_bytes=row["scratch_bytes"],
                gpu=row["gpu"],
                encoder_sessions=row["encoder_sessions"],
                verbose=bool(verbose),
                redo=redo,
                pinned_inputs=pinned_inputs,
                queue=queue,
                preset=preset,
                queue_wait_s=row["queue_wait_us"] / 1e6,
            )
        )
    return leased


_JOBS = 'SELECT id, intent, "verbose", pinned_inputs, queue, preset FROM jobs'
_TASKS = "SELECT id, kind, intent, requirements, redo FROM tasks"


def _texts(connection: Connection, digests: Sequence[str], memo: dict[str, str]) -> Mapping[str, str]:
    unknown = [digest for digest in digests if digest not in memo]
    if unknown:
        rows = connection.execute(select(texts).where(texts.c.digest.in_(unknown)))
        memo.update((row.digest, row.text) for row in rows)
    return {digest: memo[digest] for digest in digests if digest in memo}


_reference = re.compile(r'"(?:preset|profile)": "([0-9a-f]{64})"')


def _references(intent: str) -> list[str]:
    """Which texts an intent stands on."""
    return _reference.findall(intent)


def _chosen(requirements: str, alternative: int) -> str:
    whole = Requirements.from_json(json.loads(requirements))
    return json.dumps(Requirements((whole.alternatives[alternative],)).to_json())
