"""What `mergeopt doctor` says of a database, without making or changing one."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import inspect

from optimizer.database import connect, describe_database, open_database
from optimizer.errors import InputError


def test_a_file_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    assert describe_database(str(tmp_path / "jobs.db")).endswith("jobs.db is not there yet; the first job makes it")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Check that the folder .*nowhere exists and can be written to"):
        describe_database(str(tmp_path / "nowhere" / "jobs.db"))


def test_an_empty_database_stays_empty_and_one_in_use_is_up_to_date(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        sqlite3.connect(database_url.removeprefix("sqlite:///")).execute("CREATE TABLE other (x)").connection.close()
    assert "no tables of mergeopt yet" in describe_database(database_url)
    engine = connect(database_url)
    assert not [name for name in inspect(engine).get_table_names() if name != "other"]
    engine.dispose()
    open_database(database_url).dispose()
    assert describe_database(database_url).endswith("answers, schema up to date")


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    open_database(str(file)).dispose()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE mergeopt_alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match="a newer mergeopt has upgraded them"):
        describe_database(str(file))


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "notes # 50%.txt"
    file.write_text("Somebody's notes, and no database.\n" * 50)
    with pytest.raises(InputError, match="file is not a database"):
        describe_database(str(file))
    assert [left.name for left in tmp_path.iterdir()] == [file.name]
    assert file.read_text().startswith("Somebody's notes")


def test_a_server_that_is_not_there_is_refused_without_its_password() -> None:
    with pytest.raises(InputError, match="Check that the server runs") as caught:
        describe_database("postgresql://someone:hidden@127.0.0.1:1/jobs")
    assert "hidden" not in str(caught.value)
