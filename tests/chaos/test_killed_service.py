"""The short form on real Ray: one service on one machine, whose coordinator and then a worker are killed."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from optimizer.audit import deeds
from optimizer.database import open_database
from tests.conftest import Tiny
from tests.e2e.commandline import Place, job_content, told

pytestmark = pytest.mark.timeout(1800)
TRIALS = 30
PER_TASK = 60  # about half a second for a trial
LEASE_SECONDS = 30.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty folder; whatever was started in it ends with the test."""
    here = Place(tmp_path)
    yield here
    here.kill_all()


def _of(controller: int, words: str) -> list[psutil.Process]:
    """Descendants of the controller with these words in their command; Ray gives coordinators sessions of their own."""
    below = psutil.Process(controller).children(recursive=True)
    return [one for one in below if one.is_running() and " ".join(one.cmdline()).partition(words)[1] and _main(one)]


def _main(process: psutil.Process) -> bool:
    """Not a shell that only waits for it."""
    return process.name() not in ("sh", "bash")


def test_a_job_whose_coordinator_and_worker_are_killed_goes_on_by_itself(place: Place, tiny: Tiny) -> None:
    place.run("submit", place.write(job_content(tiny, trials=TRIALS, search_examples=PER_TASK)))
    service = place.start("serve", "--once")
    place.wait_for_search(service, 4)
    coordinators = _of(service.pid, "optimizer.coordinate")
    coordinators[-1].kill()
    killed, before = time.monotonic(), told(place.trials())
    place.wait_for(service, lambda: len(told(place.trials())) > len(before), "another coordinator tells trials")
    recovered = time.monotonic() - killed
    print(f"the next coordinator told a trial after {recovered:.1f} s")
    assert recovered < 2 * LEASE_SECONDS
    assert place.job().attempt == 2
    _of(service.pid, "ray::Worker")[0].kill()
    place.end(service, 0)
    after = place.trials()
    assert (place.job().state, place.job().attempt) == ("done", 2)
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * TRIALS
    kept = {trial.number: (trial.params, trial.values, trial.datetime_complete) for trial in before}
    assert {one.number: (one.params, one.values, one.datetime_complete) for one in after if one.number in kept} == kept
    for trial in after:
        assert len(place.outcomes(trial.number, "search")) == 3 * PER_TASK
    database = open_database(place.storage)
    try:
        done = [deed.action for deed in deeds(database, place.job().id)]
    finally:
        database.dispose()
    assert done == ["submitted", "taken", "died", "taken", "done"]
