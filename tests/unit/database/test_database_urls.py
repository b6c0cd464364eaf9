"""What people may write as a database, and what is shown of it."""

import os
from pathlib import Path

import pytest

from optimizer.database import engine_arguments, masked, normalise_url
from optimizer.errors import InputError

PASSWORD = "hunter2secret"


def test_a_bare_path_is_a_sqlite_file_wherever_the_process_runs_later() -> None:
    url = normalise_url("jobs/my file?.db")
    assert url.drivername == "sqlite"
    assert url.database == str(Path.cwd() / "jobs/my file?.db")
    assert normalise_url(str(url)) == url


def test_a_sqlite_url_and_a_path_mean_the_same_file() -> None:
    assert normalise_url("sqlite:///a.db") == normalise_url("a.db")
    assert normalise_url("sqlite:////tmp/a.db").database == "/tmp/a.db"
    assert normalise_url("~/a.db").database == os.path.expanduser("~/a.db")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_reaches_the_installed_driver(scheme: str) -> None:
    url = normalise_url(f"{scheme}://user:{PASSWORD}@host:5433/db?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port) == ("user", PASSWORD, "host", 5433)
    assert (url.database, url.query["sslmode"]) == ("db", "require")


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "sqlite://relative/path.db", ":memory:", "sqlite:///file:x?uri=true"],
)
def test_a_database_that_other_processes_could_not_open_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="file that several processes can open"):
        normalise_url(url)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{PASSWORD}@host/db",
        f"postgresql://user:{PASSWORD}@host:port/db",
        f"postgresql://user:more@{PASSWORD}@host/db",
        f"://user:{PASSWORD}@host/db",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(InputError) as refused:
        normalise_url(url)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert PASSWORD not in masked(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD}@host/db",
        f"postgresql://user@host/db?password={PASSWORD}",
        f"postgresql://user@host/db?sslpassword={PASSWORD}",
    ],
)
def test_the_shown_url_has_the_host_but_no_password(url: str) -> None:
    for given in (url, normalise_url(url)):
        assert "host/db" in masked(given)
        assert PASSWORD not in masked(given)


def test_a_password_in_the_query_still_reaches_the_server() -> None:
    assert normalise_url(f"postgresql://user@host/db?password={PASSWORD}").password == PASSWORD


def test_a_setting_in_the_url_is_stronger_than_ours() -> None:
    assert engine_arguments("postgresql://h/d")["connect_args"]["connect_timeout"] == 10
    assert "connect_timeout" not in engine_arguments("postgresql://h/d?connect_timeout=3")["connect_args"]
