"""What a bound in a job file means."""

import pytest
from pydantic import ValidationError

from evaluators.bounds import Bound
from evaluators.counted import Counted


def test_a_bound_is_kept_up_to_its_limit_and_broken_by_what_is_beyond() -> None:
    assert Bound(at_most=0.05).violation(0.05) == 0
    assert Bound(at_most=0.05).violation(0.08) == pytest.approx(0.03)
    assert Bound(at_least=0.7).violation(0.9) == pytest.approx(-0.2)
    assert Bound(at_least=0.7).violation(0.4) == pytest.approx(0.3)


def test_with_two_limits_the_nearer_one_counts() -> None:
    between = Bound(at_least=0.2, at_most=0.6)
    assert between.violation(0.5) == pytest.approx(-0.1)
    assert between.violation(0.1) == pytest.approx(0.1)
    assert between.violation(0.9) == pytest.approx(0.3)


def test_a_bound_from_a_model_measures_the_difference() -> None:
    allowed_loss = Bound(at_least=-0.02, of="base")
    assert allowed_loss.violation(0.79, reference=0.8) == pytest.approx(-0.01)
    assert allowed_loss.violation(0.75, reference=0.8) == pytest.approx(0.03)
    assert allowed_loss.in_words() == "at least -0.02 from base"


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({}, "at_most, at_least or both"),
        ({"of": "base"}, "at_most, at_least or both"),
        ({"at_most": 0.1, "at_least": 0.2}, "must not be above"),
        ({"at_mots": 0.1}, "at_mots"),
        ({"at_most": float("nan")}, "at_most"),
    ],
)
def test_a_bound_that_limits_nothing_is_refused(said: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Bound.model_validate(said)


def test_a_bounded_task_counts_towards_an_objective_only_where_it_names_one() -> None:
    assert Counted().objective == "score"
    assert Counted.model_validate({"bound": {"at_most": 1}}).objective is None
    assert Counted.model_validate({"bound": {"at_most": 1}, "objective": "score"}).objective == "score"
    again = Counted.model_validate({"bound": {"at_most": 1}})
    assert Counted.model_validate_json(again.model_dump_json()) == again


def test_a_task_that_counts_for_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="has neither"):
        Counted.model_validate({"objective": None})


def test_the_aim_of_a_metric_can_be_turned_around() -> None:
    forget = Counted(direction="minimize").as_task("secret", "acc", higher_is_better=True)
    assert (forget.higher_is_better, forget.turned) == (False, True)
    usual = Counted(direction="minimize").as_task("errors", "wer", higher_is_better=False)
    assert (usual.higher_is_better, usual.turned) == (False, False)
