"""The front of several objectives: what stands on it, how much it covers, where it bends."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import plots, report_html, report_text
from optimizer.front import front_of, hypervolume, knee_of, undominated
from optimizer.headline import headline
from optimizer.results import Objective, TrialRow

TWO = (Objective("a"), Objective("b"))


def row(number: int, a: float, b: float, **more: object) -> TrialRow:
    made = replace(sample.trials()[0], number=number, label=f"trial {number}", origin="search")
    return replace(made, **{"values": {"a": a, "b": b}, **more})  # type: ignore[arg-type]


def baseline(number: int, label: str, a: float, b: float) -> TrialRow:
    return row(number, a, b, origin="baseline", label=label)


@st.composite
def boxes(draw: st.DrawFn) -> list[tuple[int, ...]]:
    dimensions = draw(st.integers(2, 5))
    return draw(st.lists(st.tuples(*[st.integers(-1, 5)] * dimensions), min_size=1, max_size=8))


@settings(deadline=None)
@given(boxes())
def test_the_hypervolume_is_the_number_of_unit_cells_that_some_point_dominates(points: list[tuple[int, ...]]) -> None:
    cells = itertools.product(range(5), repeat=len(points[0]))
    covered = sum(any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
    found = hypervolume(np.array(points, float), np.zeros(len(points[0])))
    # a point that is not above the reference everywhere dominates no cell
    assert found == pytest.approx(covered)


def test_a_front_of_a_hundred_on_three_objectives_is_measured_as_on_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    points = np.abs(rng.standard_normal((100, 3)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    sampled = rng.random((200_000, 3))
    share = np.mean([(points > one).all(axis=1).any() for one in sampled[:20_000]])
    assert hypervolume(points, np.zeros(3)) == pytest.approx(share, abs=0.015)


def test_a_better_point_never_takes_volume_away() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((12, 4))
    volumes = [hypervolume(points[: count + 1], np.zeros(4)) for count in range(12)]
    assert volumes == sorted(volumes)


def test_volume_is_counted_from_a_point_below_the_base() -> None:
    rows = [baseline(0, "base", 0.4, 0.5), baseline(1, "parent x", 0.9, 0.1), row(2, 0.6, 0.6)]
    front = front_of(rows, TWO)
    assert front is not None
    assert front.trials == (1, 2)
    assert front.reference == pytest.approx({"a": 0.39, "b": 0.49})
    assert front.hypervolume == pytest.approx(0.21 * 0.11)  # the parent is below the reference on b


def test_without_a_base_it_is_counted_from_the_worst_baseline() -> None:
    rows = [baseline(0, "parent x", 0.9, 0.1), baseline(1, "parent y", 0.2, 0.8), row(2, 0.6, 0.6), row(3, 0.0, 0.0)]
    front = front_of(rows, TWO)
    assert front is not None
    assert front.reference == {"a": 0.2, "b": 0.1}
    assert front.hypervolume == pytest.approx(0.4 * 0.5)


def test_an_objective_that_is_better_when_lower_is_turned_and_named_as_it_is() -> None:
    rows = [baseline(0, "base", 0.4, 9.0), row(1, 0.6, 7.0), row(2, 0.5, 8.0)]
    front = front_of(rows, (Objective("a"), Objective("b", False)))
    assert front is not None
    assert front.trials == (1,)
    assert front.reference == pytest.approx({"a": 0.39, "b": 9.01})
    assert front.hypervolume == pytest.approx(0.21 * 2.01)


def test_the_knee_bulges_furthest_beyond_the_line_through_the_extremes_whatever_the_units() -> None:
    points = np.array([[0.0, 1.0], [0.5, 0.8], [0.8, 0.7], [0.95, 0.2], [1.0, 0.0]])
    assert knee_of(points) == 2
    assert knee_of(points * [1000.0, 0.001] + [5.0, -7.0]) == 2
    three = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.5, 0.5, 0.4], [0.3, 0.3, 0.3]])
    assert knee_of(three) == 3


def test_a_front_that_bends_inwards_or_has_two_points_has_no_knee() -> None:
    assert knee_of(np.array([[0.0, 1.0], [0.2, 0.3], [1.0, 0.0]])) is None
    assert knee_of(np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])) is None
    assert knee_of(np.array([[0.0, 1.0], [1.0, 0.0]])) is None
    assert knee_of(np.array([[0.5, 0.5]] * 3)) is None


def test_extremes_that_span_no_plane_still_give_a_knee() -> None:
    # the first point is the best on two objectives
    points = np.array([[1.0, 1.0, 0.0], [0.0, 0.2, 1.0], [0.9, 0.8, 0.9]])
    assert knee_of(points) == 2


def test_trials_beyond_a_bound_are_off_the_front_while_any_keeps_them() -> None:
    rows = [row(0, 0.5, 0.5), row(1, 0.9, 0.9, beyond=0.1)]
    front = front_of(rows, TWO)
    assert front is not None
    assert front.trials == (0,)
    broken = front_of(rows[1:], TWO)
    assert broken is not None
    assert broken.trials == (1,)


def test_equal_trials_are_all_on_the_front() -> None:
    assert [one.number for one in undominated([row(1, 0.5, 0.5), row(0, 0.5, 0.5), row(2, 0.4, 0.5)], TWO)] == [1, 0]


def test_one_objective_or_no_score_makes_no_front() -> None:
    assert front_of([row(0, 0.5, 0.5)], TWO[:1]) is None
    assert front_of([row(0, 0.5, 0.5, values={}, tasks={}, state="failed")], TWO) is None


def test_both_reports_show_the_front_its_volume_and_its_knee() -> None:
    results = sample.two_objectives()
    rows = tuple(
        replace(one, values={"skill": 0.93, "perplexity": 5.8}) if one.number == 60 else one for one in results.trials
    )
    results = replace(results, trials=rows, front=front_of(rows, results.objectives))
    front = results.front
    assert front is not None
    assert front.knee is not None
    text = " ".join(headline(results))
    assert f"covers a hypervolume of {front.hypervolume:.4g} above skill " in text
    assert f"mergeopt export demo DIR --trial {front.knee}" in text
    plain, page = report_text.text(results), report_html.render(results)
    assert f"Front of the objectives on the search split (optimistic): {len(front.trials)} trials" in plain
    assert sum(line.endswith(" knee") for line in plain.splitlines()) == 1
    assert page.count(">knee<") == 1
    figure = plots.pareto(results)
    assert figure is not None
    (ring,) = [trace for trace in figure.data if trace.name == "knee"]
    (at,) = [one for one in results.trials if one.number == front.knee]
    assert (ring.x[0], ring.y[0]) == (at.values["skill"], at.values["perplexity"])


def test_a_job_with_one_objective_says_nothing_of_a_front() -> None:
    assert "front" not in " ".join(headline(sample.full())).lower()
    assert "Front of" not in report_text.text(sample.full())
