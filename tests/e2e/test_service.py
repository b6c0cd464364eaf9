"""A queue and its controller on one machine: jobs put in, stopped, gone on with, watched, by the installed command."""

import json
import signal
import subprocess

import pytest

from tests.conftest import Tiny
from tests.e2e.commandline import Place, job_content, searched

pytestmark = pytest.mark.timeout(1800)


def _listed(place: Place, *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(place.run("jobs", "--json", *options).stdout)
    return found


def _under_way(place: Place, tiny: Tiny, trials: int = 400) -> subprocess.Popen[str]:
    """A controller whose job has told some trials of its search."""
    assert place.run("submit", place.write(job_content(tiny, trials=trials, search_examples=10))).stdout == "small\n"
    controller = place.start("serve")
    place.wait_for_search(controller, 5)
    return controller


def test_a_stopped_controller_puts_its_job_back_and_the_next_one_goes_on_with_it(place: Place, tiny: Tiny) -> None:
    controller = _under_way(place, tiny, trials=60)
    controller.send_signal(signal.SIGTERM)
    place.end(controller, 0)
    job = place.job()
    assert (job.state, job.attempt, job.deaths) == ("queued", 1, 0)
    told = len(searched(place.trials()))
    place.run("serve", "--once")
    assert (place.job().state, place.job().attempt) == ("done", 2)
    assert len(place.trials()) == 60
    assert len(searched(place.trials())) > told
    said = place.run("logs", "small").stdout
    assert "[1] Starting 2 workers" in said
    assert "[2] Job `small` is done" in said
    deeds = [deed["action"] for deed in json.loads(place.run("audit", "small", "--json").stdout)]
    assert deeds == ["submitted", "taken", "given back", "taken", "done"]


def test_a_job_is_paused_waited_for_and_gone_on_with_from_afar(place: Place, tiny: Tiny) -> None:
    controller = _under_way(place, tiny)
    follower = place.start("logs", "small", "--follow")
    assert "asked to stop" in place.run("pause", "small").stdout
    assert "small: paused" in place.run("wait", "small", code=130).stdout
    assert "stopped (pause)" in place.end(follower, 0).stdout
    assert [job["state"] for job in _listed(place)] == ["paused"]
    assert "queued for a controller" in place.run("resume", "small").stdout
    place.run("change", "small", "--priority", "7", "--workers", "1")
    told = len(searched(place.trials()))
    place.wait_for_search(controller, told + 3)
    assert [(job["priority"], job["attempt"]) for job in _listed(place, "--state", "running")] == [(7, 2)]
    place.run("cancel", "small")
    assert "small: cancelled" in place.run("wait", "small", code=4).stdout
    assert "retried must have failed" in place.run("retry", "small", code=2).stderr
    controller.send_signal(signal.SIGTERM)
    place.end(controller, 0)


def test_a_job_that_somebody_runs_by_hand_is_none_of_a_controllers(place: Place, tiny: Tiny) -> None:
    running = place.start("run", place.write(job_content(tiny, trials=400, search_examples=10)))
    place.wait_for_search(running, 3)
    running.kill()
    place.end(running, -9)
    place.run("serve", "--once")
    assert (place.job().state, place.job().attempt) == ("running", 1)


def test_limits_are_set_shown_and_taken_away(place: Place) -> None:
    place.run("limits", "ada", "--workers", "8")
    place.run("limits", "ada", "--jobs", "2")
    place.run("limits", "*", "--jobs", "1")
    wanted = [{"user": "*", "workers": None, "jobs": 1}, {"user": "ada", "workers": 8, "jobs": 2}]
    assert json.loads(place.run("limits", "--json").stdout) == wanted
    place.run("limits", "ada", "--none", "--jobs", "2")
    assert json.loads(place.run("limits", "ada", "--json").stdout) == [{"user": "ada", "workers": None, "jobs": 2}]
    place.run("limits", "ada", "--none")
    assert json.loads(place.run("limits", "ada", "--json").stdout) == []
    assert "must be" in place.run("jobs", "--state", "asleep", code=2).stderr
