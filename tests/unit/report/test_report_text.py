"""The terminal report fits 80 columns, is plain without a terminal, and shows names as they are."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import sample
from rich.console import Console

from optimizer.report_text import show, text
from optimizer.results import Results
from optimizer.statistics import Difference


@pytest.mark.parametrize(
    "make",
    [
        sample.full,
        sample.unfinished,
        sample.single_trial,
        sample.no_trials,
        sample.only_failures,
        sample.two_objectives,
        sample.hostile,
    ],
    ids=lambda make: make.__name__,
)
def test_every_line_fits_80_columns_without_escape_codes(make: Callable[[], Results]) -> None:
    found = text(make())
    assert max(len(line) for line in found.splitlines()) <= 80
    assert "\x1b" not in found


def test_the_tables_hold_the_scores_and_their_intervals() -> None:
    found = text(sample.full())
    assert "task arithmetic 0.4  0.8883  0.863 to 0.907" in found
    assert "0.923 to 0.972" in found
    assert "Best 10 of 118 scored trials on the search split (optimistic, ± standard error)" in found
    assert "Failed trials: 2" in found
    assert "layer.3.mlp: q_proj has a NaN" in found
    assert "Coefficients of trial 57, layers 0 to 7" in found
    assert "outside the layers" in found


def test_a_model_like_the_winner_is_marked() -> None:
    results = sample.full()
    close = {"score": Difference(0.004, -0.010, 0.018, 900, 0.6, 40)}
    test = tuple(replace(s, difference=close) if s.kind == "baseline" else s for s in results.test)
    found = text(replace(results, test=test))
    assert "~ not distinguishable" in found
    assert ".600 ~" in found
    assert "~" not in text(results)


def test_deep_models_and_many_tasks_are_split_into_blocks() -> None:
    results = sample.full(coefficients=sample.coefficients(layers=20, low=-1.0))
    found = text(results)
    assert "layers 16 to 19" in found
    assert max(len(line) for line in found.splitlines()) <= 80
    many = tuple(replace(results.tasks[0], name=f"task{i}") for i in range(7))
    assert text(replace(results, tasks=many)).count("By task, continued") == 2


def test_names_are_not_read_as_markup_or_terminal_codes() -> None:
    results = sample.full(job="[bold]x[/bold] \x1b[31mred")
    assert "[bold]x[/bold] \\x1b[31mred" in text(results)


def test_a_terminal_gets_colours_and_a_pipe_does_not() -> None:
    for terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, color_system="standard" if terminal else None, width=80)
        show(sample.full(), console)
        assert ("\x1b[" in stream.getvalue()) is terminal
