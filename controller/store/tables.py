"""Every table. Times are microseconds since the epoch, UTC; documents are JSON text; the tenant is in every job key.

Rows that are read in the order in which they were written (`seq`, `cursor`) get their number from the transaction
(`Tx.ticket`), never from the database: rising with every commit, also where several controllers write.
"""

from __future__ import annotations

from typing import NewType

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

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

# SQLite's own row number is a primary key of type INTEGER and nothing else.
Number = BigInteger().with_variant(Integer, "sqlite")
# Only what queries look into; everything else that is JSON is text to the database.
Document = JSON().with_variant(JSONB, "postgresql")


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    # `media` jobs are callers'; `plan` jobs answer PlanJob and are not listed.
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("queue", String, nullable=False),
    Column("preset", String, nullable=False),
    Column("preset_digest", String, nullable=False),
    Column("labels", Document, nullable=False),
    # A serialized mediactl.v1.JobSpec.
    Column("spec", LargeBinary, nullable=False),
    # The resolved intent; presets and profiles stand in it as keys of `texts`.
    Column("intent", Text, nullable=False),
    Column("verbose", Boolean, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    # How many jobs it still waits for, and whether it matters how those end.
    Column("waits_for", Integer, nullable=False),
    Column("after_any_end", Boolean, nullable=False),
    Column("not_before_us", BigInteger),
    Column("timeout_us", BigInteger),
    # From the deadline, and from the first start on also from the timeout. Cleared at the end.
    Column("expires_us", BigInteger),
    Column("replay_of", String, nullable=False),
    # What the inputs must be, as the record of the replayed job says. Empty: anything.
    Column("pinned_inputs", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("event_count", Integer, nullable=False),
    # The newest failure and its reason.
    Column("reason", String, nullable=False),
    Column("failure", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("ended_us", BigInteger),
    # JSON list of the inputs that lie in the controller's own store, as in `deposits.path`. NULL: none.
    Column("deposits", Text),
    UniqueConstraint("id", "tenant"),
    # No index begins with the tenant: a planner without statistics takes it for selective.
    Index("ix_jobs_state", "state", "tenant", "seq"),
    _partial("ix_jobs_expires", "expires_us", where="expires_us IS NOT NULL"),
    _partial("ix_jobs_ended", "ended_us", where="ended_us IS NOT NULL"),
    _partial("ix_jobs_deposits", "id", where="deposits IS NOT NULL AND ended_us IS NULL"),
)

job_edges = Table(
    "job_edges",
    metadata,
    Column("tenant", String, nullable=False),
    Column("parent_id", String, nullable=False),
    Column("child_id", String, nullable=False),
    ForeignKeyConstraint(["tenant", "child_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
    Index("ix_job_edges_child", "child_id", "tenant"),
    PrimaryKeyConstraint("parent_id", "tenant", "child_id"),
)

lanes = Table(
    "lanes",
    metadata,
    # Digest of all the rest. Rows are only ever added; a few hundred at the most.
    Column("key", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("queue", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("class_key", String, nullable=False),
    # JSON: labels that the agent must have.
    Column("require", Text, nullable=False),
    # JSON: for every local path of its tasks, the declared media roots that hold it.
    Column("reach", Text, nullable=False),
    # JSON list.
    Column("limit_keys", Text, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    Column("job_id", String, nullable=False),
    # Unique in the job.
    Column("name", String, nullable=False),
    # An executor kind: `transform`, `plan` or `part`.
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    # A key of `lanes`.
    Column("lane", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("requirements", Text, nullable=False),
    Column("require", Text, nullable=False),
    Column("paths", Text, nullable=False),
    # Instead of the job's.
    Column("intent", Text),
    # How many tasks of its job it still waits for, and their names as JSON.
    Column("waits_for", Integer, nullable=False),
    Column("after", Text, nullable=False),
    Column("attempts_used", Integer, nullable=False),
    Column("attempts_made", Integer, nullable=False),
    Column("agents_lost", Integer, nullable=False),
    # JSON list: agents where it failed, which are chosen last.
    Column("avoid", Text, nullable=False),
    Column("infrastructure_since_us", BigInteger),
    # When it last became PENDING, or when its back-off or its appointed time ends.
    Column("ready_us", BigInteger, nullable=False),
    # The attempt that alone may move it. Empty: none.
    Column("attempt_id", String, nullable=False),
    # A serialized mediactl.v1.StageReport, from STAGE on.
    Column("redo", LargeBinary),
    UniqueConstraint("id", "tenant"),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
    Index("ix_tasks_job", "job_id", "tenant"),
    # The line itself: heads of lanes and what follows them, at a cost that does not grow with its length.
    _partial("ix_tasks_line", "lane", "seq", where="state = 'PENDING'"),
    _partial("ix_tasks_due", "ready_us", where="state IN ('FAILED', 'SCHEDULED')"),
    _partial("ix_tasks_publishing", "seq", where="state = 'PUBLISHING'"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    Column("task_id", String, nullable=False),
    Column("job_id", String, nullable=False),
    # Who holds it. Empty: nobody any more (ended, or an orphaned publication that any agent may finish).
    Column("holder", String, nullable=False),
    Column("agent_id", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("alternative", Integer, nullable=False),
    # Revision of the agent's capabilities that it was chosen for.
    Column("revision", String, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("scratch_bytes", BigInteger, nullable=False),
    Column("gpu", Integer),
    Column("encoder_sessions", Integer, nullable=False),
    Column("gpu_memory_bytes", BigInteger, nullable=False),
    # JSON list of what it counts against while it is held.
    Column("limit_keys", Text, nullable=False),
    # Core-seconds its queue was charged at the grant, corrected at the end.
    Column("charged", Float, nullable=False),
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
    # A serialized mediactl.v1.Plan.
    Column("plan", LargeBinary),
    # Facts and identities of the inputs and results of the steps, as the agent reported them.
    Column("record", Text),
    # Where the whole log is in the controller's own store. Empty: in `log_chunks`.
    Column("log_key", String, nullable=False),
    Column("bytes_read", BigInteger),
    Column("bytes_written", BigInteger),
    # How much the agent kept of a failed attempt's workspace, when somebody last asked for it, and where in the
    # controller's own store it is by now.
    Column("kept_bytes", BigInteger),
    Column("collect_us", BigInteger),
    Column("remains_key", String),
    # How much media its longest pass went through.
    Column("media_us", BigInteger),
    # Since when what it may have left staged waits to be removed. Null: nothing is left of it, or it goes on.
    Column("sweep_us", BigInteger),
    # Of the job rather than of the task: an index that leads there is needed anyway.
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
    Index("ix_attempts_job", "job_id", "tenant"),
    _partial("ix_attempts_held", "holder", where="holder <> ''"),
    _partial("ix_attempts_orphaned", "id", where="holder = '' AND state = 'publishing'"),
    _partial("ix_attempts_unarchived", "ended_us", where="log_key = '' AND ended_us IS NOT NULL"),
    _partial("ix_attempts_collect", "agent_id", where="collect_us IS NOT NULL"),
    _partial("ix_attempts_sweep", "sweep_us", where="sweep_us IS NOT NULL"),
    PrimaryKeyConstraint("id", "tenant"),
)

events = Table(
    "events",
    metadata,
    Column("cursor", Number, primary_key=True, autoincrement=False),
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
    UniqueConstraint("job_id", "tenant", "sequence"),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
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
    # JSON list, from the capabilities.
    Column("media_roots", Text, nullable=False),
    # Digest of the capabilities, labels and roots.
    Column("revision", String, nullable=False),
    # A person wants it to finish what it has and take nothing new.
    Column("draining", Boolean, nullable=False),
    Column("lost", Boolean, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    # What still runs then is handed back.
    Column("drain_deadline_us", BigInteger),
    # Why the agent itself takes no new work, as it said last. Empty or NULL: it takes some.
    Column("drain_reason", Text),
    _partial("ix_agents_draining", "id", where="draining = true"),
)

#: By what jobs with `reuse` are found again.
recipes = Table(
    "recipes",
    metadata,
    Column("recipe", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("job_id", String, nullable=False),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
    Index("ix_recipes_job", "job_id", "tenant"),
    PrimaryKeyConstraint("recipe", "tenant", "job_id"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("tenant", String, nullable=False),
    Column("job_id", String, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("attempt_id", String, nullable=False),
    Column("uri", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    # A serialized mediactl.v1.Artifact.
    Column("document", LargeBinary, nullable=False),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
    PrimaryKeyConstraint("job_id", "tenant", "ordinal"),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("position", Number, primary_key=True, autoincrement=False),
    Column("tenant", String, nullable=False),
    Column("job_id", String, nullable=False),
    Column("attempt_id", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("attempt_id", "tenant", "stream", "sequence"),
    ForeignKeyConstraint(["tenant", "attempt_id"], ["attempts.tenant", "attempts.id"], ondelete="CASCADE"),
    Index("ix_log_chunks_job", "job_id", "tenant", "position"),
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

texts = Table(
    "texts",
    metadata,
    # SHA-256 of the text. Presets and profiles that jobs are pinned to; rows are only ever added.
    Column("digest", String, primary_key=True),
    Column("text", Text, nullable=False),
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
    Index("ix_requests_created", "created_us"),
)

shares = Table(
    "shares",
    metadata,
    # The queue is empty in the row of the tenant itself, both are in the row of the whole.
    Column("tenant", String, primary_key=True),
    Column("queue", String, primary_key=True),
    Column("weight", Float, nullable=False),
    # Stride scheduling: core-seconds used, divided by the weight.
    Column("passed", Float, nullable=False),
    # The virtual time among those beneath it, at which idle ones enter again.
    Column("virtual_time", Float, nullable=False),
    # Whether it had waiting tasks when it was last looked at.
    Column("active", Boolean, nullable=False),
)

classes = Table(
    "classes",
    metadata,
    Column("class_key", String, primary_key=True),
    # Core-seconds that a task of it takes, as a moving average.
    Column("cost", Float, nullable=False),
)

limits = Table(
    "limits",
    metadata,
    # `global`, `tenant:NAME`, `queue:NAME`, `preset:FULL_NAME`, or `label:KEY` for every value by itself.
    Column("key", String, primary_key=True),
    Column("maximum", Integer, nullable=False),
)

limit_counts = Table(
    "limit_counts",
    metadata,
    # As in `limits`, but `label:KEY=VALUE`.
    Column("key", String, primary_key=True),
    Column("running", Integer, nullable=False),
)

failures = Table(
    "failures",
    metadata,
    # Tasks of a class that failed on an agent since one last succeeded there. Two of them block the pair for a while.
    Column("agent_id", String, primary_key=True),
    Column("class_key", String, primary_key=True),
    Column("task_id", String, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
)

deposits = Table(
    "deposits",
    metadata,
    Column("tenant", String, nullable=False),
    # Of the upload.
    Column("id", String, nullable=False),
    # What its URI names: `uploads/ID/talk.wav`, `results/FOLDER/talk.aac_192.m4a`.
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # How many bytes are durable in the store, from the first on.
    Column("received_bytes", BigInteger, nullable=False),
    # As announced; compared with what is in the store before it becomes whole.
    Column("sha256", String, nullable=False),
    # Whether it is finished and can be read. Of one path at most one is.
    Column("whole", Boolean, nullable=False),
    # Of a result: the job it belongs to and the attempt that made it. Empty: somebody uploaded it.
    Column("job_id", String, nullable=False),
    Column("attempt_id", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    # Which of the controllers' own stores it is in, and what its blobs' keys begin with there.
    Column("store", String, nullable=False),
    Column("key", String, nullable=False),
    _partial("ix_deposits_whole", "path", "tenant", where="whole", unique=True),
    _partial("ix_deposits_attempt", "attempt_id", where="attempt_id <> ''"),
    Index("ix_deposits_sha256", "sha256"),
    Index("ix_deposits_expires", "expires_us"),
    PrimaryKeyConstraint("id", "tenant"),
)
