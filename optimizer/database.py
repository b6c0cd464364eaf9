"""Reach the database: its URL, its engine, its transactions, and patience while it is away."""

import functools
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
    wait_random,
)

from optimizer import schema
from optimizer.errors import InputError, JobFailed

PATIENCE = 90.0  # seconds a call waits for a database that is away; a restart or failover takes less than a minute
_BUSY_SECONDS = 30.0  # how long SQLite waits for another process's write transaction
_IDLE_SECONDS = 20  # how long PostgreSQL lets a transaction stand still; less than a lease
_WRITES = "mergeopt_writes"
_REBUILDS = "mergeopt_rebuilds"
_FORMS = "`folder/mergeopt.db`, `sqlite:///folder/mergeopt.db` or `postgresql://USER:PASSWORD@HOST:5432/DATABASE`"
_SECRET = re.compile(r"password|secret|token", re.IGNORECASE)
# Locked by another process, disk full, or a file system that is away for a moment: primary result codes of
# SQLite.
_SQLITE_PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


class DatabaseAway(JobFailed):
    """The database did not answer for `PATIENCE` seconds. What was committed before stands."""


def normalise_url(url: str | URL) -> URL:
    """The SQLAlchemy URL of a path, a `sqlite:///path` or a `postgresql://` URL, with an absolute path.

    Raises `InputError` for anything else; the message never repeats what was given, which may hold a
    password.
    """
    if isinstance(url, str) and "://" not in url:
        url = URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # `from None`: the cause quotes parts of the URL.
        raise InputError(f"The database must be given as {_FORMS}, but this URL could not be read.") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_url(parsed)
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return _postgresql_url(parsed)
    raise InputError(f"The database must be given as {_FORMS}, but it begins with `{parsed.drivername}://`.")


def _sqlite_url(url: URL) -> URL:
    database = url.database or ""
    if url.host or database in ("", ":memory:") or database.startswith("file:"):
        raise InputError(
            "A SQLite database must be a file that several processes can open, such as "
            "`sqlite:///mergeopt.db` (three slashes before a relative path, four before an absolute one)."
        )
    return url.set(drivername="sqlite", database=os.path.abspath(os.path.expanduser(database)))


def _postgresql_url(url: URL) -> URL:
    if "@" in (url.host or ""):
        raise InputError("The database URL has more than one `@`: write `%40` for an `@` in the password.")
    password = url.query.get("password")
    if isinstance(password, str):
        # Where SQLAlchemy knows to hide it.
        url = url.difference_update_query(["password"]).set(password=url.password or password)
    return url.set(drivername="postgresql+psycopg")


def masked(url: str | URL) -> str:
    """The URL as it may be shown: secrets are replaced by `***`."""
    if isinstance(url, str) and "://" not in url:
        return url
    try:
        parsed = normalise_url(url)
    except InputError:
        return f"{str(url).split('://')[0]}://***" if isinstance(url, str) else f"{url.drivername}://***"
    shown = parsed.update_query_dict({key: "***" for key in parsed.query if _SECRET.search(key)})
    return shown.render_as_string(hide_password=True)


def engine_arguments(url: str | URL) -> dict[str, Any]:
    """What `create_engine` is given beside the URL, here and by Optuna's storage in the same database."""
    parsed = normalise_url(url)
    if parsed.drivername == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS}}
    # Without the middle two, a call to a machine that vanished would hang for a quarter of an hour; without the last,
    # what a client has locked that was cut off between two statements would stay locked for two hours.
    wanted = {
        "application_name": "mergeopt",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "tcp_user_timeout": 30_000,
        "options": f"-c idle_in_transaction_session_timeout={_IDLE_SECONDS * 1000}",
    }
    given = {key: value for key, value in wanted.items() if key not in parsed.query}
    return {"pool_pre_ping": True, "connect_args": given}


def connect(url: str | URL) -> Engine:
    """An engine for the URL; nothing is opened yet.

    SQLite: WAL, `synchronous=NORMAL`, foreign keys enforced, 30 s of patience with other writers. PostgreSQL:
    a connection is tested before it is lent, so that a restarted server is noticed before the first
    statement.
    """
    parsed = normalise_url(url)
    engine = create_engine(parsed, hide_parameters=True, **engine_arguments(parsed))
    if parsed.drivername == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver would otherwise begin transactions itself, late and never IMMEDIATE.
    connection.isolation_level = None
    # Of two processes that open a new file at once SQLite may tell one at once that it is busy, whatever the timeout.
    patient = Retrying(
        retry=retry_if_exception(_is_locked),
        wait=wait_random(0.01, 0.1),
        stop=stop_after_delay(_BUSY_SECONDS),
        reraise=True,
    )
    patient(_write_ahead, connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _write_ahead(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        connection.execute("PRAGMA journal_mode=WAL")


def _is_locked(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_REBUILDS):
        # SQLite changes a table by copying it, and would take what refers to the old one along with it. It listens to
        # this outside of transactions only.
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    writes = options.get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes. SQLite takes its write lock first, so what is read stays true to the end."""
    with engine.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


def insert_once(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that leaves a row with the same key as it is."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def retrying(function: Callable[Concatenate[Engine, _P], _R]) -> Callable[Concatenate[Engine, _P], _R]:
    """Call the function again while the database is away, with growing pauses, for up to `PATIENCE` seconds.

    The function must be one transaction or several that may be repeated: a commit can succeed and its answer
    be lost. Raises `DatabaseAway` in the end; errors that waiting cannot mend are raised at once.
    """

    @functools.wraps(function)
    def patient(engine: Engine, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return _patiently(engine, PATIENCE, lambda: function(engine, *args, **kwargs))
        except DBAPIError as error:
            if not _passes(error):
                raise
            raise DatabaseAway(
                f"The database {masked(engine.url)} did not answer for {PATIENCE:.0f} s: "
                f"{_reason(error, engine.url)}. What was recorded before stands. When it is back, go on with "
                "`mergeopt resume`."
            ) from error

    # mypy sees in functools.wraps's result a first argument that must be called `engine`.
    return cast(Callable[Concatenate[Engine, _P], _R], patient)


def _patiently(engine: Engine, patience: float, call: Callable[[], _R]) -> _R:
    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        _log.warning("database %s: %s; next try in %.1f s", masked(engine.url), _reason(error, engine.url), pause)

    attempts = Retrying(
        retry=retry_if_exception(_passes),
        wait=wait_exponential_jitter(initial=0.1, max=5.0, jitter=0.1),
        stop=stop_after_delay(patience),
        before_sleep=tell,
        reraise=True,
    )
    return attempts(call)


def _passes(error: BaseException) -> bool:
    """Whether the error is the database being away or busy, rather than being asked something wrong."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_PASSING
    return isinstance(error, OperationalError | InterfaceError)


def _reason(error: BaseException | None, url: URL) -> str:
    """What the driver said, on one line, without the password."""
    said = " ".join(str(getattr(error, "orig", error)).split()).rstrip(".")
    return said.replace(str(url.password), "***") if url.password else said


def open_database(url: str | URL, patience: float = 0.0, upgrade: bool = False) -> Engine:
    """An engine for a database whose tables are up to date; an empty one gets them first.

    An older file of SQLite is upgraded, an older database on a server only with `upgrade`. Any number of processes may
    do this at once. `patience` is how many seconds to wait for a server that is not up.

    Raises `InputError` for a database that cannot be reached or used, for one that a newer mergeopt has
    upgraded, and for an older one on a server.
    """
    engine = connect(url)
    try:
        _patiently(engine, patience, lambda: _bring_up_to_date(engine, upgrade))
    except DBAPIError as error:
        engine.dispose()
        raise InputError(_unusable(engine.url, error)) from error
    return engine


def describe_database(url: str | URL) -> str:
    """What `open_database` would find there, in words; nothing is made, upgraded or written.

    Raises `InputError` where `open_database` would.
    """
    parsed = normalise_url(url)
    if parsed.drivername == "sqlite":
        file = Path(parsed.database or "")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise InputError(f"The database {masked(parsed)} cannot be written to. {_advice(parsed)}")
        if not file.exists():
            return f"{masked(parsed)} is not there yet; the first job makes it"
        engine = create_engine("sqlite://", creator=lambda: _open_to_read(file))
    else:
        engine = connect(parsed)
    try:
        with engine.connect() as connection:
            return f"{masked(parsed)} answers, {schema.describe(connection, masked(parsed))}"
    except DBAPIError as error:
        raise InputError(_unusable(parsed, error)) from error
    finally:
        engine.dispose()


def _open_to_read(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=_BUSY_SECONDS)


def _unusable(url: URL, error: DBAPIError) -> str:
    return f"The database {masked(url)} must be one we can use, but: {_reason(error, url)}. {_advice(url)}"


def _bring_up_to_date(engine: Engine, asked_for: bool) -> None:
    with engine.connect() as connection:
        if schema.revision(connection) == schema.HEAD:
            return
    try:
        with engine.execution_options(**{_WRITES: True, _REBUILDS: True}).begin() as connection:
            schema.upgrade(connection, masked(engine.url), asked_for)
    finally:
        engine.dispose()  # the connection that is without foreign keys


def _advice(url: URL) -> str:
    if url.drivername == "sqlite":
        folder = Path(url.database or "").parent
        return f"Check that the folder {folder} exists and can be written to, and that the file is SQLite's."
    return (
        "Check that the server runs, that host, port, user, password and database name are right, "
        "and that the user may create tables in it."
    )
