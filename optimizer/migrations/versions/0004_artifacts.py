"""Small pictures of a job, for dashboards on any machine."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mergeopt_artifacts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column(
            "job_id", sa.Integer, sa.ForeignKey("mergeopt_jobs.id", name="mergeopt_artifacts_job"), nullable=False
        ),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
