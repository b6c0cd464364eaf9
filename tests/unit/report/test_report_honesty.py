"""A report says what a search cost, how the winner stands against the experts, and by which tests."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import sample
import yaml

from optimizer import report_html, report_text
from optimizer.headline import headline
from optimizer.normalised import mean_share, normalised
from optimizer.results import Results, from_json, to_json
from optimizer.spec import JobFile
from optimizer.statistics import Difference, Estimate, differences_by_task, paired_difference
from optimizer.summary import describe_engine, efe

Shown = Callable[[Results], str]
REPORTS: list[Shown] = [lambda results: report_text.text(results, width=200), report_html.render]


def test_a_gradient_example_costs_three_and_a_test_example_nothing() -> None:
    assert efe({"search": 700, "select": 90, "test": 5000}, 40) == {"gradient": 120, "search": 700, "select": 90}
    assert efe({"search": 10}, 4, 66) == {"gradient": 78, "search": 10, "select": 0}
    assert efe({}, 0) == {"gradient": 0, "search": 0, "select": 0}


def test_the_cost_is_said_in_efe_and_wall_clock_with_the_test_apart() -> None:
    assert (
        "Cost: 28,740 EFE (gradient 3,072, search 25,128, select 540; test (not charged) 6,300) and 412 s of "
        "wall-clock time." in headline(sample.full())
    )


def test_results_from_before_efe_was_kept_are_still_read_and_reported() -> None:
    data = to_json(sample.full())
    for name in ("efe", "tested", "notes", "front"):
        del data[name]
    for trial in data["trials"]:
        del trial["standard_error"]
    for standing in data["test"]:
        for difference in (standing["difference"] or {}).values():
            del difference["test"]
    results = from_json(json.loads(json.dumps(data)))
    assert "Cost: 412 s of wall-clock time." in headline(results)
    assert "EFE" not in report_text.text(results)
    assert "±" not in report_text.text(results)


def test_each_task_is_set_against_the_parent_that_is_best_on_it() -> None:
    results = sample.full()
    rows = normalised(results)
    assert [row.parent for row in rows] == ["parent reverse", "parent rotate", "parent dedupe"]
    scores = {one.label: one.tasks for one in results.test}
    for row in rows:
        assert row.share == scores["trial 57"][row.task].mean / scores[row.parent][row.task].mean
    assert mean_share(rows) == pytest.approx(np.mean([row.share for row in rows]))


@pytest.mark.parametrize("shown", REPORTS)
def test_both_reports_show_the_normalised_scores_with_the_parents_names(shown: Shown) -> None:
    results = sample.full()
    rows, text = normalised(results), shown(results)
    assert f"Normalised score {mean_share(rows):.3f}: the mean over 3 tasks" in text
    assert "Normalised scores" in text
    for row in rows:
        assert f"{row.share:.3f}" in text


def test_where_lower_is_better_or_nothing_is_scored_or_there_is_no_test_no_share_is_made_up() -> None:
    results = sample.full()
    first, second, third = results.tasks
    tasks = (replace(first, higher_is_better=False), replace(second, objective=None, bound="at most 1"), third)
    assert [row.task for row in normalised(replace(results, tasks=tasks))] == [third.name]
    nothing = {task.name: Estimate(0.0, 0.0, 0.1, 300) for task in results.tasks}
    zero = tuple(replace(one, tasks=nothing) if one.kind == "parent" else one for one in results.test)
    assert normalised(replace(results, test=zero)) == []
    assert normalised(sample.unfinished()) == []
    assert "Normalised" not in report_text.text(sample.unfinished())


@pytest.mark.parametrize("shown", REPORTS)
def test_what_the_search_decided_is_told_in_its_own_sentences(shown: Shown) -> None:
    note = "The gradient of the coefficients was not used: its cosine was 0.04."
    assert note in shown(sample.full(notes=(note,)))
    assert "What the search decided" not in shown(sample.full(notes=()))


@pytest.mark.parametrize("shown", REPORTS)
def test_trials_come_with_their_standard_errors(shown: Shown) -> None:
    assert "0.0123" in shown(sample.full())
    bare = tuple(replace(row, standard_error=None) for row in sample.trials())
    assert "0.0123" not in shown(sample.full(trials=bare))


def test_a_difference_names_its_test_mcnemar_only_for_one_task_of_right_and_wrong() -> None:
    rng = np.random.default_rng(0)
    a = {"x": {"1": 1.0, "2": 1.0, "3": 0.0}, "y": {"1": 0.0, "2": 1.0}}
    b = {"x": {"1": 0.0, "2": 1.0, "3": 0.0}, "y": {"1": 1.0, "2": 1.0}}
    weights = {"x": 1.0, "y": 1.0}
    assert paired_difference(a, b, weights, rng, 100).test == "sign flips"
    assert {one.test for one in differences_by_task(a, b, rng, 100).values()} == {"McNemar's mid-p"}
    graded = {"x": {"1": 0.5, "2": 1.0, "3": 0.0}}
    assert paired_difference(graded, {"x": b["x"]}, weights, rng, 100).test == "sign flips"


def test_the_headline_names_the_test_behind_a_p_value() -> None:
    close = Difference(0.004, -0.010, 0.018, 900, 0.6, 40, "McNemar's mid-p")
    results = sample.full()
    test = tuple(replace(one, difference={"score": close}) if one.kind == "baseline" else one for one in results.test)
    assert any("p = 0.600 (McNemar's mid-p)" in sentence for sentence in headline(replace(results, test=test)))


@pytest.mark.parametrize("shown", REPORTS)
def test_both_reports_compare_task_by_task_with_holm_and_say_by_which_test(shown: Shown) -> None:
    results = sample.full()
    text = shown(results)
    assert "Holm" in text
    assert "mid-p" in text
    (parent,) = [one for one in results.test if one.label == "parent reverse"]
    assert parent.task_difference is not None
    for difference in parent.task_difference.values():
        assert f"{difference.low:+.3f}"[:5] in text


def test_the_engine_of_a_job_is_shown_with_what_it_came_to() -> None:
    def engine(search: str, objectives: tuple[str, ...]) -> str:
        written = {
            "name": "x",
            "models": {"base": "b", "experts": {"m": "m", "n": "n"}},
            "evaluate": {"tasks": [{"task": f"t{i}", "objective": one} for i, one in enumerate(objectives)]},
            "search": {"engine": search, "budget": {"trials": 20}},
        }
        return describe_engine(JobFile.model_validate(yaml.safe_load(yaml.safe_dump(written))))

    assert engine("auto", ("score", "score")) == "auto"
    assert engine("auto", ("math", "code")) == "auto (nsga2)"
    assert engine("tpe", ("score", "score")) == "tpe"
