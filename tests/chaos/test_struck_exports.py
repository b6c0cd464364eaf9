"""An export that is stopped or killed at any moment: its folder is whole or absent, and the next export succeeds."""

import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.chaos import nursery as processes
from tests.chaos.nursery import Nursery
from tests.conftest import Tiny
from tests.e2e.commandline import SKILLS

ROUNDS = 200 if os.environ.get("MERGEOPT_CHAOS") == "long" else 6


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    folder = Path(tempfile.mkdtemp(prefix="mo-", dir="/tmp"))  # the path of a Unix socket must be short
    here = Nursery(folder / "nursery", ("optimizer.merge", "torch", "transformers.models.llama", "rich.progress"))
    yield here
    here.close()
    shutil.rmtree(folder)


def _contents(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _ended(nursery: Nursery, pid: int) -> int:
    while (code := processes.code_of(nursery.path, pid)) is None:
        time.sleep(0.01)
    return code


def test_an_export_that_is_struck_is_whole_or_absent_and_the_next_one_succeeds(
    nursery: Nursery, tiny: Tiny, tmp_path: Path
) -> None:
    recipe = {
        "method": {"name": "ties", "density": 0.4},
        "base": str(tiny.models / "base"),
        "experts": {skill: str(tiny.models / skill) for skill in SKILLS},
        "weights": dict.fromkeys(SKILLS, 0.4),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def begin() -> int:
        arguments = ["merge", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]
        return processes.start(nursery.path, "command", tmp_path / "log", arguments=arguments)

    assert _ended(nursery, begin()) == 0, (tmp_path / "log").read_text()  # may compile loops, the others do not
    shutil.rmtree(tmp_path / "out")
    rng, began = random.Random(1), time.monotonic()
    assert _ended(nursery, begin()) == 0, (tmp_path / "log").read_text()
    lasting, wanted = time.monotonic() - began, _contents(tmp_path / "out")
    absent = 0
    for number in range(ROUNDS):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        pid = begin()
        time.sleep(rng.uniform(0, 1.1 * lasting))
        struck = (signal.SIGTERM, signal.SIGKILL)[number % 2]
        with suppress(ProcessLookupError):  # it was quicker
            os.kill(pid, struck)
        code = _ended(nursery, pid)
        if (tmp_path / "out").exists():
            assert _contents(tmp_path / "out") == wanted
            continue
        absent += 1
        assert code != 0
        # what is left beside the target, if anything, the next export clears away
        assert _ended(nursery, begin()) == 0, (tmp_path / "log").read_text()
        assert _contents(tmp_path / "out") == wanted
        assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == ["out"]
    assert absent, "none was struck before it was done"
