"""Gradients of the coefficients, batch by batch."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mergeopt_gradients",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "job_id", sa.Integer, sa.ForeignKey("mergeopt_jobs.id", name="mergeopt_gradients_job"), nullable=False
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("positions", sa.Text, nullable=False),
        sa.Column("losses", sa.Text, nullable=False),
        sa.Column("rows", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("write_id", sa.String(32), nullable=False),
        sa.UniqueConstraint("job_id", "number", "shard", name="mergeopt_gradients_once"),
    )
