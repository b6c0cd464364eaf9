"""The database's URL may lie in a file, so that no password stands in arguments or the environment."""

import json
from pathlib import Path

import pytest

from optimizer.cli import main
from optimizer.database import open_database
from optimizer.jobs import create_job


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with one job, that only the file `url` tells of; with a line end, as editors leave one."""
    storage = f"sqlite:///{tmp_path / 'jobs.db'}"
    database = open_database(storage)
    create_job(database, "kept", {}, {}, str(tmp_path))
    database.dispose()
    (tmp_path / "url").write_text(f"{storage}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERGEOPT_STORAGE", raising=False)
    monkeypatch.setenv("MERGEOPT_STORAGE_FILE", str(tmp_path / "url"))
    return storage


def _ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def _names(said: str) -> list[str]:
    return [job["name"] for job in json.loads(said)]


@pytest.mark.usefixtures("storage")
def test_the_file_names_the_database(capsys: pytest.CaptureFixture[str]) -> None:
    assert _ended("jobs", "--json") == 0
    assert _names(capsys.readouterr().out) == ["kept"]


@pytest.mark.usefixtures("storage")
def test_what_is_given_on_the_command_line_counts_before_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert _ended("jobs", "--json", "--storage", "other.db") == 0
    assert _names(capsys.readouterr().out) == []


def test_a_url_and_a_file_at_once_are_refused(
    storage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MERGEOPT_STORAGE", storage)
    assert _ended("jobs") == 2
    assert "Only one of MERGEOPT_STORAGE and MERGEOPT_STORAGE_FILE may be set" in capsys.readouterr().err


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize("content", [None, "", "\n"], ids=["absent", "empty", "blank"])
def test_a_file_without_a_url_is_refused_and_no_database_is_made(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("MERGEOPT_STORAGE_FILE", str(file))
    assert _ended("jobs") == 2
    assert "MERGEOPT_STORAGE_FILE must name a file with the database's URL" in capsys.readouterr().err
    assert not (tmp_path / "mergeopt.db").exists()
