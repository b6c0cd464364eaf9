"""A database to measure on: a PostgreSQL server for as long as it takes, a SQLite file, or one that is there."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from optimizer.database import connect
from tests.postgres import PostgresServer


@contextmanager
def databases(kind: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases: URLs, one for each call."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            made: list[str] = []

            def next_file() -> str:
                made.append(f"sqlite:///{Path(folder) / f'{len(made)}.db'}")
                return made[-1]

            yield next_file
        return
    server = PostgresServer()
    try:
        yield server.new_database
    finally:
        server.close()


def analyzed(url: str) -> None:
    """Have the database look at how many rows there are, as it does by itself when they come one by one."""
    with connect(url).connect() as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()
