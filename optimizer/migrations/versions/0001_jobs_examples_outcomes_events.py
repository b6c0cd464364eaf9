"""The first tables: jobs, the frozen examples of each, outcomes, events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_jobs()
    _create_examples()
    _create_outcomes()
    _create_events()


def _create_jobs() -> None:
    op.create_table(
        "mergeopt_jobs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("submitted_by", sa.Text, nullable=False),
        sa.Column("write_id", sa.String(32), nullable=False),
        sa.UniqueConstraint("name", name="mergeopt_jobs_name"),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'interrupted')",
            name="mergeopt_jobs_state",
        ),
    )


def _create_examples() -> None:
    op.create_table(
        "mergeopt_examples",
        sa.Column(
            "job_id",
            sa.Integer,
            sa.ForeignKey("mergeopt_jobs.id", name="mergeopt_examples_job"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("example_id", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("split", sa.String(20), nullable=False),
        sa.UniqueConstraint("job_id", "example_id", name="mergeopt_examples_example"),
    )


def _create_outcomes() -> None:
    op.create_table(
        "mergeopt_outcomes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "job_id",
            sa.Integer,
            sa.ForeignKey("mergeopt_jobs.id", name="mergeopt_outcomes_job"),
            nullable=False,
        ),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("split", sa.String(20), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("write_id", sa.String(32), nullable=False),
        sa.Column("blob", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("job_id", "trial", "split", "round", name="mergeopt_outcomes_once"),
    )


def _create_events() -> None:
    op.create_table(
        "mergeopt_events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "job_id",
            sa.Integer,
            sa.ForeignKey("mergeopt_jobs.id", name="mergeopt_events_job"),
            nullable=False,
        ),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(100), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("write_id", sa.String(32), nullable=False),
        sa.UniqueConstraint("job_id", "write_id", name="mergeopt_events_once"),
    )


def downgrade() -> None:
    raise NotImplementedError("A database is not taken back to an older schema; restore a backup instead.")
