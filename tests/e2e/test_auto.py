"""The default search, `auto`, as a user runs it: killed, resumed, exported, and begun again from its end."""

import json
from typing import Any

import pytest
from optuna.trial import TrialState

from optimizer.database import open_database
from optimizer.gradients import read_gradients
from optimizer.outcomes import read_outcomes
from tests.conftest import Tiny
from tests.e2e.commandline import SKILLS, TASKS, Place, kill_tree, processes_of

pytestmark = pytest.mark.timeout(2400)

BUDGET = 6000


def _content(tiny: Tiny, **search: Any) -> dict[str, Any]:
    """As short as a job file can be."""
    limit = {"gradient": 150, "search": 120, "select": 40, "test": 60}
    return {
        "name": "small",
        "models": {"base": str(tiny.models / "base"), "experts": {skill: str(tiny.models / skill) for skill in SKILLS}},
        "evaluate": {
            "include_path": str(tiny.tasks),
            "tasks": [{"task": task, "metric": "exact_match", "limit": limit} for task in TASKS],
        },
        "search": {"budget": {"examples": BUDGET}, **search},
        "workers": {"count": 2, "cpus": 1},
    }


def _rows(place: Place, name: str = "small") -> tuple[list[Any], list[Any]]:
    """What is recorded: rounds of outcomes, and shards of gradients."""
    database = open_database(place.storage)
    try:
        job = place.job(name)
        return list(read_outcomes(database, job.id)), list(read_gradients(database, job.id))
    finally:
        database.dispose()


def test_a_search_by_auto_survives_a_kill_and_its_answer_is_used(place: Place, tiny: Tiny) -> None:
    running = place.start("run", place.write(_content(tiny)))
    place.wait_for(
        running, lambda: (place.folder / "mergeopt.db").exists() and bool(place.trials()), "the first trial was opened"
    )
    place.wait_for(running, lambda: len(_rows(place)[1]) >= 6, "six gradient batches were recorded")
    kill_tree(running)
    assert processes_of(running.pid) == []
    before, batches = _rows(place)
    assert place.job().state == "running"

    ended = place.run("resume", "small")
    after, later = _rows(place)
    _check_that_nothing_was_lost_or_counted_twice(before, after, batches, later)
    spent = sum(len(row.columns.positions) for row in after if row.split != "test")
    spent += 3 * sum(len(row.positions) for row in later)
    assert spent <= BUDGET
    assert {trial.state for trial in place.trials()} == {TrialState.COMPLETE}
    assert "EFE" in ended.stdout

    _check_the_export(place)
    _check_a_search_that_goes_on_from_it(place, tiny)


def _check_that_nothing_was_lost_or_counted_twice(
    before: list[Any], after: list[Any], batches: list[Any], later: list[Any]
) -> None:
    seen: dict[tuple[int, str], list[int]] = {}
    for row in after:
        seen.setdefault((row.trial, row.split), []).extend(row.columns.positions.tolist())
    assert all(len(set(positions)) == len(positions) for positions in seen.values())
    by_place = {(row.trial, row.split, row.round): row for row in after}
    assert all(by_place[row.trial, row.split, row.round].created_at == row.created_at for row in before)
    numbers = {(row.number, row.shard): row for row in later}
    assert all(numbers[row.number, row.shard].rows == row.rows for row in batches)


def _check_the_export(place: Place) -> None:
    """It scores on test what the report says, also where a virtual expert is mixed in."""
    results = json.loads(place.run("report", "small", "--json").stdout)
    winner = next(one for one in results["test"] if one["kind"] == "winner")
    place.run("export", "small", place.folder / "model")
    found = json.loads(
        place.run(
            "evaluate", place.folder / "model", "--job", place.folder / "job.yaml", "--split", "test", "--json"
        ).stdout
    )
    scores = {task: estimate["mean"] for task, estimate in winner["tasks"].items()}
    assert {task: one["mean"] for task, one in found["tasks"].items()} == pytest.approx(scores)


def _check_a_search_that_goes_on_from_it(place: Place, tiny: Tiny) -> None:
    content = _content(tiny, warm_start="small", budget={"examples": 1500}) | {"name": "next"}
    place.run("run", place.write(content, "next.yaml"))
    labels = [trial.user_attrs.get("label") for trial in place.trials("next")]
    assert "winner of small" in labels


def test_a_job_cannot_begin_from_one_that_is_not_done(place: Place, tiny: Tiny) -> None:
    ended = place.run("submit", place.write(_content(tiny, warm_start="nobody")), code=2)
    assert "nobody" in ended.stderr
