"""The small pictures of a job: whole, small, and free of whatever a name may bring."""

import xml.dom.minidom
from dataclasses import replace

import pytest

from optimizer import score_plots
from optimizer.artifacts import LARGEST
from optimizer.heatmap import MOST_COLUMNS, heatmap
from optimizer.results import Results
from optimizer.svg import ticks
from tests.unit.report.sample import EXPERTS, coefficients, full, hostile, no_trials, trials, two_objectives, unfinished

SMALL = 96 * 1024


def pictures(results: Results) -> dict[str, str | None]:
    return {
        "history": score_plots.history(results, results.objective),
        "standings": score_plots.standings(results.test, results.objective, "test"),
        "tasks": score_plots.tasks(results, results.test, "test"),
        "front": score_plots.front(results),
        "heat map": heatmap(results.coefficients, f"Coefficients of {results.job}"),
    }


def words(svg: str) -> list[str]:
    document = xml.dom.minidom.parseString(svg)
    return [node.firstChild.data for node in document.getElementsByTagName("text") if node.firstChild]


def cells(svg: str) -> int:
    return svg.count("<rect")


@pytest.mark.parametrize("results", [full(), unfinished(), two_objectives(), hostile()], ids=lambda one: one.state)
def test_every_picture_is_well_formed_small_and_has_no_script_or_link(results: Results) -> None:
    for name, svg in pictures(results).items():
        if svg is None:
            continue
        document = xml.dom.minidom.parseString(svg)
        tags = {node.tagName for node in document.getElementsByTagName("*")}
        assert tags <= {"svg", "title", "rect", "line", "polyline", "circle", "text"}, name
        assert len(svg) < SMALL, name


def test_names_from_outside_are_shown_as_they_are() -> None:
    svg = pictures(hostile())["heat map"]
    assert svg is not None
    assert any(word.startswith("<script>") for word in words(svg))


def test_nothing_is_drawn_of_nothing() -> None:
    assert set(pictures(no_trials()).values()) == {None}


def test_a_heat_map_has_every_experts_modules_the_layers_and_the_numbers_where_they_fit() -> None:
    svg = heatmap(coefficients(), "Coefficients")
    assert svg is not None
    said = words(svg)
    assert [word for word in said if word in EXPERTS] == list(EXPERTS)
    assert said.count("attention") == len(EXPERTS)
    assert {"0", "7", "outside", "layer"} <= set(said)
    assert f"{coefficients()['layer.3.mlp']['rotate']:.2f}" in said


def test_a_heat_map_of_many_layers_and_experts_stays_small_and_says_what_was_averaged() -> None:
    many = coefficients(400, tuple(f"expert-{place}" for place in range(40)), low=-1.0)
    svg = heatmap(many, "Coefficients")
    assert svg is not None
    assert len(svg) < LARGEST
    assert MOST_COLUMNS < 400
    assert "layer; a column is the mean of 5 layers" in words(svg)
    assert words(svg).count("mean of modules") == 40


def test_equal_neighbours_are_one_rectangle() -> None:
    flat = {f"layer.{place}.mlp": {"a": 0.5} for place in range(64)}
    drawn = heatmap(flat, "flat")
    varied = heatmap({f"layer.{place}.mlp": {"a": place / 64} for place in range(64)}, "varied")
    assert drawn is not None
    assert varied is not None
    assert cells(drawn) < cells(varied) - 15


def test_a_long_search_is_thinned_but_keeps_its_records_and_its_winner() -> None:
    rows = trials(120)[:120]
    long = tuple(replace(row, number=place) for place, row in enumerate(rows * 40))
    svg = score_plots.history(full(trials=long, winner=57), full().objective)
    assert svg is not None
    assert len(svg) < SMALL
    assert any("of 4720 drawn" in word for word in words(svg))
    assert "winner" in words(svg)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.62, 0.7, [0.62, 0.64, 0.66, 0.68, 0.7]), (3.0, 3.0, [3.0])],
)
def test_axes_count_in_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
