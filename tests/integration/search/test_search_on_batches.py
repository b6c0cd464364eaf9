"""A search on batches: fresh examples for each generation, an exact budget, and no winner by luck."""

from pathlib import Path
from typing import Any

import pytest
from bench import PER_SPLIT, TASKS, Attempt, Bench, FormulaPool, finish_of, job_file, told, torn
from optuna.trial import FrozenTrial

from optimizer.study import all_trials

WHOLE = PER_SPLIT * len(TASKS)


def _job(**search: Any) -> Any:
    return job_file(search={"engine": "cma-es", "batch": 10, "budget": {"trials": 60}, **search})


def _searched(bench: Bench, workers: int = 1) -> tuple[Attempt, FormulaPool]:
    pool = FormulaPool(workers)
    attempt = bench.attempt(pool)
    attempt.coordinator.search()
    return attempt, pool


def _asked(pool: FormulaPool, trials: list[FrozenTrial]) -> dict[int, tuple[str, ...]]:
    return {trial.number: next(u.ids for u in pool.asked if u.key == f"{trial.number}/search") for trial in trials}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_generation_shares_its_examples_and_the_next_has_others(tmp_path: Path, workers: int) -> None:
    attempt, pool = _searched(Bench(tmp_path, _job()), workers)
    trials = all_trials(attempt.study)
    asked = _asked(pool, trials)
    batches: dict[int, set[tuple[str, ...]]] = {}
    for trial in trials:
        if "generation" in trial.user_attrs:
            batches.setdefault(trial.user_attrs["generation"], set()).add(asked[trial.number])
    assert len(batches) >= 3
    assert all(len(one) == 1 for one in batches.values())
    assert len({batch for one in batches.values() for batch in one}) == len(batches)
    assert all(len(batch) == 10 for one in batches.values() for batch in one)


def test_baselines_share_a_screen_and_the_answer_is_scored_on_all_examples(tmp_path: Path) -> None:
    attempt, pool = _searched(Bench(tmp_path, _job()))
    trials = all_trials(attempt.study)
    asked = _asked(pool, trials)
    screens = {asked[trial.number] for trial in trials if trial.user_attrs["origin"] == "baseline"}
    assert [len(screen) for screen in screens] == [10]
    (answer,) = [trial for trial in trials if trial.user_attrs["origin"] == "recommendation"]
    assert len(asked[answer.number]) == WHOLE
    assert answer.user_attrs["examples"] == WHOLE
    assert 0 < answer.user_attrs["standard_error"]["score"] < 0.1


@pytest.mark.parametrize("workers", [1, 4])
def test_a_budget_of_examples_is_never_exceeded_and_used_up(tmp_path: Path, workers: int) -> None:
    budget = 500
    attempt, _ = _searched(Bench(tmp_path, _job(budget={"examples": budget})), workers)
    spent = sum(trial.user_attrs["examples"] for trial in all_trials(attempt.study))
    assert budget - 10 < spent <= budget


def test_the_search_begins_at_the_best_baseline_of_the_screen(tmp_path: Path) -> None:
    attempt, _ = _searched(Bench(tmp_path, _job()))
    trials = all_trials(attempt.study)
    baselines = [trial for trial in trials if trial.user_attrs["origin"] == "baseline"]
    best = max(baselines, key=lambda trial: (trial.values[0], -trial.number))
    assert attempt.study.user_attrs["cma-es"]["start"] == best.params


def test_a_search_on_batches_that_is_torn_tells_the_same_trials(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    whole, _ = _searched(Bench(tmp_path / "whole", _job(budget={"examples": 700})))
    again = Bench(tmp_path / "torn", _job(budget={"examples": 700}))
    assert torn(again, 2, 9, 1, 14, 1000) == 4
    assert told(again.study()) == told(whole.study)


def test_a_lucky_batch_makes_no_finalist(tmp_path: Path) -> None:
    bench = Bench(tmp_path, _job())
    attempt, _ = _searched(bench)
    ending = finish_of(bench, attempt, whole=WHOLE).run()
    origins = {all_trials(attempt.study)[number].user_attrs["origin"] for number in ending.finalists}
    assert origins == {"recommendation", "baseline"}


def test_a_bound_from_the_base_is_measured_on_each_batch(tmp_path: Path) -> None:
    tasks = [{"task": "north_task"}, {"task": "south_task", "bound": {"at_least": -0.3, "of": "base"}}]
    bench = Bench(tmp_path, job_file(evaluate={"tasks": tasks}, search=_job().search.model_dump()))
    attempt, pool = _searched(bench)
    trials = all_trials(attempt.study)
    base = {outcome.id: outcome.metric for outcome in attempt.evidence.outcomes(0, "search") or []}
    assert len(base) == WHOLE
    for trial in trials[1:]:
        outcomes = attempt.evidence.outcomes(trial.number, "search") or []
        south = [outcome for outcome in outcomes if outcome.id.startswith("south")]
        lost = sum(base[one.id] - one.metric for one in south) / len(south)
        assert trial.constraints == {"south_task": pytest.approx(lost - 0.3)}
    assert {len(ids) for ids in _asked(pool, trials).values()} == {10, WHOLE}
