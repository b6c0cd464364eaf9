"""Averages come from examples, and from nothing that was not scored."""

import random

import pytest

from evaluators.aggregate import objectives, standard_errors, task_means
from evaluators.bounds import Bound
from evaluators.counted import Counted
from evaluators.protocol import EvaluatorError, Outcome, Task

READ = Task("read", "acc", higher_is_better=True, weight=1.0, objective="score")
MATH = Task("math", "exact_match", higher_is_better=True, weight=3.0, objective="score")
ERRORS = Task("group::errors", "wer", higher_is_better=False, weight=1.0, objective="speech")

OUTCOMES = [
    Outcome("read:01", 1.0, 0.9, -0.1),
    Outcome("read:02", 0.0, 0.3, -1.2),
    Outcome("math:01", 1.0, 0.5, -0.7),
    Outcome("group::errors:01", 0.25, 0.8, -0.2),
    Outcome("group::errors:02", 0.75, 0.6, -0.5),
]
TASKS = [READ, MATH, ERRORS]


def test_each_task_is_the_mean_of_its_examples() -> None:
    assert task_means(OUTCOMES, TASKS) == {
        "read": {"metric": 0.5, "smooth": pytest.approx(0.6)},
        "math": {"metric": 1.0, "smooth": 0.5},
        "group::errors": {"metric": 0.5, "smooth": pytest.approx(0.7)},
    }


def test_objectives_weigh_tasks_not_examples() -> None:
    assert objectives(OUTCOMES, TASKS) == {"score": (0.5 + 3 * 1.0) / 4, "speech": -0.5}


def test_larger_is_better_also_where_the_metric_counts_errors() -> None:
    worse = [*OUTCOMES[:-1], Outcome("group::errors:02", 0.95, 0.6, -0.5)]
    assert objectives(worse, TASKS)["speech"] < objectives(OUTCOMES, TASKS)["speech"]
    smooth = objectives(OUTCOMES, TASKS, "smooth")
    assert smooth["speech"] == pytest.approx(0.7)
    assert smooth["score"] == pytest.approx((0.6 + 3 * 0.5) / 4)


def test_the_order_of_outcomes_changes_no_bit() -> None:
    rng = random.Random(1)
    rows = [Outcome(f"read:{index}", rng.random(), rng.random()) for index in range(500)]
    expected = objectives(rows, [READ])
    rng.shuffle(rows)
    assert objectives(rows, [READ]) == expected


def test_a_task_that_was_not_scored_has_no_mean() -> None:
    with pytest.raises(EvaluatorError, match="task `math` has no scored example"):
        objectives(OUTCOMES[:2], [READ, MATH])


def test_an_example_counts_once() -> None:
    with pytest.raises(EvaluatorError, match="`read:01` has two outcomes"):
        task_means([*OUTCOMES, OUTCOMES[0]], TASKS)


def test_a_foreign_outcome_is_refused() -> None:
    with pytest.raises(EvaluatorError, match=r"`read:01` belongs to none of the tasks: math\."):
        task_means(OUTCOMES, [MATH])


def test_a_smooth_objective_needs_smooth_scores() -> None:
    rows = [Outcome("read:01", 1.0, 0.5), Outcome("math:01", 1.0)]
    assert objectives(rows, [READ, MATH]) == {"score": 1.0}
    with pytest.raises(EvaluatorError, match=r"but math has none\. Set `gold_likelihood: true`"):
        objectives(rows, [READ, MATH], "smooth")
    with pytest.raises(EvaluatorError, match="a smooth score for 1 of 2 examples"):
        task_means([Outcome("read:01", 1.0, 0.5), Outcome("read:02", 1.0)], [READ])


def test_a_task_that_is_only_bounded_enters_no_objective() -> None:
    bounded = Task("math", "exact_match", True, 3.0, None, Bound(at_least=0.5))
    assert objectives(OUTCOMES[:3], [READ, bounded]) == {"score": 0.5}
    without_smooth = [Outcome("read:01", 1.0, 0.9), Outcome("math:01", 1.0)]
    assert objectives(without_smooth, [READ, bounded], "smooth") == {"score": 0.9}


def test_where_a_task_is_to_be_forgotten_its_right_answers_count_against_the_merge() -> None:
    forget = Counted(direction="minimize").as_task("read", "acc", higher_is_better=True)
    assert objectives(OUTCOMES[:2], [forget]) == {"score": -0.5}
    assert objectives(OUTCOMES[:2], [forget], "smooth")["score"] == pytest.approx(-0.6)


def test_the_standard_error_of_an_objective_is_that_of_its_weighted_means() -> None:
    rows = [Outcome(f"read:{i}", float(i % 2)) for i in range(10)] + [Outcome(f"math:{i}", 1.0) for i in range(5)]
    (error,) = standard_errors(rows, [READ, MATH]).values()
    assert error == pytest.approx(0.25 * (0.25 * 10 / 9 / 10) ** 0.5)  # math is sure, and read counts one part of four


def test_one_example_tells_nothing_of_its_spread() -> None:
    assert standard_errors([Outcome("read:01", 1.0)], [READ]) == {"score": None}
