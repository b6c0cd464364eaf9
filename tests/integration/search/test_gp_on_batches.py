"""A search by the Gaussian process on batches: fresh examples for each trial, the same trials after a crash."""

from pathlib import Path
from typing import Any

from bench import PER_SPLIT, TASKS, Bench, FormulaPool, job_file, told, torn

from optimizer.study import all_trials

WHOLE = PER_SPLIT * len(TASKS)


def _job() -> Any:
    return job_file(space={"granularity": "global"}, search={"engine": "gp", "batch": 10, "budget": {"trials": 18}})


def test_each_trial_has_fresh_examples_and_the_answer_all_of_them(tmp_path: Path) -> None:
    pool = FormulaPool(2)
    attempt = Bench(tmp_path, _job()).attempt(pool)
    attempt.coordinator.search()
    asked = {unit.key: unit.ids for unit in pool.asked}
    ids = {trial.number: asked[f"{trial.number}/search"] for trial in all_trials(attempt.study)}
    of = {
        origin: [trial.number for trial in all_trials(attempt.study) if trial.user_attrs["origin"] == origin]
        for origin in ("baseline", "search", "recommendation")
    }
    assert len({ids[number] for number in of["baseline"]}) == 1
    assert len({ids[number] for number in of["search"]}) == len(of["search"]) >= 5
    assert {len(ids[number]) for number in of["search"]} == {10}
    assert [len(ids[number]) for number in of["recommendation"]] == [WHOLE]


def test_a_search_that_is_torn_tells_the_same_trials(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    whole = Bench(tmp_path / "whole", _job()).attempt(FormulaPool())
    whole.coordinator.search()
    again = Bench(tmp_path / "torn", _job())
    assert torn(again, 12, 3, 1000) == 2
    assert told(again.study()) == told(whole.study)
