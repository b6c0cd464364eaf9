"""The gold choice's probability, as lm-eval's metrics compare choices."""

import math

import pytest

from evaluators.choices import comparable, gold_loglikelihood, gold_probability


def test_the_gold_probability_is_a_softmax() -> None:
    scores = [-1.0, -2.0, -3.0]
    total = sum(math.exp(score) for score in scores)
    assert gold_probability(scores, [1]) == pytest.approx(math.exp(-2.0) / total)
    assert gold_probability(scores, [0, 2]) == pytest.approx((math.exp(-1.0) + math.exp(-3.0)) / total)
    assert gold_probability(scores, [0, 1, 2]) == 1.0


def test_very_unlikely_answers_neither_overflow_nor_divide_by_zero() -> None:
    assert gold_probability([-4000.0, -5000.0], [0]) == 1.0
    assert gold_probability([-4000.0, -5000.0], [1]) == 0.0
    assert gold_loglikelihood([-4000.0, -4000.0, -1.0], [0, 1]) == pytest.approx(-4000.0 + math.log(2))
    assert gold_loglikelihood([-4000.0, -7.0], [1]) == -7.0


def test_metrics_compare_choices_by_their_own_measure() -> None:
    values = [-6.0, -6.0]
    choices = ["ab", "né"]
    assert comparable("acc", values, choices) == values
    assert comparable("acc_norm", values, choices) == [-3.0, -3.0]
    assert comparable("acc_bytes", values, choices) == [-3.0, -2.0]
    assert comparable("acc_mutual_info", [-6.0, -6.0, -1.0, -4.0], choices) == [-5.0, -2.0]
    assert comparable("acc_norm", values, ["", "ab"]) == [-math.inf, -3.0]
