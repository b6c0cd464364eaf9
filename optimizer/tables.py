"""The project's own tables, the same on SQLite and PostgreSQL.

They live beside Optuna's in one database, so every name begins with `mergeopt_`. What creates them in a real
database is `optimizer.migrations`; a test holds the two to the same shape.
"""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

PREFIX = "mergeopt_"
STATES = ("queued", "running", "paused", "done", "failed", "cancelled", "interrupted")
NAME_LENGTH = 200


class DatabaseClock(FunctionElement[float]):
    """Now, in seconds since 1970 (UTC), by the clock of the database.

    Every time we store or compare comes from this one clock, so machines whose own clocks differ agree on
    whether a lease has run out. PostgreSQL answers with the server's clock. A SQLite file belongs to one
    machine and has its clock, to the millisecond.
    """

    type = Double()
    inherit_cache = True
    name = "database_clock"


@compiles(DatabaseClock, "sqlite")
def _sqlite_clock(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(DatabaseClock, "postgresql")
def _postgresql_clock(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    # Not now(): that is the start of the transaction, which may have waited for a lock since.
    return "extract(epoch from clock_timestamp())::double precision"


class Moment(TypeDecorator[datetime]):
    """A point in time: seconds since 1970 (UTC) in the database, a timezone-aware UTC datetime in Python."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        return None if value is None else value.timestamp()

    def process_result_value(self, value: float | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromtimestamp(value, UTC)


class JsonText(TypeDecorator[Any]):
    """Plain data kept as JSON text, keys in the order they were given."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        return None if value is None else json.loads(value)


METADATA = MetaData()

jobs = Table(
    "mergeopt_jobs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(NAME_LENGTH), nullable=False),
    Column("spec", JsonText, nullable=False),
    Column("plan", JsonText, nullable=False),
    Column("folder", Text, nullable=False),
    Column("state", String(20), nullable=False),
    # In the queue, for controllers to take; a job that `mergeopt run` carries out itself is none of theirs.
    Column("served", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    # The limit on workers that was set after submission; without one, the job file's own number counts.
    Column("most_workers", Integer),
    # What its holder was asked to do: `cancel`, `pause`, or nothing.
    Column("request", String(20)),
    # Counts the claims of this job. Whoever holds a lower number than the row's has lost it (the fencing
    # token).
    Column("attempt", Integer, nullable=False),
    # Attempts in a row that ended without a word and had recorded nothing.
    Column("deaths", Integer, nullable=False),
    # Not to be taken from the queue before this, by the database's clock.
    Column("not_before", Double),
    Column("owner", Text),
    Column("lease_until", Double),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("error", Text),
    Column("result", JsonText),
    Column("submitted_by", Text, nullable=False),
    # Which call wrote the row, in this table and the others: after a lost answer a repeated call knows its
    # own work.
    Column("write_id", String(32), nullable=False),
    UniqueConstraint("name", name="mergeopt_jobs_name"),
    CheckConstraint("state IN ({})".format(", ".join(f"'{state}'" for state in STATES)), name="mergeopt_jobs_state"),
    Index("mergeopt_jobs_by_state", "state", "priority", "id"),
)

examples = Table(
    "mergeopt_examples",
    METADATA,
    Column("job_id", ForeignKey(jobs.c.id, name="mergeopt_examples_job"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("example_id", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("split", String(20), nullable=False),
    UniqueConstraint("job_id", "example_id", name="mergeopt_examples_example"),
)

outcomes = Table(
    "mergeopt_outcomes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, name="mergeopt_outcomes_job"), nullable=False),
    Column("trial", Integer, nullable=False),
    Column("split", String(20), nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("n", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("worker", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("write_id", String(32), nullable=False),
    # Last, so that SQLite counts the examples without reading the pages of the blobs.
    Column("blob", LargeBinary, nullable=False),
    UniqueConstraint("job_id", "trial", "split", "round", name="mergeopt_outcomes_once"),
)

events = Table(
    "mergeopt_events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, name="mergeopt_events_job"), nullable=False),
    Column("at", Moment, nullable=False),
    Column("kind", String(100), nullable=False),
    Column("data", JsonText, nullable=False),
    Column("write_id", String(32), nullable=False),
    UniqueConstraint("job_id", "write_id", name="mergeopt_events_once"),
)

gradients = Table(
    "mergeopt_gradients",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, name="mergeopt_gradients_job"), nullable=False),
    # One batch is one number; the shards of a batch that several workers shared count from 0.
    Column("number", Integer, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("positions", JsonText, nullable=False),
    Column("losses", JsonText, nullable=False),
    Column("rows", JsonText, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("worker", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("write_id", String(32), nullable=False),
    UniqueConstraint("job_id", "number", "shard", name="mergeopt_gradients_once"),
)

artifacts = Table(
    "mergeopt_artifacts",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, name="mergeopt_artifacts_job"), nullable=False),
    Column("created_at", Moment, nullable=False),
    # Compressed by zlib.
    Column("content", LargeBinary, nullable=False),
)

limits = Table(
    "mergeopt_limits",
    METADATA,
    # `*` is everybody who has no row of their own.
    Column("user_name", String(NAME_LENGTH), primary_key=True),
    Column("workers", Integer),
    Column("jobs", Integer),
)

audit = Table(
    "mergeopt_audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("who", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("action", String(100), nullable=False),
    Column("job_id", ForeignKey(jobs.c.id, name="mergeopt_audit_job")),
    Column("data", JsonText, nullable=False),
    Index("mergeopt_audit_by_job", "job_id", "id"),
)

log_lines = Table(
    "mergeopt_log",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, name="mergeopt_log_job"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Moment, nullable=False),
    Column("level", String(20), nullable=False),
    Column("text", Text, nullable=False),
    Index("mergeopt_log_by_job", "job_id", "id"),
)
