"""Storing jobs: all of a request or none, once for each request id."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from sqlalchemy import insert, select

from controller.core.states import JobState, TaskState
from controller.store.tables import JobId, Tenant, jobs, requests, tasks
from controller.store.topics import DISPATCH
from controller.store.transitions import Happened, append_event
from controller.store.writer import Tx


class RequestIdReused(Exception):
    """Another request was made under the same id."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated, resolved job of one task."""

    kind: str
    task_kind: str
    queue: str
    priority: int
    max_attempts: int
    preset: str
    preset_digest: str
    labels: str
    require: str
    spec: str
    intent: str
    class_key: str
    requirements: str
    paths: str
    verbose: bool


@dataclass(frozen=True, slots=True)
class Submit:
    """Store jobs. Returns their ids; those of the first request where `request_id` was seen before.

    Raises RequestIdReused.
    """

    tenant: Tenant
    new: tuple[NewJob, ...]
    request_id: str
    digest: str

    def apply(self, tx: Tx) -> list[JobId]:
        if self.request_id:
            before = tx.connection.execute(
                select(requests.c.digest, requests.c.job_ids).where(
                    requests.c.tenant == self.tenant, requests.c.request_id == self.request_id
                )
            ).one_or_none()
            if before is not None:
                if before.digest != self.digest:
                    raise RequestIdReused
                return [JobId(job_id) for job_id in json.loads(before.job_ids)]
        ids = [self._store(tx, new) for new in self.new]
        if self.request_id:
            tx.connection.execute(
                insert(requests).values(
                    tenant=self.tenant,
                    request_id=self.request_id,
                    digest=self.digest,
                    job_ids=json.dumps(ids),
                    created_us=tx.now_us,
                )
            )
        tx.changed.add(DISPATCH)
        return ids

    def _store(self, tx: Tx, new: NewJob) -> JobId:
        job_id = JobId(secrets.token_hex(8))
        tx.connection.execute(
            insert(jobs).values(
                tenant=self.tenant,
                id=job_id,
                kind=new.kind,
                state=JobState.PENDING,
                queue=new.queue,
                preset=new.preset,
                preset_digest=new.preset_digest,
                labels=new.labels,
                spec=new.spec,
                intent=new.intent,
                verbose=new.verbose,
                cancel_requested=False,
                attempt_count=0,
                event_count=0,
                created_us=tx.now_us,
            )
        )
        task_id = f"{job_id}-1"
        tx.connection.execute(
            insert(tasks).values(
                tenant=self.tenant,
                id=task_id,
                job_id=job_id,
                kind=new.task_kind,
                state=TaskState.PENDING,
                class_key=new.class_key,
                requirements=new.requirements,
                require=new.require,
                paths=new.paths,
                priority=new.priority,
                max_attempts=new.max_attempts,
                attempts_used=0,
                attempts_made=0,
                agents_lost=0,
                ready_us=tx.now_us,
                attempt_id="",
            )
        )
        append_event(tx, self.tenant, job_id, JobState.PENDING, task_id, Happened("submitted"))
        return job_id
