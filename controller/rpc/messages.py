"""Database rows as protobuf messages."""

from __future__ import annotations

import json
from typing import assert_never

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from controller.core.liveness import Health, Timers, health
from controller.core.states import JobState
from controller.store.draining import drain_reason
from controller.store.queries import Record
from controller.store.submission import NewJob
from controller.store.tables import JobId, Tenant
from controller.store.views import JobRows
from mediactl.v1 import fleet_service_pb2, job_pb2, preset_service_pb2
from presets.catalog import Preset, Profile
from presets.document import (
    BooleanParameter,
    ChoiceParameter,
    IntegerParameter,
    NumberParameter,
    Parameter,
    TextParameter,
)
from presets.uris import shown


def timestamp(us: int | None) -> Timestamp | None:
    if us is None:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(us)
    return stamp


def failure(text: str | None) -> job_pb2.Failure | None:
    return None if text is None else job_pb2.Failure(**json.loads(text))


def state(name: str) -> job_pb2.JobState.ValueType:
    return job_pb2.JobState.Value(f"JOB_STATE_{name}")


def attempt(row: Record) -> job_pb2.Attempt:
    message = job_pb2.Attempt(
        id=row.id,
        task_id=row.task_id,
        agent_id=row.agent_id,
        number=row.number,
        state=row.state,
        failure=failure(row.failure),
        lease_time=timestamp(row.leased_us),
        start_time=timestamp(row.started_us),
        end_time=timestamp(row.ended_us),
        cpu_seconds=row.cpu_seconds or 0.0,
        peak_memory_bytes=row.peak_memory_bytes or 0,
        kept_bytes=row.kept_bytes or 0,
        bytes_read=row.bytes_read or 0,
        bytes_written=row.bytes_written or 0,
        media_seconds=(row.media_us or 0) / 1e6,
    )
    message.queue_wait.FromMicroseconds(row.queue_wait_us)
    if row.run_us is not None:
        message.run_time.FromMicroseconds(row.run_us)
    if row.plan:
        message.plan.ParseFromString(row.plan)
    return message


def task(row: Record, *, jobs_awaited: int) -> job_pb2.Task:
    return job_pb2.Task(
        id=row.id,
        name=row.name,
        kind=row.kind,
        state=row.state,
        waits_for=row.waits_for + jobs_awaited,
        attempts_used=row.attempts_used,
    )


def job(rows: JobRows, progress: job_pb2.Progress | None) -> job_pb2.Job:
    """`progress` is the newest known to this controller, if any."""
    row = rows.job
    message = job_pb2.Job(
        id=row.id,
        state=state(row.state),
        tenant=row.tenant,
        preset=row.preset,
        preset_digest=row.preset_digest,
        attempt_count=row.attempt_count,
        failure=failure(row.failure) if row.state in (JobState.FAILED, JobState.DEAD) else None,
        cancel_requested=bool(row.cancel_requested),
        create_time=timestamp(row.created_us),
        start_time=timestamp(row.started_us),
        end_time=timestamp(row.ended_us),
        attempts=[attempt(item) for item in rows.attempts],
        replay_of=row.replay_of,
        held=bool(row.held),
        expire_time=timestamp(row.expires_us),
        tasks=[task(item, jobs_awaited=row.waits_for) for item in rows.tasks],
    )
    message.spec.ParseFromString(row.spec)
    hide_queries(message.spec)
    for artifact in rows.artifacts:
        message.artifacts.add().ParseFromString(artifact.document)
    if row.state == JobState.COMPLETED:
        message.progress = 1.0
    elif row.state == JobState.PROCESSING and progress is not None:
        message.progress = progress.fraction
    return message


def hide_queries(spec: job_pb2.JobSpec) -> None:
    """Of URLs: whoever sees a job need not be who may use a signature."""
    for one in spec.inputs:
        if "?" in one.uri:
            one.uri = shown(one.uri)


def new_job(job_id: JobId, new: NewJob, tenant: Tenant, created_us: int) -> job_pb2.Job:
    """A job as it was stored just now, which spares reading it. Not for one that waits for others."""
    message = job_pb2.Job(
        id=job_id,
        state=job_pb2.JOB_STATE_HELD if new.hold else job_pb2.JOB_STATE_PENDING,
        tenant=tenant,
        preset=new.preset,
        preset_digest=new.preset_digest,
        create_time=timestamp(created_us),
        held=new.hold,
        expire_time=timestamp(new.deadline_us),
        replay_of=new.replay_of,
    )
    message.spec.ParseFromString(new.spec)
    hide_queries(message.spec)
    return message


def event(row: Record) -> job_pb2.Event:
    return job_pb2.Event(
        job_id=row.job_id,
        sequence=row.sequence,
        cursor=row.cursor,
        time=timestamp(row.at_us),
        type=row.type,
        job_state=state(row.job_state),
        task_id=row.task_id,
        attempt_id=row.attempt_id,
        agent_id=row.agent_id,
        reason=row.reason,
        message=row.message,
    )


def agent(row: Record, *, held: list[str], silent_s: float, timers: Timers, objection: str) -> fleet_service_pb2.Agent:
    """`silent_s` is how long ago the agent was last heard of; `objection` is why it takes no new work by itself."""
    reason = drain_reason(row.draining, objection)
    if row.lost or health(silent_s, timers) is Health.LOST:
        standing = fleet_service_pb2.AGENT_STATE_LOST
    elif health(silent_s, timers) is Health.UNREACHABLE:
        standing = fleet_service_pb2.AGENT_STATE_UNREACHABLE
    elif reason:
        standing = fleet_service_pb2.AGENT_STATE_DRAINING
    else:
        standing = fleet_service_pb2.AGENT_STATE_READY
    message = fleet_service_pb2.Agent(
        id=row.id,
        name=row.name,
        state=standing,
        version=row.version,
        labels=json.loads(row.labels),
        attempt_ids=held,
        create_time=timestamp(row.created_us),
        last_seen_time=timestamp(row.last_seen_us),
        drain_reason=reason,
        drain_deadline=timestamp(row.drain_deadline_us),
    )
    message.capabilities.CopyFrom(capabilities(row))
    return message


def capabilities(row: Record) -> fleet_service_pb2.Capabilities:
    """Of an agents row."""
    return json_format.Parse(row.capabilities, fleet_service_pb2.Capabilities(), ignore_unknown_fields=True)


def preset(known: Preset, *, with_document: bool) -> preset_service_pb2.Preset:
    document = known.document
    message = preset_service_pb2.Preset(
        full_name=known.full_name,
        name=known.name,
        version=known.version,
        title=known.title,
        description=known.description,
        digest=known.digest,
        default_profile=document.default_profile,
        document=known.text if with_document else "",
    )
    for name, role in document.roles.items():
        message.roles.add(
            name=name,
            media=role.media,
            optional=role.optional,
            default=role.default,
            repeated=role.repeat,
            description=role.description,
        )
    for name, parameter in document.parameters.items():
        message.parameters.append(_parameter(name, parameter))
    return message


def _parameter(name: str, known: Parameter) -> preset_service_pb2.Parameter:
    message = preset_service_pb2.Parameter(
        name=name, type=known.type, default_json=json.dumps(known.default), description=known.description
    )
    match known:
        case NumberParameter() | IntegerParameter():
            message.unit, message.min, message.max = known.unit, known.min, known.max
        case ChoiceParameter():
            message.choices.extend(known.choices)
        case BooleanParameter() | TextParameter():
            pass
        case _:
            assert_never(known)
    return message


def profile(known: Profile, *, with_document: bool) -> preset_service_pb2.Profile:
    return preset_service_pb2.Profile(
        full_name=known.full_name,
        name=known.name,
        version=known.version,
        title=known.title,
        description=known.description,
        digest=known.digest,
        container=known.document.container,
        extension=known.document.extension,
        document=known.text if with_document else "",
    )
