"""The queue: lanes, dependencies, limits and shares; specs, plans and artifacts as bytes; texts of presets once

A controller before it can't use this schema. Every table whose columns or keys changed is made anew and filled from the
old one, in the one transaction of the migration: needs as much free space as the database is large.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from google.protobuf import json_format
from google.protobuf.message import Message
from sqlalchemy.dialects.postgresql import JSONB

from mediactl.v1 import agent_service_pb2, job_pb2

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DOCUMENT = sa.JSON().with_variant(JSONB, "postgresql")

# Parents before children.
REMADE = ("agents", "jobs", "tasks", "attempts", "events", "artifacts", "log_chunks")
INDEXES = ("jobs_tenant_state", "tasks_job", "tasks_state", "attempts_holder", "attempts_job", "log_chunks_job")
PAGE = 500
TASK_NAME = "main"
MAX_ATTEMPTS = 3


def upgrade() -> None:
    connection = op.get_bind()
    _set_aside(connection)
    _create()
    op.create_index("ix_requests_created", "requests", ["created_us"])
    _copy_agents(connection)
    _copy_jobs(connection)
    _copy_tasks(connection)
    _copy_attempts(connection)
    _copy_artifacts(connection)
    _copy_same(connection, "events")
    _copy_same(connection, "log_chunks")
    for name in reversed(REMADE):
        op.drop_table(f"old_{name}")
    op.execute("UPDATE meta SET value = '2' WHERE key = 'minimum_level'")


def _set_aside(connection: sa.Connection) -> None:
    for name in INDEXES:
        op.drop_index(f"ix_{name}")
    for name in REMADE:
        op.rename_table(name, f"old_{name}")
    if connection.dialect.name == "postgresql":
        # Names of keys are unique in the schema there, and the new tables want them.
        for table, key in connection.execute(
            sa.text(
                "SELECT conrelid::regclass::text, conname FROM pg_constraint "
                "WHERE contype IN ('p', 'u') AND conrelid IN (SELECT unnest(CAST(:names AS text[]))::regclass)"
            ),
            {"names": [f"old_{name}" for name in REMADE]},
        ).all():
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {key} CASCADE")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _create() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("capabilities", sa.Text(), nullable=False),
        sa.Column("media_roots", sa.Text(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("lost", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    op.create_table(
        "classes",
        sa.Column("class_key", sa.String(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("class_key", name=op.f("pk_classes")),
    )
    op.create_table(
        "failures",
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("class_key", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "class_key", "task_id", name=op.f("pk_failures")),
    )
    op.create_table(
        "jobs",
        sa.Column("seq", NUMBER, autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("preset", sa.String(), nullable=False),
        sa.Column("preset_digest", sa.String(), nullable=False),
        sa.Column("labels", DOCUMENT, nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("intent", sa.Text(), nullable=False),
        sa.Column("verbose", sa.Boolean(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("waits_for", sa.Integer(), nullable=False),
        sa.Column("after_any_end", sa.Boolean(), nullable=False),
        sa.Column("not_before_us", sa.BigInteger(), nullable=True),
        sa.Column("timeout_us", sa.BigInteger(), nullable=True),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("replay_of", sa.String(), nullable=False),
        sa.Column("pinned_inputs", sa.Text(), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", "tenant", name=op.f("uq_jobs_id_tenant")),
    )
    op.create_index("ix_jobs_ended", "jobs", ["ended_us"], unique=False, **_where("ended_us IS NOT NULL"))
    op.create_index("ix_jobs_expires", "jobs", ["expires_us"], unique=False, **_where("expires_us IS NOT NULL"))
    op.create_index("ix_jobs_state", "jobs", ["state", "tenant", "seq"], unique=False)
    op.create_table(
        "lanes",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("class_key", sa.String(), nullable=False),
        sa.Column("require", sa.Text(), nullable=False),
        sa.Column("reach", sa.Text(), nullable=False),
        sa.Column("limit_keys", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_lanes")),
    )
    op.create_table(
        "limit_counts",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_limit_counts")),
    )
    op.create_table(
        "limits",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("maximum", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_limits")),
    )
    op.create_table(
        "shares",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("passed", sa.Float(), nullable=False),
        sa.Column("virtual_time", sa.Float(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "queue", name=op.f("pk_shares")),
    )
    op.create_table(
        "texts",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_texts")),
    )
    op.create_table(
        "artifacts",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "job_id"], ["jobs.tenant", "jobs.id"], name=op.f("fk_artifacts_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "tenant", "ordinal", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "events",
        sa.Column("cursor", NUMBER, autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("job_state", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "job_id"], ["jobs.tenant", "jobs.id"], name=op.f("fk_events_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("cursor", name=op.f("pk_events")),
        sa.UniqueConstraint("job_id", "tenant", "sequence", name=op.f("uq_events_job_id_tenant_sequence")),
    )
    op.create_table(
        "job_edges",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(), nullable=False),
        sa.Column("child_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "child_id"], ["jobs.tenant", "jobs.id"], name=op.f("fk_job_edges_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("parent_id", "tenant", "child_id", name=op.f("pk_job_edges")),
    )
    op.create_index("ix_job_edges_child", "job_edges", ["child_id", "tenant"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("seq", NUMBER, autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("lane", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("requirements", sa.Text(), nullable=False),
        sa.Column("require", sa.Text(), nullable=False),
        sa.Column("paths", sa.Text(), nullable=False),
        sa.Column("intent", sa.Text(), nullable=True),
        sa.Column("waits_for", sa.Integer(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("attempts_used", sa.Integer(), nullable=False),
        sa.Column("attempts_made", sa.Integer(), nullable=False),
        sa.Column("agents_lost", sa.Integer(), nullable=False),
        sa.Column("avoid", sa.Text(), nullable=False),
        sa.Column("infrastructure_since_us", sa.BigInteger(), nullable=True),
        sa.Column("ready_us", sa.BigInteger(), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("redo", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant", "job_id"], ["jobs.tenant", "jobs.id"], name=op.f("fk_tasks_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_tasks")),
        sa.UniqueConstraint("id", "tenant", name=op.f("uq_tasks_id_tenant")),
    )
    op.create_index("ix_tasks_due", "tasks", ["ready_us"], unique=False, **_where("state IN ('FAILED', 'SCHEDULED')"))
    op.create_index("ix_tasks_job", "tasks", ["job_id", "tenant"], unique=False)
    op.create_index("ix_tasks_line", "tasks", ["lane", "seq"], unique=False, **_where("state = 'PENDING'"))
    op.create_index("ix_tasks_publishing", "tasks", ["seq"], unique=False, **_where("state = 'PUBLISHING'"))
    op.create_table(
        "attempts",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("alternative", sa.Integer(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("scratch_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpu", sa.Integer(), nullable=True),
        sa.Column("encoder_sessions", sa.Integer(), nullable=False),
        sa.Column("gpu_memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("limit_keys", sa.Text(), nullable=False),
        sa.Column("charged", sa.Float(), nullable=False),
        sa.Column("queue_wait_us", sa.BigInteger(), nullable=False),
        sa.Column("leased_us", sa.BigInteger(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("stop_reason", sa.String(), nullable=True),
        sa.Column("stop_us", sa.BigInteger(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("run_us", sa.BigInteger(), nullable=True),
        sa.Column("cpu_seconds", sa.Float(), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("plan", sa.LargeBinary(), nullable=True),
        sa.Column("record", sa.Text(), nullable=True),
        sa.Column("log_key", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "job_id"], ["jobs.tenant", "jobs.id"], name=op.f("fk_attempts_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", "tenant", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_held", "attempts", ["holder"], unique=False, **_where("holder <> ''"))
    op.create_index(
        "ix_attempts_orphaned", "attempts", ["id"], unique=False, **_where("holder = '' AND state = 'publishing'")
    )
    op.create_index("ix_attempts_job", "attempts", ["job_id", "tenant"], unique=False)
    op.create_index(
        "ix_attempts_unarchived",
        "attempts",
        ["ended_us"],
        unique=False,
        **_where("log_key = '' AND ended_us IS NOT NULL"),
    )
    op.create_table(
        "log_chunks",
        sa.Column("position", NUMBER, autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "attempt_id"],
            ["attempts.tenant", "attempts.id"],
            name=op.f("fk_log_chunks_attempts"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_log_chunks")),
        sa.UniqueConstraint(
            "attempt_id", "tenant", "stream", "sequence", name=op.f("uq_log_chunks_attempt_id_tenant_stream_sequence")
        ),
    )
    op.create_index("ix_log_chunks_job", "log_chunks", ["job_id", "tenant", "position"], unique=False)


def _old(connection: sa.Connection, statement: str) -> Iterator[list[dict[str, Any]]]:
    rows = connection.execute(sa.text(statement), execution_options={"stream_results": True, "yield_per": PAGE})
    for page in rows.mappings().partitions():
        yield [dict(row) for row in page]


def _add(connection: sa.Connection, name: str, rows: Iterable[dict[str, Any]], **types: Any) -> None:
    rows = list(rows)
    if rows:
        table = sa.table(name, *(sa.column(key, types.get(key)) for key in rows[0]))
        connection.execute(sa.insert(table), rows)


def _packed(text: str, message: Message) -> bytes:
    return json_format.Parse(text, message, ignore_unknown_fields=True).SerializeToString(deterministic=True)


def _columns(connection: sa.Connection, name: str) -> list[str]:
    return [column["name"] for column in sa.inspect(connection).get_columns(name)]


def _copy_same(connection: sa.Connection, name: str) -> None:
    columns = ", ".join(_columns(connection, name))
    op.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM old_{name}")  # noqa: S608 - names of this file's own


def _copy_agents(connection: sa.Connection) -> None:
    for page in _old(connection, "SELECT * FROM old_agents"):
        for row in page:
            row["media_roots"] = json.dumps(json.loads(row["capabilities"]).get("mediaRoots", []))
            # Drawn when it next says what it can do, before it is granted anything.
            row["revision"] = ""
        _add(connection, "agents", page)


def _copy_jobs(connection: sa.Connection) -> None:
    known: set[str] = set()
    added = {
        "held": False,
        "waits_for": 0,
        "after_any_end": False,
        "replay_of": "",
        "pinned_inputs": "",
    }
    for page in _old(
        connection,
        "SELECT old_jobs.*, granted.max_attempts FROM old_jobs LEFT JOIN ("
        "SELECT tenant, job_id, max(max_attempts) AS max_attempts FROM old_tasks GROUP BY tenant, job_id"
        ") AS granted ON granted.tenant = old_jobs.tenant AND granted.job_id = old_jobs.id ORDER BY old_jobs.seq",
    ):
        texts: dict[str, str] = {}
        for row in page:
            row.update(added)
            row["labels"] = json.loads(row["labels"])
            row["spec"] = _packed(row["spec"], job_pb2.JobSpec())
            row["intent"] = _keyed(row["intent"], texts)
            row["reason"] = json.loads(row["failure"]).get("reason", "") if row["failure"] else ""
            row["max_attempts"] = row["max_attempts"] or MAX_ATTEMPTS
        _add(
            connection,
            "texts",
            [{"digest": digest, "text": text} for digest, text in texts.items() if digest not in known],
        )
        known |= texts.keys()
        _add(connection, "jobs", page, labels=DOCUMENT, spec=sa.LargeBinary())


def _keyed(intent: str, texts: dict[str, str]) -> str:
    """The intent with keys in the place of the texts of presets and profiles, which are put into `texts`."""

    def key(text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        texts[digest] = text
        return digest

    document = json.loads(intent)
    document["preset"] = key(document["preset"])
    for output in document["outputs"]:
        output["profile"] = key(output["profile"])
    return json.dumps(document)


def _copy_tasks(connection: sa.Connection) -> None:
    added = {"name": TASK_NAME, "lane": "", "waits_for": 0, "after": "[]", "avoid": "[]"}
    for page in _old(connection, "SELECT * FROM old_tasks ORDER BY seq"):
        for row in page:
            row.update(added)
            # What made its lane is in its requirements; jobs say how many attempts it has.
            del row["class_key"], row["max_attempts"]
            row["redo"] = None if row["redo"] is None else _packed(row["redo"], agent_service_pb2.StageReport())
        _add(connection, "tasks", page, redo=sa.LargeBinary())


def _copy_attempts(connection: sa.Connection) -> None:
    added = {
        "revision": "",
        "encoder_sessions": 0,
        "gpu_memory_bytes": 0,
        "limit_keys": "[]",
        "charged": 0.0,
        "log_key": "",
    }
    for page in _old(connection, "SELECT * FROM old_attempts"):
        for row in page:
            row.update(added)
            row["plan"] = None if row["plan"] is None else _packed(row["plan"], job_pb2.Plan())
        _add(connection, "attempts", page, plan=sa.LargeBinary())


def _copy_artifacts(connection: sa.Connection) -> None:
    for page in _old(connection, "SELECT * FROM old_artifacts"):
        for row in page:
            row["document"] = _packed(row["document"], job_pb2.Artifact())
        _add(connection, "artifacts", page, document=sa.LargeBinary())
