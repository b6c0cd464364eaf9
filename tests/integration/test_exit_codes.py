"""What a command's end tells a script: 0 done, 2 wrong input, 3 failed, 130 interrupted; complaints on stderr."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optimizer.cli import main
from optimizer.database import open_database
from optimizer.jobs import claim, create_job, finish
from optimizer.owners import new_owner
from optimizer.spec import read_job_file
from tests.integration.search.bench import Bench

MERGEOPT = str(Path(sys.executable).with_name("mergeopt"))


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    """Exit code, standard output and standard error of `mergeopt` with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_a_command_that_worked_ends_with_0_and_says_nothing_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ended(capsys, "jobs", "--storage", str(tmp_path / "jobs.db"))
    assert (code, err) == (0, "")
    assert "There are no jobs yet. Submit one: mergeopt run JOB.yaml" in out


def test_wrong_input_ends_with_2_and_is_told_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(capsys, "show", "nobody", "--storage", str(tmp_path / "jobs.db"))
    assert (code, out) == (2, "")
    assert err == "mergeopt: There is no job 'nobody', nor any other yet. Submit one with `mergeopt submit`.\n"


def test_a_failed_job_ends_with_3_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path)
    held = claim(bench.database, "bench", new_owner(), 60.0)
    finish(bench.database, held.id, held.attempt, "failed", error="workers do not start")
    code, out, err = ended(capsys, "export", "bench", str(tmp_path / "merged"), "--storage", bench.url)
    assert (code, out) == (3, "")
    assert "mergeopt: job `bench` is failed and has no winner yet" in err
    assert "mergeopt retry bench" in err
    assert not (tmp_path / "merged").exists()


@pytest.fixture
def running(tmp_path: Path) -> tuple[Path, str]:
    """A job file, and the database in which its job is carried out by a process elsewhere."""
    file = tmp_path / "job.yaml"
    file.write_text(
        "name: small\nmodels: {experts: {math: org/math, code: org/code}}\nspace: {granularity: global}\n"
        "evaluate: {tasks: [one_task]}\nsearch: {budget: {trials: 30}}\n"
    )
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    database = open_database(url)
    create_job(database, "small", read_job_file(file).model_dump(mode="json"), {}, str(tmp_path))
    claim(database, "small", "another-machine:1:abc", 60.0)
    database.dispose()
    return file, url


def test_submitting_a_job_file_again_says_that_its_job_is_there_and_what_can_be_done(
    running: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, url = running
    code, out, err = ended(capsys, "submit", str(file), "--storage", url)
    assert (code, out) == (0, "small\n")
    assert "Nothing was submitted: job `small`, with the same job file, is there already and running." in err
    assert "mergeopt wait small" in err


def test_another_job_file_under_a_name_that_is_taken_is_refused(
    running: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, url = running
    file.write_text(file.read_text().replace("trials: 30", "trials: 40"))
    code, out, err = ended(capsys, "submit", str(file), "--storage", url)
    assert (code, out) == (2, "")
    assert "`small` was submitted with another search" in err
    assert "--name" in err
    assert "which is running. Wait for it with `mergeopt wait small`" in err


@pytest.mark.parametrize("command", ["run", "resume"])
def test_whoever_wants_a_job_that_is_carried_out_elsewhere_is_told_to_pause_it_first(
    running: tuple[Path, str], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file, url = running
    code, _, err = ended(capsys, command, str(file) if command == "run" else "small", "--storage", url)
    assert code == 2
    assert "Stop it first, with `mergeopt pause small` or `mergeopt cancel small`" in err


def test_the_export_of_a_job_under_way_is_refused_with_how_to_wait_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path)
    claim(bench.database, "bench", "another-machine:1:abc", 60.0)
    code, out, err = ended(capsys, "export", "bench", str(tmp_path / "merged"), "--storage", bench.url)
    assert (code, out) == (2, "")
    assert "job `bench` is running and has no winner yet; name one of its trials with --trial" in err
    assert "mergeopt wait bench" in err
    assert "mergeopt resume" not in err


def test_a_database_of_another_kind_is_refused_with_an_example_and_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = ended(capsys, "jobs", "--storage", "mysql://ada:pw@host/db")
    assert code == 2
    assert "`postgresql://USER:PASSWORD@HOST:5432/DATABASE`, but it begins with `mysql://`" in err
    assert "pw@" not in err


@pytest.mark.parametrize("command", [("show", "\udcff"), ("jobs", "--user", "a\udc80"), ("run", "\udcff.yaml")])
def test_an_argument_that_is_not_utf_8_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    code, out, err = ended(capsys, *command)
    assert (code, out) == (2, "")
    assert re.match(r"mergeopt: Arguments must be UTF-8, but number \d is '[^']*\\udc[0-9a-f]{2}", err)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "job.yaml", "--priority", "1001"),
        ("change", "small", "--workers", "1025"),
        ("change", "small", "--priority", "-1001"),
        ("jobs", "--last", "1000001"),
        ("logs", "small", "--last", "0"),
        ("audit", "--last", "99999999999999999999"),
        ("serve", "--metrics-port", "65536"),
        ("dashboard", "--port", "65536"),
        ("limits", "ada", "--workers", "1000001"),
        ("limits", "ada", "--jobs", "-1"),
    ],
    ids=" ".join,
)
def test_a_number_out_of_range_is_refused_with_the_range(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    code, out, err = ended(capsys, *command)
    assert (code, out) == (2, "")
    said = " ".join(err.replace("│", " ").split())
    assert re.search(rf"Invalid value for '{command[-2]}': .*(less|greater) than or equal to -?\d+", said)


@pytest.mark.parametrize("address", ["", " "])
def test_an_address_that_is_empty_is_refused_and_not_taken_for_a_cluster_of_ones_own(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    code, _, err = ended(capsys, "serve", "--address", address)
    assert code == 2
    assert "--address must name a Ray cluster, such as HEAD:6379, but is empty; leave it out for a local one." in err


def test_a_misspelt_job_name_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path)
    create_job(bench.database, "other", {}, {}, "")
    code, _, err = ended(capsys, "cancel", "othr", "--storage", bench.url)
    assert code == 2
    assert "Did you mean 'other'? The jobs are: other, bench." in err


def test_an_interrupted_command_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [MERGEOPT, "dashboard", "--port", "0", "--storage", str(tmp_path / "jobs.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Optuna Dashboard: http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
