"""The database's URL lies in a file only while a controller runs, or until the next one starts."""

import contextlib
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optimizer.url_file import url_file

URL = "postgresql://ada:long-secret@db/jobs"
CONTROLLER = f"""
from optimizer.url_file import url_file
with url_file({URL!r}) as file:
    print(file, flush=True)
    input()
"""
Start = Callable[[], tuple[Path, subprocess.Popen[str]]]


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a process that holds such a file, all in one temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.ExitStack() as begun:

        def start() -> tuple[Path, subprocess.Popen[str]]:
            process = subprocess.Popen(
                [sys.executable, "-c", CONTROLLER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            )
            begun.callback(process.kill)
            assert process.stdout is not None
            return Path(process.stdout.readline().strip()), process

        yield start


def test_only_its_user_can_read_the_file_and_it_is_gone_with_the_controller() -> None:
    with url_file(URL) as file:
        assert file.read_text() == URL
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not file.parent.exists()


def test_what_a_killed_controller_left_is_removed_by_the_next_one(controller: Start) -> None:
    left, process = controller()
    process.kill()
    process.wait()
    assert left.read_text() == URL
    with url_file(URL) as own:
        assert not left.parent.exists()
        assert own.exists()


def test_the_file_of_a_controller_that_lives_is_left_alone(controller: Start) -> None:
    theirs, _ = controller()
    with url_file(URL) as own:
        assert theirs.read_text() == own.read_text() == URL


def test_a_file_whose_controller_is_only_starting_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "mergeopt-serve-abc"
    folder.mkdir()
    (folder / "database").touch()
    with url_file(URL):
        assert (folder / "database").exists()
