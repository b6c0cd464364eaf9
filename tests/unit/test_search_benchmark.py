"""The benchmark of searches is fair: all pay for what they see, none sees test, and a seed gives one run."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search.budgets import budget_of, in_order
from benchmarks.search.contestants import BASELINES, INCUMBENT, STRONG, everyone
from benchmarks.search.figures import OFFSETS, figures
from benchmarks.search.judge import Point, Run, judged, looked_at, path_of, read
from benchmarks.search.landscape import Coefficients, Landscape, Step
from benchmarks.search.meter import Meter, Refused
from benchmarks.search.parallel import simulate
from benchmarks.search.plots import curves, svg
from benchmarks.search.run import Wanted, report, run_missing
from benchmarks.search.synthetic import Quadratic, quadratic
from benchmarks.search.table import markdown

BUDGET = 640  # a generation of CMA-ES on every coefficient, and some


@pytest.fixture(scope="module")
def small() -> Quadratic:
    return quadratic(0, {"gradient": 128, "search": 32, "select": 32, "test": 200})


def _uniform(landscape: Landscape) -> Coefficients:
    return np.full((len(landscape.groups), len(landscape.experts)), 0.25)


def _run(contestant: str, *points: tuple[int, float], seed: int = 0, claimed: float | None = None) -> Run:
    return Run("made up", contestant, seed, 100_000, tuple(Point(efe, test, claimed) for efe, test in points), 1.0, 1.0)


@pytest.mark.parametrize("name", everyone())
def test_a_contestant_keeps_its_budget_and_repeats_itself_for_a_seed(name: str, small: Quadratic) -> None:
    first, second = (judged(name, everyone()[name], small, BUDGET, seed=3) for _ in range(2))
    assert first.points == second.points
    costs = [point.efe for point in first.points]
    assert costs == sorted(costs)
    assert 0 < costs[-1] <= BUDGET  # the meter has refused what is beyond


@pytest.mark.parametrize("name", [name for name in BASELINES if "grid" not in name and "GP on" not in name])
def test_another_seed_gives_another_search(name: str, small: Quadratic) -> None:
    one, other = (next(iter(BASELINES[name](Meter(small, BUDGET), BUDGET, seed))).recommended for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_test_examples_are_out_of_a_contestants_sight(small: Quadratic) -> None:
    meter = Meter(small, BUDGET)
    assert "test" not in meter.ids
    sealed = small.ids["test"][:1]
    with pytest.raises(Refused, match="in none of them"):
        meter.score(_uniform(small), sealed)
    with pytest.raises(Refused, match="in none of them"):
        meter.gradient(_uniform(small), sealed, {"task0": 1.0})
    assert meter.spent == 0


def test_a_gradient_costs_three_times_a_score_and_nothing_goes_beyond_the_budget(small: Quadratic) -> None:
    meter = Meter(small, 50)
    meter.score(_uniform(small), small.ids["search"][:20])
    meter.gradient(_uniform(small), small.ids["gradient"][:10], {"task0": 1.0})
    assert meter.spent == 50
    with pytest.raises(Refused, match="has spent 50 and asks for 1 more"):
        meter.score(_uniform(small), small.ids["search"][:1])


def test_a_contestant_that_says_less_than_it_spent_is_found_out(small: Quadratic) -> None:
    def thrifty(landscape: Landscape, budget: int, seed: int) -> Iterator[Step]:  # noqa: ARG001
        landscape.score(_uniform(landscape), landscape.ids["search"])
        yield Step(1, _uniform(landscape))

    with pytest.raises(ValueError, match="says 1 where 32 were charged"):
        judged("thrifty", thrifty, small, BUDGET, 0)


def test_what_is_judged_at_a_cost_is_the_last_answer_before_it() -> None:
    steps = [Step(efe, np.array([[float(efe)]])) for efe in (100, 900, 999, 1_001, 2_999, 5_000)]
    seen = [step.efe for step in looked_at(steps, 5_000)]
    assert {999, 2_999, 5_000} <= set(seen)
    run = _run("any", (100, 0.1), (999, 0.2), (1_001, 0.3))
    standing = run.at(1_000)
    assert standing is not None
    assert standing.test == 0.2
    assert run.at(99) is None


def test_costs_are_medians_over_seeds_of_the_first_time_a_score_is_reached() -> None:
    incumbent = [_run(INCUMBENT, (1_000, 0.7), (90_000, 0.80), seed=seed, claimed=0.84) for seed in range(3)]
    ours = [
        _run("auto", (500, 0.79), (900, 0.81), (9_000, 0.70), seed=0),  # it falls again: reached is reached
        _run("auto", (600, 0.80), seed=1),
        _run("auto", (3_000, 0.85), seed=2),
    ]
    strong = [_run(STRONG, (2_700, 0.80), seed=seed) for seed in range(3)]
    found = {one.contestant: one for one in figures([*incumbent, *ours, *strong], INCUMBENT, STRONG)}
    assert found["auto"].target == 0.80
    assert found["auto"].reached == (600.0, 900.0, 3_000.0)
    at_target = OFFSETS.index(0.0)
    assert found["auto"].incumbent_over[at_target].value == 100
    assert found["auto"].strong_over[at_target].value == 3
    low, high = found["auto"].incumbent_over[at_target].low, found["auto"].incumbent_over[at_target].high
    assert low == 30
    assert high == 150
    assert found["auto"].final == 0.80
    assert found["auto"].optimism is None
    assert found[INCUMBENT].optimism == pytest.approx(0.04)


def test_who_never_reaches_the_target_has_no_ratio_and_a_rival_that_never_does_gives_a_lower_bound() -> None:
    runs = [_run(INCUMBENT, (10_000, 0.8)), _run("auto", (1_000, 0.82)), _run("random", (1_000, 0.5))]
    found = {one.contestant: one for one in figures(runs, INCUMBENT, STRONG)}
    assert math.isinf(found["random"].reached[1])
    assert found["random"].incumbent_over[1].value == 0
    above = found["auto"].incumbent_over[OFFSETS.index(0.01)]
    assert above.at_least
    assert above.value == 100  # the whole budget of the incumbent stands for what it never reached
    with pytest.raises(ValueError, match="no run of"):
        figures(runs[1:], INCUMBENT, STRONG)


def test_every_row_of_the_table_is_as_long_as_its_head() -> None:
    short = Run("made up", "auto", 0, 3_000, (Point(1_000, 0.9, None),), 1.0, 1.0)
    lines = markdown(figures([_run(INCUMBENT, (10_000, 0.8)), short], INCUMBENT, STRONG)).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_a_figure_names_every_contestant() -> None:
    runs = [_run(INCUMBENT, (1_000, 0.7), (10_000, 0.8)), _run("a < b", (1_000, 0.82))]
    drawn = svg("made up", curves(runs)["made up"])
    assert INCUMBENT in drawn
    assert "a &lt; b" in drawn
    assert drawn.count("<polyline") == 2


def test_a_done_run_is_not_run_again_and_a_failed_one_is_named(tmp_path: Path) -> None:
    wanted = [Wanted("quadratic-0", name, budget, 0) for name, budget in ((INCUMBENT, 1_100), ("random", 100))]
    failed = run_missing(wanted, tmp_path, jobs=1)
    assert len(failed) == 1
    assert "random answered nothing within 100 EFE" in failed[0]
    kept = path_of(tmp_path, "quadratic-0", INCUMBENT, 1_100, 0)
    before = kept.stat().st_mtime_ns
    assert run_missing(wanted[:1], tmp_path, jobs=1) == []
    assert kept.stat().st_mtime_ns == before
    report([read(kept)], tmp_path)
    assert {"table.md", "search.html", "quadratic-0.svg"} <= {file.name for file in tmp_path.iterdir()}


def test_every_contestant_has_a_place_in_the_order_and_no_more_than_is_asked_for() -> None:
    assert set(in_order()) == set(everyone())
    assert all(budget_of(name, 500) == 500 for name in everyone())
    assert budget_of("auto", 100_000) == 30_000


def test_the_gradient_of_a_quadratic_landscape_is_the_slope_of_its_loss() -> None:
    landscape = quadratic(1, {"gradient": 40, "search": 4, "select": 4, "test": 4})
    at = np.random.default_rng(0).normal(0.4, 0.2, (len(landscape.groups), len(landscape.experts)))
    ids, scales = landscape.ids["gradient"], {task.name: 0.1 * (1 + n) for n, task in enumerate(landscape.tasks)}

    def loss(coefficients: Coefficients) -> float:
        _, losses = landscape.gradient(coefficients, ids, scales)
        own = {name: [x for x, one in zip(losses, ids, strict=True) if one.startswith(name)] for name in scales}
        return float(sum(scales[name] * np.mean(of) for name, of in own.items()))

    slope, _ = landscape.gradient(at, ids, scales)
    for place in ((0, 0), (5, 2), (13, 3)):
        step = np.zeros_like(at)
        step[place] = 1e-5
        assert slope[place] == pytest.approx((loss(at + step) - loss(at - step)) / 2e-5, rel=1e-5)


def test_a_quadratic_landscape_is_the_same_whenever_it_is_made_and_another_for_another_seed() -> None:
    at = _uniform(quadratic(0))
    first, again, other = (quadratic(seed).score(at, quadratic(seed).ids["test"]) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_all_work_that_simulated_workers_finish_is_used_and_more_of_them_are_faster() -> None:
    one, many = simulate(1, 4000, 0), simulate(16, 4000, 0)
    assert one["used"] == many["used"] == 1
    assert many["speed-up"] > 2 * one["speed-up"]


def test_what_workers_could_score_ahead_while_they_wait_is_a_small_part_of_the_time() -> None:
    assert 0 < simulate(16, 4000, 0)["foreseen"] < 0.2
