"""The queue: which job a controller takes next.

Jobs whose holder let its lease run out come first, since they had their turn. Then the queue: the highest priority
first, of equal ones that of whoever has the fewest jobs running, of those the oldest. A user's limit on jobs that run
at a time (`optimizer.limits`) is kept exactly: claims take turns.
"""

import time
import uuid
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, and_, case, false, func, or_, select, text

from optimizer.database import retrying, writing
from optimizer.jobs import Job, Request, State, expired, job_of, take
from optimizer.limits import EVERYBODY
from optimizer.tables import DatabaseClock, jobs, limits

_SHORTEST_LEASE = 10.0
_LONGEST_PAUSE = 900.0  # no job rests as long: an end beyond it is from before the database's clock was set back
_CLAIM_LOCK = int.from_bytes(b"mo-claim")


@dataclass(frozen=True)
class Listed:
    """A job in a listing: everything short about it. Times: UTC. `lease_left`: seconds, negative where it ran out."""

    id: int
    name: str
    state: State
    served: bool
    priority: int
    most_workers: int | None
    request: Request | None
    attempt: int
    deaths: int
    owner: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    folder: str
    error: str | None
    submitted_by: str
    lease_left: float | None = None


def claim_next(engine: Engine, owner: str, lease_seconds: float, abandoned: bool = True) -> Job | None:
    """Take the job that is next; None where there is none to take.

    Without `abandoned`, jobs whose lease ran out are left: their holders may only be waiting for a database that was
    away. They are left, too, where this call has waited for it.
    """
    return _claim_next(engine, owner, lease_seconds, abandoned, time.monotonic(), uuid.uuid4().hex)


@retrying
def _claim_next(
    engine: Engine, owner: str, lease_seconds: float, abandoned: bool, asked: float, write_id: str
) -> Job | None:
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer at a time in any case
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CLAIM_LOCK})
        abandoned = abandoned and time.monotonic() - asked < max(lease_seconds, _SHORTEST_LEASE) / 2
        mine = connection.execute(select(jobs).where(jobs.c.write_id == write_id, jobs.c.owner == owner)).one_or_none()
        if mine is not None:
            return job_of(mine)
        count = select(jobs.c.submitted_by, func.count()).where(jobs.c.state == "running")
        running: dict[str, int] = dict(connection.execute(count.group_by(jobs.c.submitted_by)).tuples().all())
        most = dict(connection.execute(select(limits.c.user_name, limits.c.jobs)).tuples().all())
        found = connection.scalar(
            select(jobs.c.id)
            .where(jobs.c.served, or_(_in_turn(running, most), _left(lease_seconds) if abandoned else false()))
            .order_by(
                case((jobs.c.state == "running", 0), else_=1),
                jobs.c.priority.desc(),
                case(running, value=jobs.c.submitted_by, else_=0) if running else jobs.c.id,
                jobs.c.id,
            )
            .limit(1)
            .with_for_update(skip_locked=True, key_share=True)
        )
        return None if found is None else take(connection, found, owner, lease_seconds, write_id)


def _in_turn(running: dict[str, int], most: dict[str, int | None]) -> ColumnElement[bool]:
    """Queued, its pause over, and its user below the limit. `most` is by user, `EVERYBODY` for those without a row."""
    usual = most.get(EVERYBODY)
    full = [user for user in {**running, **most} if _reached(running.get(user, 0), most.get(user, usual))]
    now = DatabaseClock()
    waited = or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now, jobs.c.not_before > now + _LONGEST_PAUSE)
    allowed: ColumnElement[bool] = jobs.c.submitted_by.not_in(full)
    if usual == 0:  # and no row of their own
        allowed = and_(allowed, jobs.c.submitted_by.in_([user for user in most if user != EVERYBODY]))
    return and_(jobs.c.state == "queued", waited, allowed)


def _left(lease_seconds: float) -> ColumnElement[bool]:
    """Held by nobody who renews the lease: it has run out, or is longer than any that is given.

    The latter shows that the database's clock was set back; whoever lives puts it right within seconds.
    """
    longest = DatabaseClock() + 2 * max(lease_seconds, _SHORTEST_LEASE)
    return or_(expired(), and_(jobs.c.state == "running", jobs.c.lease_until > longest))


def _reached(running: int, most: int | None) -> bool:
    return most is not None and running >= most


@retrying
def list_jobs(
    engine: Engine, state: State | None = None, user: str | None = None, last: int | None = None
) -> list[Listed]:
    """Jobs in the order they were submitted: all, or those in one state, of one user, the `last` so many."""
    names = [field.name for field in fields(Listed) if field.name != "lease_left"]
    left = case((jobs.c.state == "running", jobs.c.lease_until - DatabaseClock()))
    chosen = select(*(jobs.c[name] for name in names), left).order_by(jobs.c.id.desc()).limit(last)
    if state is not None:
        chosen = chosen.where(jobs.c.state == state)
    if user is not None:
        chosen = chosen.where(jobs.c.submitted_by == user)
    with engine.connect() as connection:
        return [Listed(*row) for row in reversed(connection.execute(chosen).all())]


@retrying
def count_jobs(engine: Engine) -> dict[State, int]:
    """How many jobs are in each state; states without any are absent."""
    with engine.connect() as connection:
        return counted(connection)


def counted(connection: Connection) -> dict[State, int]:
    """As `count_jobs`, on a connection of the caller's."""
    by_state = select(jobs.c.state, func.count()).group_by(jobs.c.state)
    return dict(connection.execute(by_state).tuples().all())
