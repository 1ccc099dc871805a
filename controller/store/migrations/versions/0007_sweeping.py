"""Attempts: since when it is due to remove what they may have left staged

An older controller goes on using this schema: the column may be left out, and what it ends is not swept.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("sweep_us", sa.BigInteger()))
    due = sa.text("sweep_us IS NOT NULL")
    op.create_index("ix_attempts_sweep", "attempts", ["sweep_us"], sqlite_where=due, postgresql_where=due)
