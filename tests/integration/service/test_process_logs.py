"""What processes of a service write where JSON is asked for: lines that parse, name their job and hide the password."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from optimizer.database import open_database
from optimizer.jobs import create_job, get_job
from optimizer.queue import claim_next


def _ran(*arguments: str, code: int = 0, **environment: str) -> tuple[list[dict[str, Any]], str]:
    """The lines of a program of ours as objects, and as they were."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"MERGEOPT_LOG": "json", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == code, ran.stderr
    return [json.loads(line) for line in ran.stderr.splitlines()], ran.stdout + ran.stderr


def _claimed(url: str, file: Path, **spec: Any) -> tuple[int, int]:
    """A job that a controller has taken, and the file in which its coordinator finds the database."""
    database = open_database(url)
    create_job(database, "broken", spec, {}, "")
    job = claim_next(database, "another-machine:1:abc", 60.0)
    assert job is not None
    file.write_text(url)
    database.dispose()
    return job.id, job.attempt


def _hides(text: str, url: str) -> bool:
    password = urlsplit(url).password
    return password is None or password not in text


def test_a_coordinator_whose_job_cannot_be_read_says_so_line_by_line_with_job_and_attempt(
    database_url: str, tmp_path: Path
) -> None:
    job, attempt = _claimed(database_url, tmp_path / "url", models={"password": "none of these"})
    lines, text = _ran("-m", "optimizer.coordinate", str(job), str(attempt), str(tmp_path / "url"))
    assert any("ValidationError" in line["text"] for line in lines)
    whose = {"job": "broken", "job_id": job, "attempt": attempt}
    assert all(line.items() >= whose.items() for line in lines)
    assert _hides(text, database_url)
    database = open_database(database_url)
    assert "ValidationError" in (get_job(database, "broken").error or "")
    database.dispose()


def test_a_coordinator_that_comes_too_late_ends_with_one_line_that_says_why(database_url: str, tmp_path: Path) -> None:
    job, attempt = _claimed(database_url, tmp_path / "url")
    arguments = ("-m", "optimizer.coordinate", str(job), str(attempt + 1), str(tmp_path / "url"))
    (line,), text = _ran(*arguments, code=1)
    assert (line["level"], line["job_id"], line["attempt"]) == ("critical", job, attempt + 1)
    assert f"attempt {attempt + 1} lost it" in line["exception"]
    assert _hides(text, database_url)


def test_a_command_that_ends_badly_says_why_in_one_line_without_the_password() -> None:
    url = "postgresql://ada:not-to-be-seen@127.0.0.1:1/jobs"
    (line,), text = _ran("-m", "optimizer.cli", "jobs", code=2, MERGEOPT_STORAGE=url)
    assert line["level"] == "error"
    assert "postgresql+psycopg://ada:***@127.0.0.1:1/jobs" in line["text"]
    assert "not-to-be-seen" not in text


def test_a_controller_whose_metrics_have_no_port_ends_before_it_starts_anything(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        storage = str(tmp_path / "jobs.db")
        (line,), _ = _ran("-m", "optimizer.cli", "serve", "--storage", storage, "--metrics-port", port, code=2)
    assert "--metrics-port" in line["text"]


def test_a_form_of_lines_that_does_not_exist_is_wrong_input() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "optimizer.cli", "jobs"],
        env=os.environ | {"MERGEOPT_LOG": "yaml"},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (
        2,
        "mergeopt: MERGEOPT_LOG must be one of text, json, but is 'yaml'. Set it anew or unset it.\n",
    )
