"""What people ask of jobs from afar: cancel, pause, resume, retry, change. Each is written to the audit trail."""

from typing import Any, Literal

from sqlalchemy import Connection, Engine, Row, update

from optimizer.audit import note
from optimizer.database import retrying, writing
from optimizer.errors import InputError
from optimizer.jobs import STOPPED, Job, Request, end, find, for_update, job_of, refusal, refuse_if_held
from optimizer.owners import is_gone
from optimizer.tables import jobs


def request_cancel(engine: Engine, name: str | int) -> Job:
    """Cancel a job nobody works on; ask the holder of one that is running to stop.

    Raises `InputError` for a job that is done or failed.
    """
    return _request(engine, name, "cancel")


def request_pause(engine: Engine, name: str | int) -> Job:
    """Pause a job: take it from the queue, or ask its holder to stop. What it recorded stays; `resume` goes on.

    Raises `InputError` for a job that has ended.
    """
    return _request(engine, name, "pause")


@retrying
def _request(engine: Engine, name: str | int, request: Request) -> Job:
    with writing(engine) as connection:
        row = find(connection, name, for_update())
        stopped = STOPPED[request]
        if row.state == stopped:
            return job_of(row)
        ended = ("done", "failed") if request == "cancel" else ("done", "failed", "cancelled")
        if row.state in ended:
            raise InputError(refusal(f"A job that is {stopped} must not have ended", row))
        note(connection, request, row.id)
        if row.state != "running" or row.expired or is_gone(row.owner):
            return end(connection, row, stopped)
        asked = update(jobs).where(jobs.c.id == row.id).values(request=request).returning(jobs)
        return job_of(connection.execute(asked).one())


@retrying
def requeue(
    engine: Engine, name: str | int, served: bool | None = None, action: Literal["resume", "retry"] = "resume"
) -> Job:
    """Put a job that stopped back where it can be claimed; what it recorded is kept.

    `served` says for whom: controllers, or a process that claims it by name; None leaves that as it was. Raises
    `InputError` for a job that is done or held by another process.
    """
    with writing(engine) as connection:
        row = find(connection, name, for_update())
        if row.state == "done":
            raise InputError(refusal("A job that is resumed must not be finished", row))
        if row.state != "queued":
            refuse_if_held(row)
            end(connection, row, "queued")
        served = row.served if served is None else served
        if row.state != "queued" or served != row.served:
            note(connection, action, row.id)
        return _change(connection, row, deaths=0, not_before=None, served=served)


@retrying
def retry(engine: Engine, name: str | int) -> Job:
    """Put a failed job back in the queue. Raises `InputError` for one in any other state."""
    with engine.connect() as connection:
        row = find(connection, name, for_update())
    if row.state != "failed":
        raise InputError(refusal("A job that is retried must have failed", row))
    return requeue(engine, name, served=True, action="retry")


@retrying
def change(engine: Engine, name: str | int, priority: int | None, workers: int | None) -> Job:
    """Give a job that has not ended another priority or another limit on its workers; a running one heeds it too.

    Raises `InputError` for a job that has ended.
    """
    given: dict[str, Any] = {"priority": priority, "most_workers": workers}
    changes = {key: value for key, value in given.items() if value is not None}
    with writing(engine) as connection:
        row = find(connection, name, for_update())
        if row.state in ("done", "failed", "cancelled"):
            raise InputError(refusal("A job that is changed must not have ended", row))
        note(connection, "change", row.id, **changes)
        return _change(connection, row, **changes)


def _change(connection: Connection, row: Row[Any], **values: Any) -> Job:
    return job_of(connection.execute(update(jobs).where(jobs.c.id == row.id).values(**values).returning(jobs)).one())
