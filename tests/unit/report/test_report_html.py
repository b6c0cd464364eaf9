"""The HTML report is one file, loads nothing, escapes everything and shows all there is."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import sample

from optimizer import plots
from optimizer.front import undominated
from optimizer.report_html import render, write
from optimizer.results import Objective, Results
from optimizer.statistics import Difference

EVERY = [
    sample.full,
    sample.unfinished,
    sample.single_trial,
    sample.no_trials,
    sample.only_failures,
    sample.two_objectives,
    sample.hostile,
]
SCORE = Objective("score")


class Page(HTMLParser):
    """What a browser makes of the page: its elements, texts and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if found := dict(attrs).get("id"):
            self.ids.append(found)

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)


@cache
def rendered(make: Callable[[], Results]) -> str:
    return render(make())


def figures(page: Page) -> list[str]:
    return [found for found in page.ids if found.startswith("figure-")]


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_the_page_loads_nothing(make: Callable[[], Results]) -> None:
    text = rendered(make)
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "href", "srcset", "onload", "onerror", "onclick"} & attributes.keys(), tag
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"@import|url\(", text.split("</style>")[0])


def test_plotly_is_there_once_and_not_where_nothing_is_drawn() -> None:
    scripts = Page(rendered(sample.full)).scripts
    assert sum(len(script) > 1_000_000 for script in scripts) == 1
    assert len(rendered(sample.no_trials)) < 20_000


def test_no_figure_offers_to_send_itself_away() -> None:
    for script in Page(rendered(sample.full)).scripts:
        if len(script) < 1_000_000 and "newPlot" in script:
            assert '"showSendToCloud": false' in script
            assert "cloud.plotly.com" not in script
            assert '"displaylogo": false' in script


def test_hostile_names_stay_text() -> None:
    text = rendered(sample.hostile)
    page = Page(text)
    assert "<script>alert" not in text
    assert "<img" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    # One script per figure (two elements of plotly's own make) and plotly itself; none of the names' making.
    assert not any("alert('x')" in script and "newPlot" not in script for script in page.scripts)
    assert any("<script>alert('x')</script>" in found for found in page.texts)
    for script in page.scripts:
        if "newPlot" in script and len(script) < 1_000_000:
            assert "<" not in script.replace("\\u003c", "")


def test_hostile_names_reach_plotly_escaped() -> None:
    results = sample.hostile()
    objective = results.objectives[0]
    drawn = [
        plots.history(results, objective),
        plots.best_so_far(results, objective),
        plots.coefficients(results),
        plots.standings(results.test, objective),
        plots.task_scores(results, results.test),
        plots.importance({sample.HOSTILE: 1.0}),
        plots.pareto(replace(results, objectives=(objective, objective))),
    ]
    for figure in drawn:
        assert figure is not None
        found = json.dumps(json.loads(figure.to_json()))
        assert "<script" not in found
        assert "<img" not in found
        assert "&lt;script" in found


def test_a_full_result_has_every_figure() -> None:
    page = Page(render(sample.full(), {"reverse.scale": 0.6, "rotate.scale": 0.4}))
    assert figures(page) == [
        "figure-standings-test-0",
        "figure-standings-select-0",
        "figure-tasks",
        "figure-history-0",
        "figure-best-0",
        "figure-coefficients",
        "figure-importance",
    ]
    text = " ".join(page.texts)
    assert "PED-ANOVA" in text
    assert "The winner, trial 57, scores 0.9242" in text
    assert "Failed trials (2)" in text
    assert "smooth 0." in text


def test_two_objectives_get_their_figures_and_the_trade_off() -> None:
    found = figures(Page(rendered(sample.two_objectives)))
    assert {"figure-pareto", "figure-history-1", "figure-best-1", "figure-standings-test-1"} <= set(found)


def test_an_unfinished_job_shows_the_search_and_calls_it_optimistic() -> None:
    page = Page(rendered(sample.unfinished))
    text = " ".join(page.texts)
    assert "optimistic" in text
    assert "Standings" not in text
    assert "figure-history-0" in figures(page)
    assert "figure-coefficients" not in figures(page)


def test_one_trial_and_only_failures_make_a_page() -> None:
    assert "figure-history-0" in figures(Page(rendered(sample.single_trial)))
    failed = " ".join(Page(rendered(sample.only_failures)).texts)
    assert "Failed trials (3)" in failed
    assert "out of memory" in failed


def test_tasks_without_a_smooth_value_leave_it_out() -> None:
    assert "smooth 0." not in render(sample.full(trials=sample.trials(smooth=False)))


def test_a_model_like_the_winner_is_called_not_distinguishable() -> None:
    results = sample.full()
    close = {"score": Difference(0.004, -0.010, 0.018, 900, 0.6, 40)}
    test = tuple(replace(s, difference=close) if s.kind == "baseline" else s for s in results.test)
    text = " ".join(Page(render(replace(results, test=test))).texts)
    assert text.count("not distinguishable") >= 3
    assert "not distinguishable" not in " ".join(Page(render(replace(results, select=()))).texts)


def test_the_same_results_give_the_same_file() -> None:
    assert render(sample.full()) == rendered(sample.full)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(sample.no_trials(), path)
    assert path.read_text() == rendered(sample.no_trials)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="report"):
        write(sample.no_trials(), path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_makes_the_folders_it_lies_in(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "of today" / "report.html"
    write(sample.no_trials(), path)
    assert path.read_text() == rendered(sample.no_trials)


def test_best_so_far_never_gets_worse_and_counts_every_example() -> None:
    figure = plots.best_so_far(sample.full(), SCORE)
    assert figure is not None
    best = np.array(figure.data[0].y)
    assert (np.diff(best) >= 0).all()
    assert best[-1] == max(row.values["score"] for row in sample.full().trials if row.values)
    assert figure.data[1].x[-1] == sample.full().examples_scored
    falling = plots.best_so_far(sample.two_objectives(), Objective("perplexity", False))
    assert falling is not None
    assert (np.diff(np.array(falling.data[0].y)) <= 0).all()


def test_history_marks_baselines_winner_and_failures() -> None:
    figure = plots.history(sample.full(), SCORE)
    assert figure is not None
    counts = {trace.name: len(trace.x) for trace in figure.data}
    assert counts == {"searched": 111, "baseline or parent": 6, "winner": 1, "failed (no score)": 2}


def test_the_heat_map_has_a_row_per_module_and_a_panel_per_expert() -> None:
    figure = plots.coefficients(sample.full())
    assert figure is not None
    assert len(figure.data) == 3
    panel = figure.data[1]
    assert list(panel.x) == [*(str(i) for i in range(8)), "outside"]
    assert list(panel.y) == ["attention", "mlp", "norms", "embeddings", "head"]
    expected = sample.full().coefficients["layer.5.mlp"]["rotate"]
    assert panel.z[1][5] == expected
    assert panel.z[0][8] is None


def test_negative_coefficients_get_a_scale_around_zero() -> None:
    figure = plots.coefficients(sample.full(coefficients=sample.coefficients(low=-0.5)))
    assert figure is not None
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax


def test_the_front_is_what_nothing_beats() -> None:
    results = sample.two_objectives()
    skill, perplexity = results.objectives
    rows = [row for row in results.trials if row.values]
    kept = undominated(rows, (skill, perplexity))
    for row in rows:
        s, p = row.values["skill"], row.values["perplexity"]
        beaten = any(o.values["skill"] >= s and o.values["perplexity"] <= p and o.values != row.values for o in rows)
        assert (row in kept) is not beaten


def test_rank_importance_finds_the_parameter_that_matters() -> None:
    rows = [
        replace(row, parameters={**row.parameters, "signal": row.values["score"] ** 3, "still": 1.0})
        for row in sample.trials()
        if row.values
    ]
    found = plots.rank_importances(sample.full(trials=tuple(rows)), SCORE)
    assert found["signal"] == pytest.approx(1.0)
    assert max(found, key=lambda name: found[name]) == "signal"
    assert "still" not in found
    assert plots.rank_importances(sample.full(trials=tuple(rows[:9])), SCORE) == {}


def test_two_models_of_one_name_keep_a_line_each() -> None:
    results = sample.full()
    test = tuple(replace(s, label="same") for s in results.test)
    figure = plots.standings(test, SCORE)
    assert figure is not None
    assert len(set(figure.data[0].y)) == len(test)
