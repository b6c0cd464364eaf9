"""The jobs someone submitted: their states, and who holds which by a lease.

A job is queued until a process claims it. The claim gives the process a lease, which it renews while it
works, and an attempt number, which is one higher than the last. Everything the holder writes names that
number; once another process has claimed the job, whose lease had run out, the older number is refused
(`LeaseLost`). So a process that slept through its lease may waste its own work but cannot spoil the work of
its successor.

    queued -> running -> done | failed | cancelled | interrupted
    interrupted | failed | cancelled -> queued

Leases run by the database's clock (`optimizer.tables.DatabaseClock`); no machine's own clock matters. A lease
should be longer than an outage of the database that the holder is to survive (`optimizer.database.PATIENCE`).
Every function waits for a database that is away and may be repeated after a lost answer.
"""

import difflib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    and_,
    case,
    func,
    or_,
    select,
    true,
    update,
)

from optimizer.database import insert_once, retrying, writing
from optimizer.errors import InputError, JobFailed
from optimizer.examples import LedgerEntry, insert_entries
from optimizer.owners import is_gone
from optimizer.tables import NAME_LENGTH, DatabaseClock, jobs

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
_NAMES_SHOWN = 20


class LeaseLost(JobFailed):
    """Another process took the job over, or it was ended meanwhile: stop, and write nothing more for it."""


@dataclass(frozen=True)
class Job:
    """One row. `spec`, `plan`, `result`: plain data. Times: UTC. `lease_until`: seconds since 1970."""

    id: int
    name: str
    spec: Any
    plan: Any
    folder: str
    state: State
    cancel_requested: bool
    attempt: int
    owner: str | None
    lease_until: float | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    result: Any
    submitted_by: str


def create_job(
    engine: Engine,
    name: str,
    spec: Mapping[str, Any],
    plan: Mapping[str, Any],
    folder: str,
    submitted_by: str = "",
    examples: Sequence[LedgerEntry] = (),
) -> Job:
    """Put a job in the queue, in one transaction with the ledger of its examples.

    Raises `InputError` where the name is taken, empty or longer than 200 characters.
    """
    if not 0 < len(name) <= NAME_LENGTH or "\x00" in name:
        raise InputError(
            f"A job's name must have 1 to {NAME_LENGTH} characters, no NUL, but {name[:40]!r} has {len(name)}."
        )
    values: dict[str, Any] = {
        "name": name,
        "spec": spec,
        "plan": plan,
        "folder": folder,
        "submitted_by": submitted_by,
    }
    return _create(engine, values, list(examples), uuid.uuid4().hex)


@retrying
def _create(engine: Engine, values: dict[str, Any], examples: list[LedgerEntry], write_id: str) -> Job:
    with writing(engine) as connection:
        fresh = {"state": "queued", "cancel_requested": False, "attempt": 0, "created_at": DatabaseClock()}
        added = insert_once(connection, jobs).values(**values, **fresh, write_id=write_id)
        new_id = connection.scalar(added.returning(jobs.c.id))
        row = connection.execute(select(jobs).where(jobs.c.name == values["name"])).one()
        if row.write_id != write_id:
            raise InputError(
                f"A job's name must be unused, but {row.name!r} is {row.state}. Go on with that job by "
                f"`mergeopt resume {row.name}`, or submit this one under another name."
            )
        if new_id is not None:
            insert_entries(connection, new_id, examples)
        return _job(row)


@retrying
def get_job(engine: Engine, name: str | int) -> Job:
    """The job of that name, or else of that id. For an unknown one, `InputError` lists the names."""
    with engine.connect() as connection:
        return _job(_find(connection, name, select(jobs)))


@retrying
def list_jobs(engine: Engine, state: State | None = None) -> list[Job]:
    """All jobs, or those in one state, in the order they were submitted."""
    chosen = true() if state is None else jobs.c.state == state
    with engine.connect() as connection:
        return [_job(row) for row in connection.execute(select(jobs).where(chosen).order_by(jobs.c.id))]


def claim_next(engine: Engine, owner: str, lease_seconds: float) -> Job | None:
    """Take the oldest queued job, or else one whose holder let its lease run out; None for neither."""
    return _claim_next(engine, owner, lease_seconds, uuid.uuid4().hex)


@retrying
def _claim_next(engine: Engine, owner: str, lease_seconds: float, write_id: str) -> Job | None:
    waiting = (
        select(jobs.c.id)
        .where(or_(jobs.c.state == "queued", _expired()))
        .order_by(case((jobs.c.state == "queued", 0), else_=1), jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
    with writing(engine) as connection:
        mine = connection.execute(select(jobs).where(jobs.c.write_id == write_id)).one_or_none()
        if mine is not None:
            return _job(mine)
        found = connection.scalar(waiting)
        return None if found is None else _take(connection, found, owner, lease_seconds, write_id)


def claim(engine: Engine, name: str | int, owner: str, lease_seconds: float) -> Job:
    """Take this very job, to run or resume it.

    Allowed where it is queued, interrupted or failed, where its holder's lease has run out, and where its
    holder was a process of this machine that is dead. Raises `InputError` otherwise, saying who holds it and
    for how long.
    """
    return _claim(engine, name, owner, lease_seconds, uuid.uuid4().hex)


@retrying
def _claim(engine: Engine, name: str | int, owner: str, lease_seconds: float, write_id: str) -> Job:
    with writing(engine) as connection:
        row = _find(connection, name, _for_update())
        if row.write_id == write_id:
            return _job(row)
        if row.state == "done":
            raise InputError(f"A job that is run must not be finished, but {row.name!r} is done. {_after(row)}")
        if row.state == "cancelled":
            raise InputError(f"Job {row.name!r} was cancelled. Put it back with `mergeopt resume {row.name}`.")
        _refuse_if_held(row)
        return _take(connection, row.id, owner, lease_seconds, write_id)


def _take(connection: Connection, job_id: int, owner: str, lease_seconds: float, write_id: str) -> Job:
    taken = (
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            state="running",
            # A request to cancel outlives the holder it was meant for, but not a resume.
            cancel_requested=and_(jobs.c.state == "running", jobs.c.cancel_requested),
            attempt=jobs.c.attempt + 1,
            owner=owner,
            lease_until=DatabaseClock() + lease_seconds,
            started_at=func.coalesce(jobs.c.started_at, DatabaseClock()),
            finished_at=None,
            error=None,
            result=None,
            write_id=write_id,
        )
        .returning(jobs)
    )
    return _job(connection.execute(taken).one())


@retrying
def renew(engine: Engine, job_id: int, owner: str, attempt: int, lease_seconds: float) -> bool:
    """Extend the lease from now on. False means that it is lost: the caller must stop working on the job."""
    held = and_(jobs.c.owner == owner, jobs.c.attempt == attempt, jobs.c.state == "running")
    extended = update(jobs).where(jobs.c.id == job_id, held).values(lease_until=DatabaseClock() + lease_seconds)
    with writing(engine) as connection:
        return connection.execute(extended).rowcount == 1


@retrying
def finish(
    engine: Engine,
    job_id: int,
    attempt: int,
    state: Literal["done", "failed", "cancelled"],
    result: Mapping[str, Any] | None = None,
    error: str | None = None,
) -> Job:
    """End the job. `result` is plain data, `error` says why it failed. An older attempt: `LeaseLost`."""
    with writing(engine) as connection:
        row = connection.execute(_for_update().where(jobs.c.id == job_id)).one()
        if row.attempt == attempt and row.state == state:
            return _job(row)
        _refuse_unless_current(row, attempt)
        return _end(connection, row, state, result=result, error=_storable(error))


@retrying
def release(engine: Engine, job_id: int, attempt: int, error: str | None = None) -> Job:
    """Give the job back unfinished: interrupted, or cancelled where that was asked for.

    Raises `LeaseLost` for an older attempt.
    """
    with writing(engine) as connection:
        row = connection.execute(_for_update().where(jobs.c.id == job_id)).one()
        if row.attempt == attempt and row.state in ("interrupted", "cancelled"):
            return _job(row)
        _refuse_unless_current(row, attempt)
        return _end(connection, row, "cancelled" if row.cancel_requested else "interrupted", error=_storable(error))


@retrying
def request_cancel(engine: Engine, name: str | int) -> Job:
    """Cancel a job nobody works on; ask the holder of one that is running to stop.

    Raises `InputError` for a job that is done or failed.
    """
    with writing(engine) as connection:
        row = _find(connection, name, _for_update())
        if row.state in ("done", "failed"):
            raise InputError(f"A job that is cancelled must not have ended, but {row.name!r} is {row.state}.")
        if row.state == "cancelled":
            return _job(row)
        if row.state != "running" or row.expired or is_gone(row.owner):
            return _end(connection, row, "cancelled")
        asked = update(jobs).where(jobs.c.id == row.id).values(cancel_requested=True).returning(jobs)
        return _job(connection.execute(asked).one())


@retrying
def cancel_requested(engine: Engine, job_id: int) -> bool:
    """Whether someone asked for the job to be cancelled."""
    with engine.connect() as connection:
        return bool(connection.scalar(select(jobs.c.cancel_requested).where(jobs.c.id == job_id)))


@retrying
def requeue(engine: Engine, name: str | int) -> Job:
    """Put a job that was interrupted, failed or cancelled back in the queue, where what it recorded is kept.

    Raises `InputError` for a job that is done or held by another process.
    """
    with writing(engine) as connection:
        row = _find(connection, name, _for_update())
        if row.state == "queued":
            return _job(row)
        if row.state == "done":
            raise InputError(f"A job that is resumed must not be finished, but {row.name!r} is done. {_after(row)}")
        _refuse_if_held(row)
        return _end(connection, row, "queued")


@retrying
def record_once(engine: Engine, table: Table, row: Mapping[str, Any], key: Sequence[str], write_id: str) -> bool:
    """Add a row to a table of the job's records; False where one with this key is there already.

    Raises `LeaseLost`, and adds nothing, where the row's `attempt` does not hold its job any more. `write_id` is the
    caller's own: after a lost answer, a repeated call knows its row by it.
    """
    same = [table.c[name] == row[name] for name in key]
    with writing(engine) as connection:
        require_lease(connection, row["job_id"], row["attempt"])
        connection.execute(insert_once(connection, table).values(**row, created_at=DatabaseClock(), write_id=write_id))
        return connection.scalar(select(table.c.write_id).where(*same)) == write_id


def replace_plan(engine: Engine, job_id: int, attempt: int, plan: Mapping[str, Any]) -> None:
    """Keep what was added to a job's plan. Raises `LeaseLost`, and keeps nothing, where `attempt` does not hold it."""
    _replace_plan(engine, job_id, attempt, plan)


@retrying
def _replace_plan(engine: Engine, job_id: int, attempt: int, plan: Mapping[str, Any]) -> None:
    with writing(engine) as connection:
        require_lease(connection, job_id, attempt)
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(plan=plan))


def require_lease(connection: Connection, job_id: int, attempt: int) -> None:
    """Raise `LeaseLost` unless this attempt holds the job, and keep it so until the transaction ends.

    The row is locked against claims (FOR SHARE, or the write lock of SQLite); other readers of it go on.
    """
    row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update(read=True)).one()
    _refuse_unless_current(row, attempt)


def _expired() -> ColumnElement[bool]:
    return and_(jobs.c.state == "running", jobs.c.lease_until < DatabaseClock())


def _for_update() -> Select[Any]:
    """A job's row with `expired` and `seconds_left` of its lease, locked until the transaction ends."""
    lease = (_expired().label("expired"), (jobs.c.lease_until - DatabaseClock()).label("seconds_left"))
    return select(jobs, *lease).with_for_update(key_share=True)


def _find(connection: Connection, name: str | int, rows: Select[Any]) -> Row[Any]:
    row = connection.execute(rows.where(jobs.c.name == str(name))).one_or_none()
    if row is None and str(name).isdecimal() and len(str(name)) < 10:
        row = connection.execute(rows.where(jobs.c.id == int(name))).one_or_none()
    if row is None:
        raise InputError(_unknown(str(name), list(connection.scalars(select(jobs.c.name).order_by(jobs.c.id.desc())))))
    return row


def _unknown(name: str, names: list[str]) -> str:
    if not names:
        return f"There is no job {name!r}, nor any other yet. Submit one with `mergeopt submit`."
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    more = f" and {len(names) - _NAMES_SHOWN} older ones" if len(names) > _NAMES_SHOWN else ""
    return f"There is no job {name!r}.{hint} The jobs are: {', '.join(names[:_NAMES_SHOWN])}{more}."


def _refuse_if_held(row: Row[Any]) -> None:
    if row.state != "running" or row.expired or is_gone(row.owner):
        return
    raise InputError(
        f"Only one process may work on a job, but {row.name!r} is held by {row.owner} (attempt "
        f"{row.attempt}); its lease runs for another {row.seconds_left:.0f} s. Wait for it, or stop it with "
        f"`mergeopt cancel {row.name}`."
    )


def _refuse_unless_current(row: Row[Any], attempt: int) -> None:
    if row.attempt != attempt or row.state != "running":
        raise LeaseLost(
            f"Only the holder of job {row.name!r} may write for it, but attempt {attempt} lost it: the job "
            f"is {row.state} at attempt {row.attempt}. This process must stop; what it recorded stands."
        )


def _end(connection: Connection, row: Row[Any], state: State, *, result: Any = None, error: str | None = None) -> Job:
    ended = (
        update(jobs)
        .where(jobs.c.id == row.id)
        .values(
            state=state,
            cancel_requested=False,
            owner=None,
            lease_until=None,
            finished_at=DatabaseClock() if state in ("done", "failed", "cancelled") else None,
            result=result,
            error=error,
        )
        .returning(jobs)
    )
    return _job(connection.execute(ended).one())


def _after(row: Row[Any]) -> str:
    return f"Look at it with `mergeopt show {row.name}`, or submit the job under another name."


def _job(row: Row[Any]) -> Job:
    return Job(**{field.name: row._mapping[field.name] for field in fields(Job)})


def _storable(text: str | None) -> str | None:
    """What both databases can keep: no NUL, no half of a surrogate pair (some paths have them)."""
    if text is None:
        return None
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
