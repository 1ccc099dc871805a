"""Deposits: files in the controller's own store, and which of them jobs read

An older controller goes on using this schema: it knows nothing of the table, and the column may be left out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deposits",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("store", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", "tenant", name="pk_deposits"),
    )
    _index("ix_deposits_whole", "deposits", "path", "tenant", where="whole", unique=True)
    _index("ix_deposits_attempt", "deposits", "attempt_id", where="attempt_id <> ''")
    op.create_index("ix_deposits_sha256", "deposits", ["sha256"])
    op.create_index("ix_deposits_expires", "deposits", ["expires_us"])
    op.add_column("jobs", sa.Column("deposits", sa.Text()))
    _index("ix_jobs_deposits", "jobs", "id", where="deposits IS NOT NULL AND ended_us IS NULL")


def _index(name: str, table: str, *columns: str, where: str, unique: bool = False) -> None:
    op.create_index(
        name, table, list(columns), unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
