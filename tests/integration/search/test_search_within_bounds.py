"""A search under bounds prefers merges that keep them, and says so where none does."""

from pathlib import Path
from typing import Any

import pytest
from bench import Attempt, Bench, FormulaPool, dies_after, finish_of, job_file, scored, told
from optuna.trial import FrozenTrial

from optimizer.errors import JobFailed
from optimizer.jobs import get_job, release
from optimizer.pool import Answer, Unit
from optimizer.scorer import Interrupted
from optimizer.study import all_trials
from optimizer.summary import Summary


def _job(bound: dict[str, Any], engine: str = "random", trials: int = 40) -> Any:
    """North's task is what is searched for; south's is only to be kept within `bound`."""
    tasks = [{"task": "north_task"}, {"task": "south_task", "bound": bound}]
    return job_file(
        evaluate={"tasks": tasks},
        search={"engine": engine, "budget": {"trials": trials}},
        space={"granularity": "global"},
    )


def _south_is_its_weight(unit: Unit) -> Answer:
    """South's task scores the weight of expert south, North's the formula."""
    answer = scored(unit)
    assert answer.scored is not None
    (row, *_) = unit.recipe["coefficients"].values()
    weight = row[list(unit.recipe["experts"]).index("south")]
    metric = [
        weight if name.startswith("south") else value
        for name, value in zip(unit.ids, answer.scored["metric"], strict=True)
    ]
    return Answer(unit, {**answer.scored, "metric": metric}, answer.worker)


def _searched(bench: Bench, workers: int = 1) -> Attempt:
    attempt = bench.attempt(FormulaPool(workers, _south_is_its_weight))
    attempt.coordinator.search()
    return attempt


def _south_weight(trial: FrozenTrial) -> float:
    return float(trial.params["weight.south"])


def test_every_trial_carries_how_far_it_is_beyond_the_bound(tmp_path: Path) -> None:
    bench = Bench(tmp_path, _job({"at_most": 0.2}))
    trials = all_trials(_searched(bench).study)
    assert len(trials) == 40
    for trial in trials:
        assert trial.constraints == {"south_task": pytest.approx(_south_weight(trial) - 0.2)}
        assert trial.user_attrs["feasible"] == (_south_weight(trial) <= 0.2)


def test_the_bounded_task_is_no_part_of_what_is_searched_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, _job({"at_most": 0.2}))
    attempt = _searched(bench)
    for trial in all_trials(attempt.study):
        outcomes = attempt.evidence.outcomes(trial.number, "search") or []
        north = [outcome.metric for outcome in outcomes if outcome.id.startswith("north")]
        assert trial.values == [pytest.approx(sum(north) / len(north))]


def test_the_winner_keeps_the_bound_though_better_merges_break_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, _job({"at_most": 0.15}))
    attempt = _searched(bench)
    trials = all_trials(attempt.study)
    best = max(trials, key=lambda trial: trial.values[0])
    assert not best.user_attrs["feasible"]  # else this test would show nothing
    ending = finish_of(bench, attempt).run()
    assert _south_weight(trials[ending.winner]) <= 0.15
    feasible = [trial for trial in trials if trial.user_attrs["feasible"] and trial.user_attrs["origin"] == "search"]
    assert max(feasible, key=lambda trial: trial.values[0]).number in ending.finalists


def test_a_bound_nobody_can_keep_leaves_the_merge_nearest_to_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, _job({"at_least": 3.0}))
    attempt = _searched(bench)
    winner = all_trials(attempt.study)[finish_of(bench, attempt).run().winner]
    assert _south_weight(winner) == max(_south_weight(trial) for trial in all_trials(attempt.study))


@pytest.mark.parametrize(("of", "label"), [("base", "base"), ("south", "parent south")])
def test_the_model_a_bound_is_measured_from_is_scored_before_anything_else(tmp_path: Path, of: str, label: str) -> None:
    bench = Bench(tmp_path, _job({"at_least": -0.3, "of": of}))
    attempt = _searched(bench, workers=4)
    trials = all_trials(attempt.study)
    assert trials[0].user_attrs["label"] == label
    assert all(trial.datetime_start >= trials[0].datetime_complete for trial in trials[1:])
    measured_from = _south_weight(trials[0])
    for trial in trials:
        assert trial.constraints["south_task"] == pytest.approx(measured_from - 0.3 - _south_weight(trial))


def test_the_report_measures_a_relative_bound_on_the_test_split(tmp_path: Path) -> None:
    bench = Bench(tmp_path, _job({"at_most": 0.4, "of": "base"}))
    attempt = _searched(bench)
    ending = finish_of(bench, attempt).run()
    job = get_job(bench.database, "bench")
    results = Summary(job, bench.job, bench.plan, attempt.study, attempt.evidence).results(ending, "done", 1.0, 1)
    winner = results.test[0]
    (kept,) = winner.kept
    trial = all_trials(attempt.study)[ending.winner]
    assert kept.measured.mean == pytest.approx(_south_weight(trial))  # base has none of south
    assert kept.verdict == "kept"
    assert [row.beyond for row in results.trials] == [
        pytest.approx(max(0.0, _south_weight(one) - 0.4)) for one in all_trials(attempt.study)
    ]


def test_a_reference_that_cannot_be_scored_ends_the_job_with_its_reason(tmp_path: Path) -> None:
    def fails_on_base(unit: Unit) -> Answer:
        return scored(unit, error="weights are NaN") if unit.key == "0/search" else _south_is_its_weight(unit)

    bench = Bench(tmp_path, _job({"at_least": -0.3, "of": "base"}))
    attempt = bench.attempt(FormulaPool(1, fails_on_base))
    with pytest.raises(JobFailed, match=r"base could not be scored.*NaN"):
        attempt.coordinator.search()


def test_a_bounded_search_that_is_torn_tells_the_same_trials(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    job = _job({"at_least": -0.3, "of": "base"}, engine="cma-es")
    whole = _searched(Bench(tmp_path / "whole", job))
    torn = Bench(tmp_path / "torn", job)
    for calls in (1, 2, 7, 1000):
        attempt = torn.attempt(FormulaPool(1, _south_is_its_weight), dies_after(calls))
        try:
            attempt.coordinator.search()
        except Interrupted:
            release(torn.database, attempt.evidence.job_id, attempt.evidence.attempt)
    assert told(torn.study()) == told(whole.study)


@pytest.mark.parametrize("workers", [1, 3])
def test_bounds_from_two_models_wait_for_both_also_after_a_crash(tmp_path: Path, workers: int) -> None:
    tasks = [
        {"task": "north_task", "objective": "score", "bound": {"at_least": -0.9, "of": "base"}},
        {"task": "south_task", "bound": {"at_least": -0.3, "of": "south"}},
    ]
    job = job_file(
        evaluate={"tasks": tasks},
        search={"engine": "random", "budget": {"trials": 20}},
        space={"granularity": "global"},
    )
    bench = Bench(tmp_path, job)
    first = bench.attempt(FormulaPool(workers, _south_is_its_weight), dies_after(3))
    with pytest.raises(Interrupted):
        first.coordinator.search()
    release(bench.database, first.evidence.job_id, first.evidence.attempt)
    trials = all_trials(_searched(bench, workers).study)
    assert len(trials) == 20
    assert [trial.user_attrs["label"] for trial in trials[:2]] == ["base", "parent south"]
    for trial in trials:
        assert trial.constraints["south_task"] == pytest.approx(1 - 0.3 - _south_weight(trial))
        assert trial.constraints["north_task"] == pytest.approx(trials[0].values[0] - 0.9 - trial.values[0])
