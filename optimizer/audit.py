"""Who did what: one row for each thing that a person or a controller did to the service's jobs.

A row is written in the transaction of the deed itself, so neither is there without the other. Who it was is what the
machine says, or `MERGEOPT_USER`: a record for people who trust one another, no proof of identity.
"""

import getpass
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from optimizer.database import retrying, writing
from optimizer.tables import NAME_LENGTH, DatabaseClock, audit, jobs

QUEUED_BY = ("submitted", "resume", "retry", "given back", "died")
"""The deeds after which a job is in the queue, unless it was asked to stop."""


@dataclass(frozen=True)
class Deed:
    """One row. `at` is UTC, `job` the job's name or None, `data` plain data."""

    at: datetime
    who: str
    host: str
    action: str
    job: str | None
    data: Any


def user() -> str:
    """Who runs this process: `MERGEOPT_USER`, which containers set, or the operating system's name."""
    try:
        name = os.environ.get("MERGEOPT_USER") or getpass.getuser()
    except (KeyError, OSError):  # no entry for this user id, as in some containers
        return "unknown"
    # It is printed on other people's terminals.
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:NAME_LENGTH]


def note(connection: Connection, action: str, job_id: int | None = None, **data: Any) -> None:
    """Write a deed down, as part of the caller's transaction."""
    row = {"who": user(), "host": socket.gethostname(), "action": action, "job_id": job_id, "data": data}
    connection.execute(insert(audit).values(**row, at=DatabaseClock()))


@retrying
def note_alone(engine: Engine, action: str, job_id: int | None, data: Mapping[str, Any]) -> None:
    """Write down a deed outside the database, such as an export; rather twice than not at all."""
    with writing(engine) as connection:
        note(connection, action, job_id, **data)


@retrying
def deeds(engine: Engine, job_id: int | None = None, last: int | None = None) -> list[Deed]:
    """The deeds in the order they were done: those to one job, or all; the `last` so many."""
    chosen = (
        select(audit.c.at, audit.c.who, audit.c.host, audit.c.action, jobs.c.name, audit.c.data)
        .outerjoin(jobs, jobs.c.id == audit.c.job_id)
        .order_by(audit.c.id.desc())
        .limit(last)
    )
    if job_id is not None:
        chosen = chosen.where(audit.c.job_id == job_id)
    with engine.connect() as connection:
        rows: Sequence[Any] = connection.execute(chosen).all()
    return [Deed(*row) for row in reversed(rows)]
