"""A queue for many: priorities, requests, limits, an audit trail, the log of every job."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATES = "state IN ('queued', 'running', 'paused', 'done', 'failed', 'cancelled', 'interrupted')"


def upgrade() -> None:
    _widen_jobs()
    op.execute("UPDATE mergeopt_jobs SET request = 'cancel' WHERE cancel_requested")
    _forget_old_request()
    op.create_index("mergeopt_jobs_by_state", "mergeopt_jobs", ["state", "priority", "id"])
    _create_limits()
    _create_audit()
    _create_log()


def _widen_jobs() -> None:
    with op.batch_alter_table("mergeopt_jobs") as jobs:
        jobs.add_column(sa.Column("served", sa.Boolean, nullable=False, server_default=sa.true()))
        jobs.add_column(sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
        jobs.add_column(sa.Column("most_workers", sa.Integer))
        jobs.add_column(sa.Column("request", sa.String(20)))
        jobs.add_column(sa.Column("deaths", sa.Integer, nullable=False, server_default="0"))
        jobs.add_column(sa.Column("not_before", sa.Double))


def _forget_old_request() -> None:
    # What is long comes last: SQLite reads a row up to the last column that is asked for.
    last: list[tuple[str, ...]] = [("write_id", "folder", "error", "spec", "plan", "result")]
    with op.batch_alter_table("mergeopt_jobs", partial_reordering=last) as jobs:
        for column in ("served", "priority", "deaths"):
            jobs.alter_column(column, server_default=None)
        jobs.drop_column("cancel_requested")
        jobs.drop_constraint("mergeopt_jobs_state", type_="check")
        jobs.create_check_constraint("mergeopt_jobs_state", STATES)


def _create_limits() -> None:
    op.create_table(
        "mergeopt_limits",
        sa.Column("user_name", sa.String(200), primary_key=True),
        sa.Column("workers", sa.Integer),
        sa.Column("jobs", sa.Integer),
    )


def _create_audit() -> None:
    op.create_table(
        "mergeopt_audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("action", sa.String(100), nullable=False),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("mergeopt_jobs.id", name="mergeopt_audit_job")),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("mergeopt_audit_by_job", "mergeopt_audit", ["job_id", "id"])


def _create_log() -> None:
    op.create_table(
        "mergeopt_log",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("mergeopt_jobs.id", name="mergeopt_log_job"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("level", sa.String(20), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("mergeopt_log_by_job", "mergeopt_log", ["job_id", "id"])
