"""Attempts: how much media they went through

An older controller goes on using this schema: the column may be left out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("media_us", sa.BigInteger()))
