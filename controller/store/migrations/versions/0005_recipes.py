"""Recipes: by what jobs with `reuse` are found again

An older controller goes on using this schema: it knows nothing of the table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recipes",
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("recipe", "tenant", "job_id"),
    )
    op.create_index("ix_recipes_job", "recipes", ["job_id", "tenant"])
