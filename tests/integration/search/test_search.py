"""A search keeps its promises: exact budgets, its baselines first, and nothing lost when something dies."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from bench import Bench, FormulaPool, dies_after, finish_of, job_file, scored, told, torn

from optimizer.errors import JobFailed
from optimizer.jobs import release
from optimizer.pool import Answer, Unit
from optimizer.scorer import Interrupted
from optimizer.study import all_trials

COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL


@pytest.mark.parametrize("engine", ["cma-es", "tpe", "random"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_budget_is_exact_whatever_the_engine_and_the_number_of_workers(
    tmp_path: Path, engine: str, workers: int
) -> None:
    bench = Bench(tmp_path, job_file(search={"engine": engine, "budget": {"trials": 31}}))
    attempt = bench.attempt(FormulaPool(workers))
    attempt.coordinator.search()
    trials = all_trials(attempt.study)
    assert len(trials) == 31
    assert all(trial.state == COMPLETE for trial in trials)


def test_a_budget_of_examples_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, job_file(search={"engine": "random", "budget": {"examples": 40 * 15 + 39}}))
    attempt = bench.attempt(FormulaPool(2))
    attempt.coordinator.search()
    assert len(all_trials(attempt.study)) == 15


def test_the_first_trials_are_base_parents_average_and_scales(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    attempt = bench.attempt(FormulaPool())
    attempt.coordinator.search()
    labels = [trial.user_attrs.get("label") for trial in all_trials(attempt.study)]
    assert labels[:4] == ["base", "parent north", "parent south", "uniform average"]
    # the uniform average of two is task arithmetic 0.5, so that scale is not scored twice
    assert labels[4:8] == [f"task arithmetic {scale}" for scale in ("0.2", "0.3", "0.4", "0.6")]
    assert [trial.user_attrs["origin"] for trial in all_trials(attempt.study)[8:]].count("baseline") == 0


def test_baselines_that_the_space_cannot_express_are_scored_all_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path, job_file(method={"name": "ties", "density": 0.3}))
    attempt = bench.attempt(FormulaPool())
    attempt.coordinator.search()
    parents = [trial for trial in all_trials(attempt.study) if trial.user_attrs.get("kind") == "parent"]
    assert [trial.params for trial in parents] == [{}, {}]
    assert all(attempt.coordinator.recipe(trial).method == "task_arithmetic" for trial in parents)
    assert all(trial.state == COMPLETE for trial in all_trials(attempt.study))


@pytest.mark.parametrize("engine", ["cma-es", "tpe", "random"])
def test_a_search_that_is_stopped_and_resumed_many_times_tells_the_same_trials(tmp_path: Path, engine: str) -> None:
    search = {"engine": engine, "budget": {"trials": 40}, "seed": 3}
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    whole = Bench(tmp_path / "whole", job_file(search=search))
    undisturbed = whole.attempt(FormulaPool())
    undisturbed.coordinator.search()

    again = Bench(tmp_path / "torn", job_file(search=search))
    assert torn(again, 2, 9, 1, 14, 5, 1000) == 5
    assert told(again.study()) == told(undisturbed.study)


def test_a_result_recorded_just_before_a_crash_is_told_and_not_scored_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.attempt(FormulaPool())
    record = first.evidence.record

    def dies_after_recording(finished: Any, worker: str) -> None:
        record(finished, worker)
        if finished.round.trial == 5:
            raise Interrupted("interrupt")

    first.scorer.record = dies_after_recording
    with pytest.raises(Interrupted):
        first.coordinator.search()
    release(bench.database, first.evidence.job_id, first.evidence.attempt)

    pool = FormulaPool()
    second = bench.attempt(pool)
    second.coordinator.search()
    assert "5/search" not in [unit.key for unit in pool.asked]
    assert all_trials(second.study)[5].state == COMPLETE


def test_a_lost_worker_gives_its_trial_back_and_nothing_is_told_twice(tmp_path: Path) -> None:
    lost: list[str] = []

    def answer(unit: Unit) -> Answer | None:
        if unit.key in ("3/search", "17/search") and lost.count(unit.key) < 2:
            lost.append(unit.key)
            return Answer(unit, None, "worker-1", lost="killed")
        return None

    bench = Bench(tmp_path)
    attempt = bench.attempt(FormulaPool(2, answer))
    attempt.coordinator.search()
    assert len(lost) == 4
    assert [trial.state for trial in all_trials(attempt.study)] == [COMPLETE] * 40


def test_a_recipe_that_loses_three_workers_in_a_row_fails_alone(tmp_path: Path) -> None:
    def answer(unit: Unit) -> Answer | None:
        return Answer(unit, None, "worker-1", lost="out of memory") if unit.key == "12/search" else None

    bench = Bench(tmp_path)
    attempt = bench.attempt(FormulaPool(1, answer))
    attempt.coordinator.search()
    trials = all_trials(attempt.study)
    assert [trial.number for trial in trials if trial.state == FAIL] == [12]
    assert "out of memory" in trials[12].user_attrs["error"]


def test_a_broken_merge_fails_with_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    def answer(unit: Unit) -> Answer | None:
        broken = unit.key in ("11/search", "15/search")
        return scored(unit, error="`model.norm.weight` must be finite") if broken else None

    bench = Bench(tmp_path)
    attempt = bench.attempt(FormulaPool(1, answer))
    attempt.coordinator.search()
    failed = [trial for trial in all_trials(attempt.study) if trial.state == FAIL]
    assert [trial.number for trial in failed] == [11, 15]
    assert "model.norm.weight" in failed[0].user_attrs["error"]
    assert failed[0].values is None


def test_a_job_whose_first_trials_all_fail_stops_and_says_why(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    attempt = bench.attempt(FormulaPool(1, lambda unit: scored(unit, error="no such tensor")))
    with pytest.raises(JobFailed, match="no such tensor"):
        attempt.coordinator.search()
    assert len([trial for trial in all_trials(attempt.study) if trial.state == FAIL]) == 5


def test_two_objectives_are_searched_and_the_finalists_come_from_the_front(tmp_path: Path) -> None:
    tasks = [{"task": "north_task", "objective": "north"}, {"task": "south_task", "objective": "south"}]
    job = job_file(evaluate={"tasks": tasks}, search={"engine": "nsga2", "budget": {"trials": 40}})
    bench = Bench(tmp_path, job)
    attempt = bench.attempt(FormulaPool(2))
    attempt.coordinator.search()
    assert len(attempt.study.best_trials) >= 1
    assert all(trial.values is not None and len(trial.values) == 2 for trial in all_trials(attempt.study))


def test_the_winner_and_every_baseline_are_scored_on_test_once_even_after_a_crash_there(tmp_path: Path) -> None:
    bench, opened, pools = Bench(tmp_path), [], [FormulaPool(), FormulaPool()]
    first = bench.attempt(pools[0])
    first.coordinator.search()
    first.scorer.check = dies_after(10)
    with pytest.raises(Interrupted):
        finish_of(bench, first, lambda: opened.append(first.evidence.attempt)).run()
    release(bench.database, first.evidence.job_id, first.evidence.attempt)

    second = bench.attempt(pools[1])
    second.coordinator.search()
    ending = finish_of(bench, second, lambda: opened.append(second.evidence.attempt)).run()

    asked = [unit.key for pool in pools for unit in pool.asked if unit.key.endswith("/test")]
    baselines = [trial.number for trial in all_trials(second.study) if trial.user_attrs["origin"] == "baseline"]
    expected = [f"{number}/test" for number in {*baselines, ending.winner}]
    assert ending.winner in ending.finalists
    assert set(asked) == set(expected)
    assert len(asked) - len(expected) <= 1  # the round under way when it died
    assert opened == [1, 2]  # both openings are known


def test_the_winner_is_chosen_on_examples_the_search_did_not_follow(tmp_path: Path) -> None:
    def answer(unit: Unit) -> Answer | None:
        """Trial 20 shines on search alone; the uniform average is as good as it looks."""
        if unit.key not in ("20/search", "20/select"):
            return None
        flattering = scored(unit)
        assert flattering.scored is not None
        flattering.scored["metric"] = [1.0 if unit.key == "20/search" else 0.0 for _ in unit.ids]
        return flattering

    bench = Bench(tmp_path)
    attempt = bench.attempt(FormulaPool(1, answer))
    attempt.coordinator.search()
    ending = finish_of(bench, attempt).run()
    assert 20 in ending.finalists
    assert ending.winner != 20
