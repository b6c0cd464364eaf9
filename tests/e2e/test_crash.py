"""A job survives whatever happens to its processes: nothing told is lost, nothing is counted twice."""

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.conftest import Tiny
from tests.e2e.commandline import Place, job_content, kill_tree, processes_of, told

pytestmark = pytest.mark.timeout(2400)

TRIALS = 24
PER_TASK = 120  # about a second for a trial, so that a search can be caught in the middle
EARLY = 5  # trials of the search that must be told before anything is killed


def _long(tiny: Tiny) -> dict[str, Any]:
    return job_content(tiny, trials=TRIALS, search_examples=PER_TASK)


def _fixed(trials: list[FrozenTrial]) -> dict[int, tuple[dict[str, float], list[float] | None, dict[str, Any]]]:
    return {trial.number: (trial.params, trial.values, trial.user_attrs) for trial in trials}


def _check_whole(place: Place, before: list[FrozenTrial]) -> None:
    """Done, with the exact budget; what was told stands, and what was open was scored as it was proposed."""
    after = place.trials()
    assert place.job().state == "done"
    assert len(after) == TRIALS
    assert {trial.state for trial in after} == {TrialState.COMPLETE}
    kept = _fixed(told(before))
    assert {number: _fixed(after)[number] for number in kept} == kept
    for trial in before:
        if trial.state == TrialState.RUNNING:
            assert after[trial.number].params == trial.params
    for trial in after:
        scored = place.outcomes(trial.number, "search")
        assert len(scored) == 3 * PER_TASK
        assert trial.values == [pytest.approx(sum(one.metric for one in scored.values()) / len(scored))]


def test_a_job_killed_as_a_whole_goes_on_where_it_was(place: Place, tiny: Tiny) -> None:
    running = place.start("run", place.write(_long(tiny)))
    place.wait_for_search(running, EARLY)
    kill_tree(running)
    before = place.trials()
    opened = [trial for trial in before if trial.state == TrialState.RUNNING]
    assert opened, "nothing was under way when the job was killed, so this test would prove little"
    assert len(before) < TRIALS
    assert processes_of(running.pid) == []
    assert place.job().state == "running"  # nobody was left to say otherwise

    place.run("resume", "small")
    _check_whole(place, before)
    assert place.job().attempt == 2


def test_a_killed_worker_costs_the_job_nothing_but_time(place: Place, tiny: Tiny) -> None:
    running = place.start("run", place.write(_long(tiny)))
    place.wait_for_search(running, EARLY)
    victim = next(one for one in processes_of(running.pid) if " ".join(one.cmdline()).startswith("ray::Worker"))
    victim.kill()
    before = place.trials()
    assert len(before) < TRIALS
    ended = place.end(running, code=0)
    assert "worker lost on trial" in ended.stderr
    assert ended.stdout.startswith("job ")  # the report, and nothing beside it
    _check_whole(place, before)
    assert place.job().attempt == 1


def _named(name: str, session: int) -> list[psutil.Process]:
    return [one for one in processes_of(session) if name in one.name()]


def _wait_until_alone(session: int) -> None:
    """Ray's agents notice within seconds that their node is gone, and end by themselves."""
    _, left = psutil.wait_procs(processes_of(session), timeout=60)
    assert left == []


def _ctrl_c(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # a terminal tells every process in the foreground


def _terminate(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)  # a service manager tells the main one


@pytest.mark.parametrize("stop", [_ctrl_c, _terminate])
def test_an_interrupted_job_says_how_to_go_on_and_does(
    place: Place, tiny: Tiny, stop: Callable[[subprocess.Popen[str]], None]
) -> None:
    running = place.start("run", place.write(_long(tiny)))
    place.wait_for_search(running, EARLY)
    assert _named("raylet", running.pid)
    stop(running)
    ended = place.end(running, code=130)
    assert "mergeopt resume small" in ended.stderr
    assert place.job().state == "interrupted"
    _wait_until_alone(running.pid)
    before = place.trials()
    assert len(before) < TRIALS

    place.run("resume", "small")
    _check_whole(place, before)


@pytest.mark.parametrize("stop", [_ctrl_c, _terminate])
def test_a_job_stopped_while_ray_starts_is_interrupted(
    place: Place, tiny: Tiny, stop: Callable[[subprocess.Popen[str]], None]
) -> None:
    running = place.start("run", place.write(_long(tiny)))
    place.wait_for(running, lambda: bool(_named("gcs_server", running.pid)), "Ray began to start")
    stop(running)
    ended = place.end(running, code=130)
    assert "mergeopt resume small" in ended.stderr
    assert place.job().state == "interrupted"
    assert told(place.trials()) == []
    _wait_until_alone(running.pid)


def test_a_running_job_stops_when_another_process_cancels_it(place: Place, tiny: Tiny) -> None:
    running = place.start("run", place.write(_long(tiny)))
    place.wait_for_search(running, 1)
    assert "asked to stop" in place.run("cancel", "small").stdout
    ended = place.end(running, code=3)
    assert "cancelled" in ended.stderr
    assert place.job().state == "cancelled"
    _wait_until_alone(running.pid)
    assert 0 < len(told(place.trials())) < TRIALS
