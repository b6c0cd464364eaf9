"""How much of the service a user may have at a time: jobs that run, and workers of all of them together."""

from dataclasses import dataclass

from sqlalchemy import Engine, delete, insert, select

from optimizer.audit import note
from optimizer.database import retrying, writing
from optimizer.errors import InputError
from optimizer.tables import limits

EVERYBODY = "*"


@dataclass(frozen=True)
class Limit:
    """One user's limits, None where there is none. The user `*` stands for all who have no row of their own."""

    user: str
    workers: int | None
    jobs: int | None


@retrying
def set_limit(engine: Engine, user: str, workers: int | None, jobs: int | None, keep: bool = False) -> Limit:
    """Give a user these limits in place of any before; with neither, the user's row goes.

    With `keep`, a limit that is not given stays as it was. Raises `InputError` for a name that is empty or too long and
    for limits below zero.
    """
    if not 0 < len(user) <= 200:
        raise InputError(f"A user's name must have 1 to 200 characters, but {user[:40]!r} has {len(user)}.")
    for name, value, least in (("workers", workers, 1), ("jobs", jobs, 0)):
        if value is not None and value < least:
            raise InputError(f"A limit on {name} must be {least} or more, but is {value}; leave it out for no limit.")
    with writing(engine) as connection:
        before = select(limits.c.workers, limits.c.jobs).where(limits.c.user_name == user).with_for_update()
        if keep and (had := connection.execute(before).one_or_none()) is not None:
            workers, jobs = had.workers if workers is None else workers, had.jobs if jobs is None else jobs
        connection.execute(delete(limits).where(limits.c.user_name == user))
        if workers is not None or jobs is not None:
            connection.execute(insert(limits).values(user_name=user, workers=workers, jobs=jobs))
        note(connection, "limited", None, user=user, workers=workers, jobs=jobs)
    return Limit(user, workers, jobs)


@retrying
def all_limits(engine: Engine) -> list[Limit]:
    """Every user that has limits, by name."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(limits.c.user_name, limits.c.workers, limits.c.jobs).order_by(limits.c.user_name)
        )
        return [Limit(*row) for row in rows]
