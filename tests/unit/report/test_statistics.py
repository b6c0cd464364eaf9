"""Intervals cover what they promise, and paired differences pair."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.statistics import (
    Difference,
    differences_by_task,
    holm,
    interval,
    mcnemar,
    paired_difference,
    wilson,
)

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 1.0}
FAST = 300

scores = st.dictionaries(
    st.text("abcdef0123", min_size=1, max_size=4),
    st.tuples(st.floats(-5, 5, width=32), st.floats(-5, 5, width=32)),
    min_size=1,
    max_size=30,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def by_id(values: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {task: {f"{task}:{i}": v for i, v in enumerate(row)} for task, row in values.items()}


def binary(r: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {t: r.binomial(1, p, n).astype(float) for t, p in (("a", 0.9), ("b", 0.5), ("c", 0.97))}


def skewed(r: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {"a": r.beta(5, 0.5, n), "b": r.beta(0.5, 3, n), "c": r.beta(2, 2, n)}


@pytest.mark.parametrize(
    ("make", "truth", "repeats"),
    [(binary, (0.9 + 2 * 0.5 + 0.97) / 4, 1500), (skewed, (5 / 5.5 + 2 * 0.5 / 3.5 + 0.5) / 4, 500)],
    ids=["binary", "skewed"],
)
def test_the_interval_holds_the_truth_about_95_times_in_100(
    make: Callable[[np.random.Generator, int], dict[str, np.ndarray]], truth: float, repeats: int
) -> None:
    r = rng(42)
    found = [interval(make(r, 60), WEIGHTS, r, 800) for _ in range(repeats)]
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in found])
    assert 0.92 <= covered <= 0.98


def test_the_interval_of_a_paired_difference_holds_the_truth_about_95_times_in_100() -> None:
    r = rng(43)
    covered = 0
    for _ in range(400):
        hard = r.normal(size=150)
        a = {"a": dict(enumerate_ids((r.normal(size=150) + 0.6 > hard).astype(float)))}
        b = {"a": dict(enumerate_ids((r.normal(size=150) > hard).astype(float)))}
        difference = paired_difference(a, b, {"a": 1.0}, r, 800)
        # P(N(0,2) > -0.6) - 1/2
        covered += difference.low <= 0.16432 <= difference.high
    assert 0.92 <= covered / 400 <= 0.98


def enumerate_ids(values: np.ndarray) -> list[tuple[str, float]]:
    return [(str(i), float(v)) for i, v in enumerate(values)]


def test_the_mean_is_the_weighted_mean_of_task_means_whatever_their_sizes() -> None:
    estimate = interval({"a": [0.0, 0.5], "b": [0.25] * 7}, {"a": 3.0, "b": 1.0, "unused": 9.0}, rng(), FAST)
    assert estimate.mean == pytest.approx((3 * 0.25 + 0.25) / 4)
    assert estimate.n == 9
    assert estimate.low < estimate.mean < estimate.high


def test_one_task_of_right_and_wrong_gets_wilsons_interval() -> None:
    estimate = interval({"a": [1.0] * 8 + [0.0] * 2}, {"a": 2.0}, rng())
    assert (estimate.low, estimate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(8, 10))


def test_a_perfect_score_is_not_reported_as_certain() -> None:
    estimate = interval({"a": [1.0] * 60, "b": [1.0] * 60}, {"a": 1.0, "b": 1.0}, rng())
    assert estimate.mean == estimate.high == 1.0
    assert 0.94 < estimate.low < 0.97


def test_the_bootstrap_agrees_with_scipys() -> None:
    from scipy.stats import bootstrap

    values = rng(5).gamma(0.7, size=80)
    ours = interval({"a": values}, {"a": 1.0}, rng(1), 50_000)
    theirs = bootstrap((values,), np.mean, n_resamples=50_000, batch=5000, method="BCa", rng=rng(2)).confidence_interval
    spread = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * spread)


@settings(max_examples=40, deadline=None)
@given(scores)
def test_a_thing_differs_from_itself_by_exactly_nothing(found: dict[str, tuple[float, float]]) -> None:
    a = {"a": {i: x for i, (x, _) in found.items()}}
    difference = paired_difference(a, a, {"a": 1.0}, rng(), FAST)
    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert difference.p == 1.0
    assert difference.changed == 0
    assert not difference.distinguishable


@settings(max_examples=40, deadline=None)
@given(scores)
def test_swapping_the_sides_swaps_the_sign(found: dict[str, tuple[float, float]]) -> None:
    a = {"a": {i: x for i, (x, _) in found.items()}}
    b = {"a": {i: y for i, (_, y) in found.items()}}
    one = paired_difference(a, b, {"a": 1.0}, rng(), FAST)
    two = paired_difference(b, a, {"a": 1.0}, rng(), FAST)
    assert one.mean == -two.mean
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-9)
    assert one.p == two.p


@settings(max_examples=40, deadline=None)
@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter(found: dict[str, tuple[float, float]], order: object) -> None:
    ids = list(found)
    order.shuffle(ids)  # type: ignore[attr-defined]
    a, b = ({"a": {i: found[i][side] for i in found}} for side in (0, 1))
    c = {"a": {i: found[i][0] for i in ids}}
    assert paired_difference(a, b, {"a": 1.0}, rng(), FAST) == paired_difference(c, b, {"a": 1.0}, rng(), FAST)
    one = interval({"a": list(a["a"].values())}, {"a": 1.0}, rng(), FAST)
    assert one == interval({"a": list(c["a"].values())}, {"a": 1.0}, rng(), FAST)


def test_pairing_sees_a_difference_that_separate_intervals_do_not() -> None:
    r = rng(3)
    hard = r.uniform(0, 1, 200)
    a, b = by_id({"a": list(hard + 0.02 + r.normal(0, 0.02, 200))}), by_id({"a": list(hard)})
    difference = paired_difference(a, b, {"a": 1.0}, r)
    assert difference.distinguishable
    one, two = (interval({"a": list(x["a"].values())}, {"a": 1.0}, r) for x in (a, b))
    assert one.low < two.high


def test_equal_models_are_rarely_called_different_even_on_few_examples() -> None:
    r = rng(4)
    claims = 0
    for _ in range(600):
        values = [r.choice([0, 1, -1], p=[0.94, 0.03, 0.03], size=60) for _ in range(2)]
        a = by_id({t: [float(v > 0) for v in x] for t, x in zip("ab", values, strict=True)})
        b = by_id({t: [float(v < 0) for v in x] for t, x in zip("ab", values, strict=True)})
        claims += paired_difference(a, b, {"a": 1.0, "b": 1.0}, r, 500).distinguishable
    assert claims / 600 <= 0.06


def test_four_changed_examples_are_not_enough_to_claim_a_difference() -> None:
    a, b = by_id({"a": [1.0] * 60}), by_id({"a": [0.0] * 4 + [1.0] * 56})
    difference = paired_difference(a, b, {"a": 1.0}, rng())
    assert difference.changed == 4
    assert difference.p == pytest.approx(1 / 16)
    assert not difference.distinguishable


def test_scores_of_different_examples_are_refused_by_name() -> None:
    a = by_id({"a": [1.0, 0.0]})
    with pytest.raises(ValueError, match=r"same examples.*task 'a' 1 stand on one side only, 'a:1'"):
        paired_difference(a, by_id({"a": [1.0]}), {"a": 1.0}, rng())
    with pytest.raises(ValueError, match=r"same tasks.*\['a'\] and \['b'\]"):
        paired_difference(a, by_id({"b": [1.0, 0.0]}), {"a": 1.0}, rng())
    with pytest.raises(ValueError, match="same tasks"):
        differences_by_task(a, {**a, "b": {}}, rng())


@pytest.mark.parametrize(
    ("outcomes", "weights", "message"),
    [
        ({}, {}, "at least one task"),
        ({"a": []}, {"a": 1.0}, "at least one"),
        ({"a": [float("nan")]}, {"a": 1.0}, "must be finite, but task 'a' has nan"),
        ({"a": [1.0]}, {"b": 1.0}, "positive weight, but 'a' has None"),
        ({"a": [1.0]}, {"a": 0.0}, "positive weight, but 'a' has 0"),
        ({"a": [1.0]}, {"a": float("inf")}, "positive weight, but 'a' has inf"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    outcomes: dict[str, list[float]], weights: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        interval(outcomes, weights, rng())


def test_mcnemars_mid_p_is_the_published_value() -> None:
    # Fagerland, Lydersen and Laake 2013, table 1: 1 against 7 changed, mid-p 0.039
    assert mcnemar([1.0] * 1 + [-1.0] * 7 + [0.0] * 13) == pytest.approx(0.0390625)
    assert mcnemar([1.0, -1.0]) == pytest.approx(0.75)
    assert mcnemar([0.0] * 5) == 1.0
    assert 0 < mcnemar([1.0] * 1500 + [-1.0] * 1400) < 0.1


def test_holm_adjusts_over_the_tasks_and_keeps_their_order() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert list(holm({"z": 0.5, "a": 0.9})) == ["z", "a"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_differences_by_task_carry_adjusted_p_values() -> None:
    a = by_id({"a": [1.0] * 40, "b": [1.0] * 40})
    b = by_id({"a": [0.0] * 10 + [1.0] * 30, "b": [1.0] * 40})
    found = differences_by_task(a, b, rng())
    alone = paired_difference({"a": a["a"]}, {"a": b["a"]}, {"a": 1.0}, rng())
    assert list(found) == ["a", "b"]
    assert found["a"].p == pytest.approx(2 * alone.p)
    assert found["a"].distinguishable
    assert not found["b"].distinguishable


def test_a_lower_p_and_a_clear_interval_are_both_needed() -> None:
    assert Difference(0.1, 0.05, 0.15, 100, 0.01, 20).distinguishable
    assert not Difference(0.1, -0.01, 0.2, 100, 0.01, 20).distinguishable
    assert not Difference(0.1, 0.05, 0.15, 100, 0.06, 20).distinguishable


def test_three_tasks_of_a_thousand_examples_take_under_half_a_second() -> None:
    r = rng(6)
    outcomes = {task: r.beta(2, 1, 1000) for task in WEIGHTS}
    times = []
    for _ in range(3):
        start = time.process_time()
        interval(outcomes, WEIGHTS, r)
        times.append(time.process_time() - start)
    assert min(times) < 0.5


def test_the_same_seed_gives_the_same_interval() -> None:
    values = {"a": rng(8).beta(2, 1, 50)}
    assert interval(values, {"a": 1.0}, rng(1)) == interval(values, {"a": 1.0}, rng(1))
