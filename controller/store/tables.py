"""Every table. Times are microseconds since the epoch, UTC; documents are JSON text; the tenant is in every job key."""

from __future__ import annotations

from typing import NewType

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

JobId = NewType("JobId", str)
TaskId = NewType("TaskId", str)
AttemptId = NewType("AttemptId", str)
AgentId = NewType("AgentId", str)
Tenant = NewType("Tenant", str)

DEFAULT_TENANT = Tenant("default")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for a primary key of type INTEGER.
Serial = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    # `media` jobs are callers'; `plan` jobs answer PlanJob and are not listed.
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("queue", String, nullable=False),
    Column("preset", String, nullable=False),
    Column("preset_digest", String, nullable=False),
    Column("labels", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("intent", Text, nullable=False),
    Column("verbose", Boolean, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("event_count", Integer, nullable=False),
    Column("failure", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("ended_us", BigInteger),
    UniqueConstraint("tenant", "id"),
    Index("ix_jobs_tenant_state", "tenant", "state", "seq"),
    sqlite_autoincrement=True,
)

tasks = Table(
    "tasks",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    Column("job_id", String, nullable=False),
    # An executor kind: `transform` or `plan`.
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("class_key", String, nullable=False),
    Column("requirements", Text, nullable=False),
    Column("require", Text, nullable=False),
    Column("paths", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("attempts_used", Integer, nullable=False),
    Column("attempts_made", Integer, nullable=False),
    Column("agents_lost", Integer, nullable=False),
    Column("infrastructure_since_us", BigInteger),
    # When it last became PENDING, or when its back-off ends.
    Column("ready_us", BigInteger, nullable=False),
    # The attempt that alone may move it. Empty: none.
    Column("attempt_id", String, nullable=False),
    # RedoRecords as JSON, from STAGE on.
    Column("redo", Text),
    UniqueConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
    Index("ix_tasks_job", "tenant", "job_id"),
    Index("ix_tasks_state", "state", "class_key", "priority", "seq"),
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("task_id", String, nullable=False),
    Column("job_id", String, nullable=False),
    # Who holds it. Empty: nobody any more (ended, or an orphaned publication that any agent may finish).
    Column("holder", String, nullable=False),
    Column("agent_id", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("alternative", Integer, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("scratch_bytes", BigInteger, nullable=False),
    Column("queue_wait_us", BigInteger, nullable=False),
    Column("leased_us", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("ended_us", BigInteger),
    Column("stop_reason", String),
    Column("stop_us", BigInteger),
    Column("failure", Text),
    Column("run_us", BigInteger),
    Column("cpu_seconds", Float),
    Column("peak_memory_bytes", BigInteger),
    Column("plan", Text),
    # Facts and identities of the inputs and results of the steps, as the agent reported them.
    Column("record", Text),
    UniqueConstraint("id"),
    ForeignKeyConstraint(["tenant", "task_id"], ["tasks.tenant", "tasks.id"], ondelete="CASCADE"),
    Index("ix_attempts_job", "tenant", "job_id"),
    Index("ix_attempts_holder", "holder"),
)

events = Table(
    "events",
    metadata,
    Column("cursor", Serial, primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("job_id", String, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("job_state", String, nullable=False),
    Column("task_id", String, nullable=False),
    Column("attempt_id", String, nullable=False),
    Column("agent_id", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("message", Text, nullable=False),
    UniqueConstraint("tenant", "job_id", "sequence"),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
    sqlite_autoincrement=True,
)

agents = Table(
    "agents",
    metadata,
    Column("id", String, primary_key=True),
    Column("instance_id", String, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("labels", Text, nullable=False),
    # Protobuf JSON of mediactl.v1.Capabilities.
    Column("capabilities", Text, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("lost", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("job_id", String, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("attempt_id", String, nullable=False),
    Column("uri", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    # Protobuf JSON of mediactl.v1.Artifact.
    Column("document", Text, nullable=False),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("position", Serial, primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("job_id", String, nullable=False),
    Column("attempt_id", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("tenant", "attempt_id", "stream", "sequence"),
    ForeignKeyConstraint(["tenant", "attempt_id"], ["attempts.tenant", "attempts.id"], ondelete="CASCADE"),
    Index("ix_log_chunks_job", "tenant", "job_id", "position"),
    sqlite_autoincrement=True,
)

documents = Table(
    "documents",
    metadata,
    Column("tenant", String, primary_key=True),
    # `preset` or `profile`.
    Column("kind", String, primary_key=True),
    Column("full_name", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("request_id", String, primary_key=True),
    # Of the request's set fields before resolution.
    Column("digest", String, nullable=False),
    # JSON list of job ids, in the order of the request.
    Column("job_ids", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)
