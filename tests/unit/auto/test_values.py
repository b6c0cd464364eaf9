"""An objective from examples is the same number here as in the report."""

import math

import numpy as np
import pytest

from evaluators.aggregate import objectives, standard_errors, task_means
from evaluators.protocol import Outcome, Task
from optimizer.auto.rule import engine_for
from optimizer.auto.screen import least_examples
from optimizer.auto.values import Measure, task_of
from optimizer.told import attributes_of

TASKS = [
    Task("a", "acc", True, 1.0, "score"),
    Task("b", "bits", False, 2.5, "score"),
    Task("c", "acc", False, 1.0, "score", turned=True),
    Task("kept", "acc", True, 7.0, None),
]


def outcomes_of(seed: int = 0) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    sizes = {"a": 5, "b": 9, "c": 3, "kept": 4}
    return [
        Outcome(f"{task}:{number}", float(rng.random()), float(rng.random()))
        for task, size in sizes.items()
        for number in range(size)
    ]


@pytest.mark.parametrize("signal", ["metric", "smooth"])
def test_the_search_and_the_report_have_the_same_objective_and_standard_error(signal: str) -> None:
    measure = Measure(TASKS, signal)  # type: ignore[arg-type]
    for seed in range(5):
        outcomes = outcomes_of(seed)
        ids = [one.id for one in outcomes]
        assert measure.mean(outcomes) == pytest.approx(objectives(outcomes, TASKS, signal)["score"])  # type: ignore[arg-type]
        error = standard_errors(outcomes, TASKS, signal)["score"]  # type: ignore[arg-type]
        assert measure.standard_error(ids, measure.values(outcomes)) == pytest.approx(error)


def test_weights_add_up_to_one_over_the_tasks_that_are_there() -> None:
    measure = Measure(TASKS)
    assert sum(measure.counted().values()) == pytest.approx(1)
    assert "kept" not in measure.counted()
    weights = measure.weights(["a:1", "b:1", "b:2", "kept:1"])
    assert weights == pytest.approx([1 / 3.5, 2.5 / 3.5 / 2, 2.5 / 3.5 / 2, 0.0])


def test_one_example_alone_has_no_standard_error() -> None:
    assert math.isnan(Measure(TASKS).standard_error(["a:1", "b:1", "b:2"], np.array([0.0, 1.0, 0.5])))


def test_a_task_may_have_colons_in_its_name() -> None:
    assert task_of("mmlu:law:4f2a") == "mmlu:law"


def test_auto_is_the_strategy_for_one_objective_and_an_engine_for_the_rest() -> None:
    assert engine_for(1, bounded=False) == "auto"
    assert engine_for(1, bounded=True) == "cma-es"
    assert {engine_for(count, bounded) for count in (2, 3) for bounded in (True, False)} == {"nsga2"}
    assert engine_for(4, bounded=False) == engine_for(9, bounded=True) == "nsga3"


def test_the_least_budget_grows_with_the_warm_starts() -> None:
    assert least_examples(8) - least_examples(7) == least_examples(7) - least_examples(6) > 0


def test_a_trial_is_told_what_it_scored_on_every_task() -> None:
    outcomes = outcomes_of()
    told = attributes_of("abc", outcomes, 1.23456, TASKS, "metric")
    assert (told["digest"], told["examples"], told["seconds"]) == ("abc", len(outcomes), 1.235)
    assert told["tasks"] == task_means(outcomes, TASKS)
    assert told["standard_error"] == standard_errors(outcomes, TASKS, "metric")
