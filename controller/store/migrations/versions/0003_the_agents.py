"""Agents: deadlines and reasons of draining; what attempts read and wrote, and what agents kept of failed ones

An older controller goes on using this schema: every column may be left out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("agents", sa.Column("drain_deadline_us", sa.BigInteger()))
    op.add_column("agents", sa.Column("drain_reason", sa.Text()))
    drained = sa.text("draining = true")
    op.create_index("ix_agents_draining", "agents", ["id"], sqlite_where=drained, postgresql_where=drained)
    op.add_column("attempts", sa.Column("bytes_read", sa.BigInteger()))
    op.add_column("attempts", sa.Column("bytes_written", sa.BigInteger()))
    op.add_column("attempts", sa.Column("kept_bytes", sa.BigInteger()))
    op.add_column("attempts", sa.Column("collect_us", sa.BigInteger()))
    op.add_column("attempts", sa.Column("remains_key", sa.String()))
    op.create_index(
        "ix_attempts_collect",
        "attempts",
        ["agent_id"],
        sqlite_where=sa.text("collect_us IS NOT NULL"),
        postgresql_where=sa.text("collect_us IS NOT NULL"),
    )
