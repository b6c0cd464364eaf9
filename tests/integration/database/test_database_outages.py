"""A database that is away costs time, not results; one that cannot be used is refused in plain words."""

import logging
import sqlite3
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from optimizer import database as database_module
from optimizer.database import DatabaseAway, connect, open_database
from optimizer.errors import InputError
from optimizer.jobs import claim, create_job, finish, get_job, renew
from optimizer.outcomes import Columns, read_outcomes, record_outcomes
from optimizer.queue import list_jobs
from tests.postgres import PostgresServer

OWNER = "another-machine:1:abc"


@pytest.fixture
def running(postgres_database: Engine) -> Engine:
    """A PostgreSQL database with one job, `demo`, that is held."""
    create_job(postgres_database, "demo", {}, {}, "")
    claim(postgres_database, "demo", OWNER, 600.0)
    return postgres_database


def _record(engine: Engine, round: int) -> bool:
    columns = Columns(np.arange(3, dtype=np.int32), np.ones(3))
    return record_outcomes(
        engine,
        1,
        1,
        trial=0,
        split="search",
        round=round,
        digest="d",
        columns=columns,
        seconds=0.0,
        worker="w",
    )


def test_a_server_that_crashes_between_two_writes_is_survived(running: Engine, postgres: PostgresServer) -> None:
    assert _record(running, 0)
    postgres.restart()
    assert _record(running, 1)
    postgres.restart()
    assert renew(running, 1, OWNER, 1, 600.0)
    postgres.restart()
    assert finish(running, 1, 1, "done").state == "done"
    assert [row.round for row in read_outcomes(running, 1)] == [0, 1]


def test_a_server_that_crashes_in_the_middle_of_writes_loses_and_doubles_nothing(
    running: Engine, postgres: PostgresServer
) -> None:
    news: list[bool] = []
    halt = threading.Event()

    def write() -> None:
        while not halt.is_set():
            news.append(_record(running, len(news)))

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(3):
        time.sleep(0.2)
        postgres.restart()
    time.sleep(0.2)
    halt.set()
    writer.join(60)
    assert len(news) > 10
    assert all(news)
    assert [row.round for row in read_outcomes(running, 1)] == list(range(len(news)))


def test_a_write_waits_for_a_server_that_is_down(
    running: Engine, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.stop()
    began = time.monotonic()
    back = threading.Timer(1.0, postgres.start)
    back.start()
    with caplog.at_level(logging.WARNING):
        assert _record(running, 0)
    back.join()
    assert time.monotonic() - began > 1.0
    assert "next try in" in caplog.text
    assert "mergeopt:***@127.0.0.1" in caplog.text
    assert postgres.password not in caplog.text


def test_a_server_that_stays_away_is_named_without_its_password(
    running: Engine,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(database_module, "PATIENCE", 0.5)
    postgres.stop()
    try:
        with caplog.at_level(logging.DEBUG), pytest.raises(DatabaseAway) as away:
            _record(running, 0)
    finally:
        postgres.start()
    assert "mergeopt:***@127.0.0.1" in str(away.value)
    assert "mergeopt resume" in str(away.value)
    assert postgres.password not in "".join(traceback.format_exception(away.value)) + caplog.text + repr(running)
    assert _record(running, 0)


def test_a_service_can_wait_for_its_database_to_start(postgres: PostgresServer, postgres_url: str) -> None:
    postgres.stop()
    back = threading.Timer(0.5, postgres.start)
    back.start()
    assert list_jobs(open_database(postgres_url, patience=30.0)) == []
    back.join()


@pytest.mark.parametrize("wrong", ["port", "password", "user", "database"])
def test_a_postgresql_that_cannot_be_reached_is_refused_without_its_password(
    postgres: PostgresServer, wrong: str
) -> None:
    right = connect(postgres.url()).url
    password = "another-secret" if wrong == "password" else postgres.password
    changes = {
        "port": {"port": 1},
        "password": {"password": password},
        "user": {"username": "nobody-of-that-name"},
        "database": {"database": "no-such-database"},
    }
    with pytest.raises(InputError, match=r"host, port, user, password and database name are right") as refused:
        open_database(right.set(**changes[wrong]))  # type: ignore[arg-type]
    assert ":***@127.0.0.1" in str(refused.value)
    assert password not in "".join(traceback.format_exception(refused.value))


def test_a_user_who_may_not_create_tables_is_told_so(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with connect(url).begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS reader"))
        connection.execute(text("CREATE ROLE reader LOGIN PASSWORD 'reader-secret'"))
    reader = connect(url).url.set(username="reader", password="reader-secret")
    with pytest.raises(InputError, match=r"permission denied.*may create tables") as refused:
        open_database(reader)
    assert "reader-secret" not in "".join(traceback.format_exception(refused.value))


def test_a_sqlite_file_that_cannot_be_used_is_refused_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing that SQLite wrote\n" * 100)
    (tmp_path / "folder").mkdir()
    for path, reason in (
        ("missing/a.db", "unable to open database file"),
        ("folder", "unable to open database file"),
        ("notes.txt", "file is not a database"),
    ):
        with pytest.raises(InputError, match=rf"{reason}.*Check that the folder"):
            open_database(str(tmp_path / path))


def test_a_write_waits_while_another_process_holds_the_sqlite_file(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "a.db"))
    create_job(engine, "demo", {}, {}, "")
    claim(engine, "demo", OWNER, 600.0)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    threading.Timer(0.5, lambda: other.execute("COMMIT")).start()
    assert _record(engine, 0)
    assert time.monotonic() - began > 0.4


def test_a_result_in_hand_outlives_a_full_disk(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "a.db"))
    create_job(engine, "demo", {}, {}, "")
    claim(engine, "demo", OWNER, 600.0)
    with engine.connect() as connection:
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    room = threading.Timer(1.0, lambda: engine.dispose())
    columns = Columns(np.arange(2000, dtype=np.int32), np.ones(2000))
    room.start()
    assert record_outcomes(
        engine, 1, 1, trial=0, split="search", round=0, digest="d", columns=columns, seconds=0, worker="w"
    )
    room.join()
    assert len(read_outcomes(engine, 1)[0].columns.metric) == 2000


def test_what_waiting_cannot_mend_is_raised_at_once(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "a.db"))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE mergeopt_jobs"))
    began = time.monotonic()
    with pytest.raises(OperationalError, match="no such table"):
        get_job(engine, "demo")
    assert time.monotonic() - began < 5
