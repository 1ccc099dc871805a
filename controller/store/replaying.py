"""Doing a job again: the same pinned inputs, preset and profiles, as a new job that names the old one."""

from __future__ import annotations

import json
from contextlib import suppress

from sqlalchemy import Connection, select

from controller.store.submission import MAIN, NewJob
from controller.store.tables import JobId, Tenant, attempts, jobs, tasks
from mediactl.v1 import job_pb2
from presets.capabilities import Requirements
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from presets.uris import CONTROLLER, base_name, join, place


class NeverRead(Exception):
    """No attempt of the job got so far as to read its inputs."""


def replayed(connection: Connection, tenant: Tenant, job_id: JobId, output_uri: str, overwrite: bool) -> NewJob:
    """The new job. Raises NeverRead; InvalidRequest where `output_uri` is no prefix."""
    job = connection.execute(select(jobs).where(jobs.c.tenant == tenant, jobs.c.id == job_id)).one()
    task = connection.execute(
        select(tasks).where(tasks.c.tenant == tenant, tasks.c.job_id == job_id, tasks.c.name == MAIN)
    ).one()
    intent = json.loads(job.intent)
    pinned = job.pinned_inputs or _pinned(connection, tenant, job_id, len(intent["inputs"]))
    spec = job_pb2.JobSpec.FromString(job.spec)
    # What belonged to the old job's circumstances.
    spec.ClearField("after")
    spec.ClearField("after_any_end")
    spec.ClearField("not_before")
    spec.ClearField("timeout")
    spec.ClearField("deadline")
    spec.ClearField("hold")
    spec.overwrite = intent["overwrite"] = overwrite
    spec.reuse = intent["reuse"] = False
    if output_uri:
        _redirect(spec, intent, output_uri)
    requirements = _again(connection, tenant, job_id, Requirements.from_json(json.loads(task.requirements)))
    places = [place(item["uri"]) for item in (*intent["inputs"], *intent["outputs"])]
    return NewJob(
        kind=job.kind,
        task_kind=task.kind,
        queue=job.queue,
        priority=task.priority,
        max_attempts=job.max_attempts,
        preset=job.preset,
        preset_digest=job.preset_digest,
        labels=job.labels,
        require=task.require,
        spec=spec.SerializeToString(),
        intent=json.dumps(intent),
        texts={},
        class_key=requirements.class_key(),
        requirements=json.dumps(requirements.to_json()),
        paths=json.dumps([str(at) for at in places if at.store != CONTROLLER]),
        verbose=job.verbose,
        replay_of=job_id,
        pinned_inputs=pinned,
        deposits=job.deposits,
    )


def _pinned(connection: Connection, tenant: Tenant, job_id: JobId, inputs: int) -> str:
    records = connection.scalars(
        select(attempts.c.record)
        .where(attempts.c.tenant == tenant, attempts.c.job_id == job_id, attempts.c.record.is_not(None))
        .order_by(attempts.c.leased_us.desc())
    )
    for record in records:
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):  # as an agent wrote it
            read = json.loads(record or "{}").get("inputs", [])
            if len(read) == inputs:
                return json.dumps([{"size": item["size"], "token": item["token"]} for item in read])
    raise NeverRead


def _again(connection: Connection, tenant: Tenant, job_id: JobId, asked: Requirements) -> Requirements:
    """On the FFmpeg and with the threads of the last attempt that came to a plan."""
    plan = connection.scalar(
        select(attempts.c.plan)
        .where(attempts.c.tenant == tenant, attempts.c.job_id == job_id, attempts.c.plan.is_not(None))
        .order_by(attempts.c.leased_us.desc())
        .limit(1)
    )
    if plan is None:
        return asked
    made = job_pb2.Plan.FromString(plan)
    return asked.again(made.binary_sha256, made.threads) if made.binary_sha256 else asked


def _redirect(spec: job_pb2.JobSpec, intent: dict[str, list[dict[str, str]]], output_uri: str) -> None:
    try:
        place(output_uri)
        if not output_uri.endswith("/"):
            raise ValueError(f"a prefix that ends in / is expected, got {output_uri!r}")
    except ValueError as error:
        raise InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "output_uri", str(error))) from None
    for output, message in zip(intent["outputs"], spec.outputs, strict=True):
        output["uri"] = message.uri = join(output_uri, base_name(output["uri"]))
