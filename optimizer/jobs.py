"""The jobs someone submitted: their states, and who holds which by a lease.

A job is queued until a process claims it: a controller (`optimizer.queue`), or `mergeopt run`. The claim gives the
process a lease, which it renews while it works, and an attempt number, which is one higher than the last. Everything
the holder writes names that number; once another process has claimed the job, whose lease had run out, the older number
is refused (`LeaseLost`). So a process that slept through its lease may waste its own work but cannot spoil the work of
its successor.

    queued -> running -> done | failed | cancelled | paused | interrupted | queued
    paused | interrupted | failed | cancelled -> queued

A job is `paused` where someone asked for it, and `interrupted` where whoever carried it out was stopped or found that
something on its machine is not in order; it is `queued` again where a controller gave it back. Leases run by the
database's clock (`optimizer.tables.DatabaseClock`); no machine's own clock matters. What people ask of jobs is in
`optimizer.requests`. Every function waits for a database that is away and may be repeated after a lost answer.
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
    exists,
    func,
    or_,
    select,
    update,
)

from optimizer.audit import note
from optimizer.database import insert_once, retrying, writing
from optimizer.errors import InputError, JobFailed
from optimizer.examples import LedgerEntry, insert_entries
from optimizer.logs import without_secrets
from optimizer.owners import is_gone
from optimizer.tables import NAME_LENGTH, DatabaseClock, gradients, jobs, outcomes

State = Literal["queued", "running", "paused", "done", "failed", "cancelled", "interrupted"]
Request = Literal["cancel", "pause"]
_NAMES_SHOWN = 20
_NAMES_LOOKED_AT = 1000


STOPPED: dict[str | None, State] = {"cancel": "cancelled", "pause": "paused"}
"""What a job is once its holder has done as it was asked."""


@dataclass(frozen=True)
class Glance:
    """What changes of a job while it is carried out."""

    state: State
    attempt: int
    request: Request | None


@dataclass(frozen=True)
class Renewed:
    """A lease that was extended, and what its holder is asked to do meanwhile."""

    request: Request | None


class LeaseLost(JobFailed):
    """Another process took the job over, or it was ended meanwhile: stop, and write nothing more for it."""


@dataclass(frozen=True)
class Job:
    """One row. `spec`, `plan`, `result`: plain data. Times: UTC. `lease_until`, `not_before`: seconds since 1970.

    `served`: for controllers to take. `deaths`: attempts in a row that ended without a word and had recorded nothing.
    `most_workers`: the limit set after submission, None where the job file's own counts.
    """

    id: int
    name: str
    spec: Any
    plan: Any
    folder: str
    state: State
    served: bool
    priority: int
    most_workers: int | None
    request: Request | None
    attempt: int
    deaths: int
    not_before: float | None
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
    priority: int = 0,
    served: bool = True,
) -> Job:
    """Put a job in the queue, in one transaction with the ledger of its examples.

    One that is not `served` waits for a process of its own, which claims it by name. Raises `InputError` where the name
    is taken, empty or longer than 200 characters.
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
        "priority": priority,
        "served": served,
    }
    return _create(engine, values, list(examples), uuid.uuid4().hex)


@retrying
def _create(engine: Engine, values: dict[str, Any], examples: list[LedgerEntry], write_id: str) -> Job:
    with writing(engine) as connection:
        fresh = {"state": "queued", "attempt": 0, "deaths": 0, "created_at": DatabaseClock()}
        added = insert_once(connection, jobs).values(**values, **fresh, write_id=write_id)
        new_id = connection.scalar(added.returning(jobs.c.id))
        row = connection.execute(select(jobs).where(jobs.c.name == values["name"])).one()
        if row.write_id != write_id:
            raise InputError(refusal("A job's name must be unused (give this one another with --name)", row))
        if new_id is not None:
            insert_entries(connection, new_id, examples)
            note(connection, "submitted", new_id, served=values["served"], priority=values["priority"])
        return job_of(row)


@retrying
def get_job(engine: Engine, name: str | int) -> Job:
    """The job of that name, or else of that id. For an unknown one, `InputError` lists the names."""
    with engine.connect() as connection:
        return job_of(find(connection, name, select(jobs)))


@retrying
def glance(engine: Engine, job_id: int) -> Glance:
    """A look at the job of that id without the rest of its row, which is long."""
    with engine.connect() as connection:
        short = select(jobs.c.state, jobs.c.attempt, jobs.c.request).where(jobs.c.id == job_id)
        return Glance(*connection.execute(short).one())


@retrying
def find_job(engine: Engine, name: str) -> Job | None:
    """The job of that very name, None where there is none."""
    with engine.connect() as connection:
        row = connection.execute(select(jobs).where(jobs.c.name == name)).one_or_none()
    return None if row is None else job_of(row)


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
        row = find(connection, name, for_update())
        if row.write_id == write_id:
            return job_of(row)
        if row.state in ("done", "cancelled", "paused"):
            raise InputError(refusal("A job that is run must be neither done, cancelled nor paused", row))
        refuse_if_held(row)
        return take(connection, row.id, owner, lease_seconds, write_id)


def take(connection: Connection, job_id: int, owner: str, lease_seconds: float, write_id: str) -> Job:
    """Make the job this owner's, in the caller's transaction, which has looked whether that is allowed."""
    taken = (
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            state="running",
            # What was asked of a holder outlives it, but not a resume.
            request=case((jobs.c.state == "running", jobs.c.request)),
            attempt=jobs.c.attempt + 1,
            # A holder that let its lease run out has ended without a word.
            deaths=case((jobs.c.state == "running", deaths_with_this()), else_=jobs.c.deaths),
            not_before=None,
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
    job = job_of(connection.execute(taken).one())
    note(connection, "taken", job_id, attempt=job.attempt, owner=owner)
    return job


def deaths_with_this() -> ColumnElement[int]:
    """The job's deaths in a row, if its attempt ends now without a word: one more, or none where it got somewhere."""
    made = (exists().where(t.c.job_id == jobs.c.id, t.c.attempt == jobs.c.attempt) for t in (outcomes, gradients))
    return case((or_(*made), 0), else_=jobs.c.deaths + 1)


@retrying
def adopt(engine: Engine, job_id: int, attempt: int, owner: str, lease_seconds: float) -> Job:
    """Hold an attempt that a controller has begun for this process. Raises `LeaseLost` where it is over by now."""
    with writing(engine) as connection:
        require_lease(connection, job_id, attempt)
        held = {"owner": owner, "lease_until": DatabaseClock() + lease_seconds}
        return job_of(connection.execute(update(jobs).where(jobs.c.id == job_id).values(**held).returning(jobs)).one())


@retrying
def renew(engine: Engine, job_id: int, owner: str, attempt: int, lease_seconds: float) -> Renewed | None:
    """Extend the lease from now on. None means that it is lost: the caller must stop working on the job."""
    held = and_(jobs.c.owner == owner, jobs.c.attempt == attempt, jobs.c.state == "running")
    extended = update(jobs).where(jobs.c.id == job_id, held).values(lease_until=DatabaseClock() + lease_seconds)
    with writing(engine) as connection:
        row = connection.execute(extended.returning(jobs.c.request)).one_or_none()
    return None if row is None else Renewed(row.request)


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
        row = connection.execute(for_update().where(jobs.c.id == job_id)).one()
        if row.attempt == attempt and row.state == state:
            return job_of(row)
        _refuse_unless_current(row, attempt)
        note(connection, state, job_id, attempt=attempt, **({"error": storable(error)} if error else {}))
        return end(connection, row, state, result=result, error=storable(error))


@retrying
def release(
    engine: Engine,
    job_id: int,
    attempt: int,
    error: str | None = None,
    state: Literal["interrupted", "queued"] = "interrupted",
) -> Job:
    """Give the job back unfinished: in this state, or cancelled or paused where that was asked for.

    Raises `LeaseLost` for an older attempt.
    """
    with writing(engine) as connection:
        row = connection.execute(for_update().where(jobs.c.id == job_id)).one()
        if row.attempt == attempt and row.state in ("interrupted", "cancelled", "paused", "queued"):
            return job_of(row)
        _refuse_unless_current(row, attempt)
        given_back = STOPPED.get(row.request, state)
        note(connection, "given back" if given_back == "queued" else given_back, job_id, attempt=attempt)
        return end(connection, row, given_back, error=storable(error))


@retrying
def record_death(engine: Engine, job_id: int, attempt: int, reason: str, pause: float) -> Job:
    """Put a job whose attempt ended without a word back in the queue, for others to take.

    They may in `pause` seconds, and at once where the attempt had recorded something.
    Raises `LeaseLost` where the attempt was not the last one, or had ended the job itself.
    """
    with writing(engine) as connection:
        row = connection.execute(for_update().where(jobs.c.id == job_id)).one()
        _refuse_unless_current(row, attempt)
        deaths = connection.scalar(select(deaths_with_this()).where(jobs.c.id == job_id))
        state = STOPPED.get(row.request, "queued")
        note(connection, "died", job_id, attempt=attempt, reason=storable(reason))
        later = {"deaths": deaths, "not_before": DatabaseClock() + (pause if deaths else 0.0)}
        end(connection, row, state, error=storable(reason))
        return job_of(connection.execute(update(jobs).where(jobs.c.id == job_id).values(**later).returning(jobs)).one())


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
    short = select(jobs.c.name, jobs.c.attempt, jobs.c.state)  # the rest of a row is long
    row: Any = connection.execute(short.where(jobs.c.id == job_id).with_for_update(read=True)).one()
    _refuse_unless_current(row, attempt)


def expired() -> ColumnElement[bool]:
    """Whether a job's holder let its lease run out."""
    return and_(jobs.c.state == "running", jobs.c.lease_until < DatabaseClock())


def for_update() -> Select[Any]:
    """A job's row with `expired` and `seconds_left` of its lease, locked until the transaction ends."""
    lease = (expired().label("expired"), (jobs.c.lease_until - DatabaseClock()).label("seconds_left"))
    return select(jobs, *lease).with_for_update(key_share=True)


def find(connection: Connection, name: str | int, rows: Select[Any]) -> Row[Any]:
    """The row of the job of that name, or else of that id. For an unknown one, `InputError` lists the names."""
    row = connection.execute(rows.where(jobs.c.name == str(name))).one_or_none()
    if row is None and str(name).isdecimal() and len(str(name)) < 10:
        row = connection.execute(rows.where(jobs.c.id == int(name))).one_or_none()
    if row is None:
        newest = select(jobs.c.name).order_by(jobs.c.id.desc()).limit(_NAMES_LOOKED_AT)
        raise InputError(_unknown(str(name), list(connection.scalars(newest))))
    return row


def _unknown(name: str, names: list[str]) -> str:
    if not names:
        return f"There is no job {name!r}, nor any other yet. Submit one with `mergeopt submit`."
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    older = f"{len(names) - _NAMES_SHOWN}{'' if len(names) < _NAMES_LOOKED_AT else ' or more'}"
    more = f" and {older} older ones" if len(names) > _NAMES_SHOWN else ""
    return f"There is no job {name!r}.{hint} The jobs are: {', '.join(names[:_NAMES_SHOWN])}{more}."


def refuse_if_held(row: Row[Any]) -> None:
    """Raise `InputError` where a process holds the job, as far as one can tell from here."""
    if row.state != "running" or row.expired or is_gone(row.owner):
        return
    raise InputError(
        f"Only one process may work on a job, but {row.name!r} is held by {row.owner} (attempt "
        f"{row.attempt}), which renews its lease while it lives. Stop it first, with `mergeopt pause {row.name}` or "
        f"`mergeopt cancel {row.name}`; of a holder that is dead the lease runs out in {row.seconds_left:.0f} s."
    )


def _refuse_unless_current(row: Row[Any], attempt: int) -> None:
    if row.attempt != attempt or row.state != "running":
        raise LeaseLost(
            f"Only the holder of job {row.name!r} may write for it, but attempt {attempt} lost it: the job "
            f"is {row.state} at attempt {row.attempt}. This process must stop; what it recorded stands."
        )


def end(connection: Connection, row: Row[Any], state: State, *, result: Any = None, error: str | None = None) -> Job:
    """Take the job from whoever holds it, in the caller's transaction."""
    ended = (
        update(jobs)
        .where(jobs.c.id == row.id)
        .values(
            state=state,
            request=None,
            not_before=None,
            owner=None,
            lease_until=None,
            finished_at=DatabaseClock() if state in ("done", "failed", "cancelled") else None,
            result=result,
            error=error,
        )
        .returning(jobs)
    )
    return job_of(connection.execute(ended).one())


def refusal(rule: str, row: Row[Any]) -> str:
    """What is said where a job is not in the state that something needs."""
    return f"{rule}, but {row.name!r} is {row.state}. {next_step(row.name, row.state)}"


def next_step(name: str, state: State) -> str:
    """What people can do with a job in this state, as a sentence for errors."""
    if state == "done":
        return (
            f"Look at it with `mergeopt report {name}`, write its winner with `mergeopt export {name} DIR`, or search "
            "again by submitting the file under another name (--name)."
        )
    if state == "running":
        return (
            f"Wait for it with `mergeopt wait {name}`, or stop it with `mergeopt pause {name}` or "
            f"`mergeopt cancel {name}`."
        )
    if state == "queued":
        return (
            f"It waits: `mergeopt resume {name} --here` carries it out at once, with --queue `mergeopt serve` does so "
            "in its turn."
        )
    if state == "failed":
        return f"See why with `mergeopt show {name}`, and go on with `mergeopt retry {name}`."
    return f"Go on with it by `mergeopt resume {name}`."


def job_of(row: Row[Any]) -> Job:
    """A whole row as a `Job`."""
    return Job(**{field.name: row._mapping[field.name] for field in fields(Job)})


def storable(text: str | None) -> str | None:
    """What both databases can keep and anybody may read: no password, no NUL, no half of a surrogate pair."""
    if text is None:
        return None
    return without_secrets(text).replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
