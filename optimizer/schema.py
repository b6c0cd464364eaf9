"""Bring the project's tables to the shape this code knows."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from optimizer.errors import InputError
from optimizer.tables import PREFIX

if TYPE_CHECKING:
    from alembic.config import Config

# Optuna keeps the revision of its own tables in `alembic_version` of the same database.
VERSION_TABLE = f"{PREFIX}alembic_version"
# The newest file of migrations/versions, repeated here so that a database that is up to date costs no import
# of Alembic (0.4 s). A test compares the two.
HEAD = "0004"
_UPGRADE_LOCK = int.from_bytes(b"mergeopt")


def revision(connection: Connection) -> str | None:
    """The revision the database is at, None before the first upgrade."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return None if found is None else str(found)


def upgrade(connection: Connection, where: str, asked_for: bool = True) -> None:
    """Make or upgrade the tables inside the caller's write transaction: all of it happens, or nothing.

    Processes that start together take turns: the transaction holds an advisory lock on PostgreSQL, and on
    SQLite the write lock it began with. `where` is the masked URL, for the message.

    Raises `InputError` for a database that a newer version of this code has upgraded, and for an older one on a
    server unless the upgrade was `asked_for`: others may still be working on it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    current = revision(connection)
    if current == HEAD:
        return
    _refuse_newer(connection, current, where)
    if current is not None and connection.dialect.name == "postgresql" and not asked_for:
        raise InputError(
            f"The tables of {where} must be at revision {HEAD!r}, but are at {current!r}, and others may use them. "
            "Stop the controllers, back the database up, and upgrade it with `mergeopt db upgrade`."
        )
    from alembic import command  # as late as this: see HEAD

    command.upgrade(alembic_config(connection), "head")


def describe(connection: Connection, where: str) -> str:
    """What `upgrade` would do, in words, without doing it. Raises `InputError` where `upgrade` would."""
    current = revision(connection)
    if current == HEAD:
        return "schema up to date"
    if current is None:
        return "no tables of mergeopt yet; the first job makes them"
    _refuse_newer(connection, current, where)
    by = "`mergeopt db upgrade`" if connection.dialect.name == "postgresql" else "the next command"
    return f"tables at revision {current!r}; {by} upgrades them to {HEAD!r}"


def _refuse_newer(connection: Connection, current: str | None, where: str) -> None:
    from alembic.script import ScriptDirectory

    known = [script.revision for script in ScriptDirectory.from_config(alembic_config(connection)).walk_revisions()]
    if current is not None and current not in known:
        raise InputError(
            f"The tables of {where} must be at revision {HEAD!r} or older, but are at {current!r}: a newer "
            "mergeopt has upgraded them. Upgrade mergeopt here, or name another database."
        )


def alembic_config(connection: Connection) -> "Config":
    """What Alembic needs to run our migrations on an open connection, without an alembic.ini."""
    from alembic.config import Config

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
