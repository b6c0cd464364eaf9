"""Places to run the command line in, and one finished job for every test that only reads it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.conftest import Tiny
from tests.e2e.commandline import Place, job_content


@dataclass(frozen=True)
class Finished:
    """The job `small`, done: where, by which file, and what `mergeopt run` said."""

    place: Place
    file: Path
    ran: CompletedProcess[str]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty folder; whatever was started in it ends with the test."""
    here = Place(tmp_path)
    yield here
    here.kill_all()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Finished]:
    """A job that was run to its end, about a minute once. Read it; do not change it."""
    here = Place(tmp_path_factory.mktemp("finished"))
    try:
        file = here.write(job_content(tiny))
        yield Finished(here, file, here.run("run", file))
    finally:
        here.kill_all()
