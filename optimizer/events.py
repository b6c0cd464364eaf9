"""What happened to a job, and when: the entries of its diary, such as each opening of the test split."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select

from optimizer.database import insert_once, retrying, writing
from optimizer.jobs import require_lease
from optimizer.tables import DatabaseClock
from optimizer.tables import events as table


@dataclass(frozen=True)
class Event:
    """One entry. `at` is UTC, `data` plain data."""

    at: datetime
    kind: str
    data: Any


def log_event(engine: Engine, job_id: int, kind: str, data: Any = None, attempt: int | None = None) -> None:
    """Add an entry; once, however often the database has to be asked.

    Raises `LeaseLost`, and adds nothing, where it is an attempt's and that does not hold the job any more.
    """
    row = {"job_id": job_id, "kind": kind, "data": {} if data is None else data, "write_id": uuid.uuid4().hex}
    _log(engine, row, attempt)


@retrying
def _log(engine: Engine, row: dict[str, Any], attempt: int | None) -> None:
    with writing(engine) as connection:
        if attempt is not None:
            require_lease(connection, row["job_id"], attempt)
        connection.execute(insert_once(connection, table).values(**row, at=DatabaseClock()))


@retrying
def events(engine: Engine, job_id: int, kind: str | None = None) -> list[Event]:
    """The job's entries, or those of one kind, in the order they were added."""
    chosen = select(table.c.at, table.c.kind, table.c.data).where(table.c.job_id == job_id)
    if kind is not None:
        chosen = chosen.where(table.c.kind == kind)
    with engine.connect() as connection:
        return [Event(*row) for row in connection.execute(chosen.order_by(table.c.id))]


@retrying
def count_events(engine: Engine, job_id: int, kind: str) -> int:
    """How many entries of a kind there are: how often the test split was opened, say."""
    counted = select(func.count()).select_from(table).where(table.c.job_id == job_id, table.c.kind == kind)
    with engine.connect() as connection:
        return connection.scalar(counted) or 0
