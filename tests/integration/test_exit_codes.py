"""What a command's end tells a script: 0 done, 2 wrong input, 3 failed, 130 interrupted; complaints on stderr."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optimizer.cli import main
from optimizer.jobs import claim, create_job, finish
from optimizer.owners import new_owner
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
    assert "mergeopt resume bench" in err
    assert not (tmp_path / "merged").exists()


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
