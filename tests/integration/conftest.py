"""Real databases for the tests (a file of SQLite, a PostgreSQL server for the session), each test by itself."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from optimizer.database import open_database
from optimizer.tables import METADATA
from tests.postgres import PostgresServer, StartError


@pytest.fixture(autouse=True)
def each_test_is_a_job_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a user's file brought into the process is forgotten: two tests' files have the same name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own", None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server itself, which a test may crash and restart. Skips, loudly, where it cannot be started."""
    try:
        server = PostgresServer()
    except StartError as error:
        warnings.warn(f"PostgreSQL is not tested: {error}", stacklevel=1)
        pytest.skip(f"PostgreSQL is not tested: {error}")
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of the server's own database, password included."""
    return postgres.url()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new, empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/mergeopt.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture(scope="session")
def _postgres_tables(postgres: PostgresServer) -> Iterator[Engine]:
    engine = open_database(postgres.new_database())
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_database(_postgres_tables: Engine) -> Engine:
    """Our tables, empty, in PostgreSQL. One database serves all tests: a new one takes longer than most of them."""
    with _postgres_tables.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(METADATA.tables)} RESTART IDENTITY CASCADE"))
    return _postgres_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Our tables, empty, in an open database, once of each kind."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres_database")
        return
    engine = open_database(str(tmp_path / "mergeopt.db"))
    yield engine
    engine.dispose()
