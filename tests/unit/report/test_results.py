"""Results survive the trip through JSON, and the headline is honest."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import sample

from optimizer.headline import headline, signed
from optimizer.results import (
    Objective,
    Results,
    by_expert,
    from_json,
    place,
    ranked,
    reason,
    sorted_standings,
    to_json,
)
from optimizer.statistics import Difference, Estimate

EVERY = [
    sample.full,
    sample.unfinished,
    sample.single_trial,
    sample.no_trials,
    sample.only_failures,
    sample.two_objectives,
    sample.hostile,
]


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_results_come_back_from_json_as_they_were(make: Callable[[], Results]) -> None:
    results = make()
    text = json.dumps(to_json(results), allow_nan=False)
    assert from_json(json.loads(text)) == results


def test_an_unknown_key_is_refused() -> None:
    data = to_json(sample.full())
    data["trials"][0]["vaules"] = {}
    with pytest.raises(ValueError, match="vaules"):
        from_json(data)


def test_a_score_that_is_not_finite_never_gets_in() -> None:
    row = sample.trials()[0]
    with pytest.raises(ValueError, match="finite"):
        replace(row, values={"score": float("nan")})
    with pytest.raises(ValueError, match="finite"):
        sample.full(optimism=float("inf"))


def test_ranking_follows_the_direction_of_the_objective() -> None:
    results = sample.two_objectives()
    skill, perplexity = results.objectives
    values = [row.values["skill"] for row in ranked(results, skill)]
    assert values == sorted(values, reverse=True)
    values = [row.values["perplexity"] for row in ranked(results, perplexity)]
    assert values == sorted(values)


def test_of_equal_scores_the_winner_stands_first() -> None:
    standings = sample.standings_on_test()
    winner = next(one for one in standings if one.kind == "winner")
    other = next(one for one in standings if one.kind != "winner")
    alike = replace(winner.objectives["score"], mean=winner.objectives["score"].mean + 1e-16)
    found = sorted_standings((replace(other, objectives={"score": alike}), winner), Objective("score"))
    assert found[0] is winner


def test_no_difference_is_not_a_negative_one() -> None:
    assert signed(-1e-17) == "+0.0000"
    assert signed(-0.0001) == "-0.0001"


def test_groups_are_placed_by_layer_and_module() -> None:
    assert place("layer.12.attention") == (12, "attention")
    assert place("layer.3") == (3, "all")
    assert place("head") == (None, "head")
    cells = by_expert({"layer.1.mlp": {"x": 0.1, "y": 0.2}, "layer.0.mlp": {"x": 0.3}, "head": {"y": 0.4}})
    assert cells == {("x", "mlp"): {1: 0.1, 0: 0.3}, ("y", "mlp"): {1: 0.2}, ("y", "head"): {None: 0.4}}


def test_of_a_traceback_the_message_is_shown() -> None:
    row = replace(sample.trials()[20], error="Traceback:\n  line\nValueError: q_proj has a NaN\n")
    assert reason(row) == "ValueError: q_proj has a NaN"
    assert reason(replace(row, error=None)) == "no reason recorded"


def test_the_headline_compares_with_the_best_parent_and_the_best_baseline() -> None:
    text = "\n".join(headline(sample.full()))
    assert "The winner, trial 57, scores 0.9242 on 900 test examples the search never saw" in text
    assert "It is better than the best parent, parent reverse (0.7300)" in text
    assert "It is better than the best baseline, task arithmetic 0.4 (0.8883)" in text
    assert "Optimism +0.0132" in text
    assert "25,128 examples scored over 118 trials; 2 trials failed and have no score." in text
    assert "The test split was opened once." in text


def with_difference(results: Results, label: str, difference: Difference) -> Results:
    test = [replace(s, difference={"score": difference}) if s.label == label else s for s in results.test]
    return replace(results, test=tuple(test))


def test_what_the_interval_cannot_tell_apart_is_called_not_distinguishable() -> None:
    close = Difference(0.004, -0.010, 0.018, 900, 0.6, 40)
    text = "\n".join(headline(with_difference(sample.full(), "task arithmetic 0.4", close)))
    assert "It is not distinguishable from the best baseline, task arithmetic 0.4 (0.8883)" in text
    assert "better than the best baseline" not in text
    assert "-0.0100 to +0.0180, p = 0.600" in text


def test_others_the_winner_cannot_be_told_from_are_named_too() -> None:
    close = Difference(0.004, -0.010, 0.018, 900, 0.6, 40)
    text = "\n".join(headline(with_difference(sample.full(), "uniform average", close)))
    assert "Nor can it be distinguished from uniform average." in text


def test_a_winner_below_a_parent_is_called_worse() -> None:
    below = Difference(-0.05, -0.07, -0.03, 900, 0.0001, 90)
    text = "\n".join(headline(with_difference(sample.full(), "parent reverse", below)))
    assert "It is worse than the best parent, parent reverse" in text


def test_where_lower_is_better_a_negative_difference_is_better() -> None:
    text = "\n".join(headline(sample.two_objectives()))
    assert "On perplexity, the winner, trial 57, scores 6.4550" in text
    assert "It is better than the best baseline, task arithmetic 0.4 (6.6700): paired difference -0.2150" in text


def test_without_a_test_result_scores_are_called_optimistic() -> None:
    text = "\n".join(headline(sample.unfinished()))
    assert "The job is running" in text
    assert "search-split scores" in text
    assert "optimistic" in text
    assert "The test split has not been opened." in text
    assert "best baseline, task arithmetic 0.4" in text


def test_select_scores_alone_are_still_called_optimistic() -> None:
    full = sample.full()
    text = "\n".join(headline(replace(full, test=(), optimism=None, test_openings=0, select=full.test)))
    assert "of the select split" in text
    assert "search and select splits" in text
    assert "optimistic" in text


def test_a_winner_that_is_a_baseline_is_called_one() -> None:
    full = sample.full()
    test = tuple(replace(s, origin="baseline") if s.kind == "winner" else s for s in full.test)
    assert "The winner is itself a baseline" in "\n".join(headline(replace(full, test=test)))


def test_opening_the_test_split_again_is_said() -> None:
    assert "opened 3 times" in "\n".join(headline(sample.full(test_openings=3)))


def test_a_search_score_below_the_test_score_is_no_optimism() -> None:
    assert "Optimism -0.0100: its search score was not above" in "\n".join(headline(sample.full(optimism=-0.01)))


def test_a_failed_job_opens_with_its_reason() -> None:
    found = headline(sample.only_failures())
    assert found[0] == "The job is failed: three trials failed in a row"
    assert "No trial has a score yet." in found


def test_a_job_with_no_comparison_says_so() -> None:
    full = sample.full()
    test = tuple(replace(s, difference=None) for s in full.test)
    assert "It was not compared example by example with the best parent" in "\n".join(
        headline(replace(full, test=test))
    )


def test_numpy_numbers_become_plain_ones() -> None:
    import numpy as np

    row = replace(sample.trials()[0], values={"score": np.float32(0.5)})
    assert type(row.values["score"]) is float
    assert Objective("x").higher_is_better
    assert Estimate(0.5, 0.4, 0.6, 10).n == 10
