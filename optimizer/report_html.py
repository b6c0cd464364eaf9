"""Write a job's results as one HTML file that needs nothing else.

The file carries plotly.js (about 5 MB) and loads nothing from the network; a content security policy in it
says so to the browser. All names and messages are escaped.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import plotly.graph_objects as go
import plotly.io
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from optimizer import plots
from optimizer.cost import in_words
from optimizer.headline import TESTS, headline, p_value, plural, score, signed
from optimizer.normalised import mean_share, normalised
from optimizer.report_page import STYLE, page
from optimizer.results import (
    Front,
    Objective,
    Results,
    Standing,
    TrialRow,
    by_expert,
    ranked,
    reason,
    sorted_standings,
    winner_label,
)
from optimizer.statistics import Difference, Estimate

_TOP_TRIALS = 25
_FAILURES = 25
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # Named one by one: plotly.js 4 adds a button of its own that posts the figure to its makers' cloud.
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "toImageButtonOptions": {"scale": 2},
}


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, a smaller line under it, and a style of its own."""

    text: str
    under: str = ""
    style: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column: its title, and whether it holds numbers."""

    title: str
    number: bool = True


@dataclass(frozen=True)
class Row:
    """A table's row."""

    cells: list[Cell]
    winner: bool = False


@dataclass(frozen=True)
class Grid:
    """A table."""

    head: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class Block:
    """A figure or a table, with a title where there are several."""

    title: str = ""
    figure: Markup | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    note: str = ""
    blocks: list[Block] = field(default_factory=list)
    folded: bool = False
    sentences: list[str] = field(default_factory=list)


def write(results: Results, path: Path, importances: Mapping[str, float] | None = None) -> None:
    """Write the report to `path`: complete or not at all. `importances` as in `render`."""
    text = render(results, importances)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def render(results: Results, importances: Mapping[str, float] | None = None) -> str:
    """The whole page. `importances` gives each parameter's importance for the first objective.

    Without them rank correlations are shown, where there are trials enough.
    """
    parts = [
        *([Part("What the search decided", sentences=list(results.notes))] if results.notes else []),
        *_standings(results),
        *_bounds(results),
        *_tasks(results),
        *_normalised(results),
        *_search(results),
        *_front(results),
        *_coefficients(results),
        *_importance(results, importances),
        *_trials(results),
        *_failures(results),
        *_cost(results),
    ]
    drawn = any(block.figure for part in parts for block in part.blocks)
    return page(
        title=results.job,
        state=results.state,
        subtitle=_subtitle(results),
        style=Markup(STYLE),
        # Inside a script element only `</script` ends it; plotly.js is built not to contain it.
        script=Markup(get_plotlyjs()) if drawn else None,
        headline=headline(results),
        parts=parts,
        settings=_settings(results),
    )


def _subtitle(results: Results) -> str:
    experts = plural(len(results.experts), "expert")
    return f"{results.method} merge of {experts}, searched with {results.engine}"


def _figure(figure: go.Figure | None, name: str, title: str = "") -> list[Block]:
    if figure is None:
        return []
    # plotly writes `<`, `>` and `/` in its JSON as unicode escapes, so no text in it can end the script
    # element.
    text = plotly.io.to_html(figure, config=_CONFIG, include_plotlyjs=False, full_html=False, div_id=f"figure-{name}")
    return [Block(title, figure=Markup(text))]


def _shown(results: Results) -> tuple[tuple[Standing, ...], str]:
    """The standings to show first, and the split they are from."""
    return (results.test, "test") if results.test else (results.select, "select")


def _standings(results: Results) -> list[Part]:
    parts = []
    for split, standings in (("Test", results.test), ("Select", results.select)):
        if not standings:
            continue
        blocks: list[Block] = []
        for index, objective in enumerate(results.objectives):
            title = objective.name if len(results.objectives) > 1 else ""
            blocks += _figure(plots.standings(standings, objective), f"standings-{split.lower()}-{index}", title)
            blocks.append(Block(grid=_standing_grid(standings, objective)))
        note = f"95 % intervals. The difference is the winner's score minus the model's. {TESTS}"
        parts.append(
            Part(
                f"Standings on the {split.lower()} split",
                note,
                blocks,
                folded=split == "Select" and bool(results.test),
            )
        )
    return parts


def _standing_grid(standings: Sequence[Standing], objective: Objective) -> Grid:
    head = [Column("model", False), Column("kind", False), Column("examples"), Column(objective.name)]
    head += [Column("interval"), Column("difference"), Column("interval"), Column("p"), Column("", False)]
    rows = []
    for standing in sorted_standings(tuple(standings), objective):
        found = standing.objectives.get(objective.name)
        cells = [Cell(standing.label), Cell(standing.kind)]
        cells += [Cell(f"{found.n:,}"), Cell(score(found.mean)), Cell(_range(found))] if found else [Cell("")] * 3
        cells += _difference_cells((standing.difference or {}).get(objective.name))
        rows.append(Row(cells, standing.kind == "winner"))
    return Grid(head, rows)


def _bounds(results: Results) -> list[Part]:
    """For every model, whether it keeps the job's bounds."""
    standings, split = _shown(results)
    head = [Column("model", False), Column("task", False), Column("bound", False), Column("measured")]
    head += [Column("interval"), Column("", False)]
    rows = [
        Row(
            [
                Cell(standing.label),
                Cell(kept.task),
                Cell(kept.bound),
                Cell(score(kept.measured.mean)),
                Cell(_range(kept.measured)),
                Cell(kept.verdict, style="alike" if kept.violation > 0 else ""),
            ],
            standing.kind == "winner",
        )
        for standing in standings
        for kept in standing.kept
    ]
    note = f"On the {split} split, 95 % intervals. A bound from a model is measured on the same examples."
    return [Part("Bounds", note, [Block(grid=Grid(head, rows))])] if rows else []


def _difference_cells(difference: Difference | None) -> list[Cell]:
    if difference is None:
        return [Cell("")] * 4
    verdict = Cell("", style="differs") if difference.distinguishable else Cell("not distinguishable", style="alike")
    return [
        Cell(signed(difference.mean)),
        Cell(f"{signed(difference.low)} to {signed(difference.high)}"),
        Cell(p_value(difference.p)[2:].removeprefix("= ")),
        verdict,
    ]


def _range(estimate: Estimate | Difference) -> str:
    return f"{score(estimate.low)} to {score(estimate.high)}"


def _tasks(results: Results) -> list[Part]:
    standings, split = _shown(results)
    if not standings:
        return _tasks_on_search(results)
    blocks = _figure(plots.task_scores(results, standings), "tasks")
    blocks.append(Block(grid=_task_grid(results, standings)))
    compared = [standing for standing in standings if standing.task_difference]
    if compared:
        blocks.append(Block("Winner minus model", grid=_task_difference_grid(results, compared)))
    note = f"On the {split} split, 95 % intervals. p-values are adjusted over the tasks (Holm). {TESTS}"
    return [Part("Scores by task", note, blocks)]


def _normalised(results: Results) -> list[Part]:
    """The winner's test score on each task as a share of the best parent's."""
    rows = normalised(results)
    if not rows:
        return []
    head = [Column("task", False), Column("winner"), Column("best parent", False), Column("its score"), Column("share")]
    grid = [
        Row(
            [Cell(row.task), Cell(score(row.merged)), Cell(row.parent), Cell(score(row.best)), Cell(f"{row.share:.3f}")]
        )
        for row in rows
    ]
    grid.append(Row([Cell("mean over tasks"), *[Cell("")] * 3, Cell(f"{mean_share(rows):.3f}")], winner=True))
    note = "The winner's test score as a share of the best parent's on the task: 1 is as good as the expert."
    return [Part("Normalised scores", note, [Block(grid=Grid(head, grid))])]


def _task_head(results: Results) -> list[Column]:
    return [Column("model", False), *(Column(_task_title(results, i)) for i in range(len(results.tasks)))]


def _task_title(results: Results, index: int) -> str:
    task = results.tasks[index]
    return f"{task.name} ({task.metric}{'' if task.higher_is_better else ', lower is better'})"


def _task_grid(results: Results, standings: Sequence[Standing]) -> Grid:
    rows = []
    for standing in sorted_standings(tuple(standings), results.objective):
        found = [standing.tasks.get(task.name) for task in results.tasks]
        cells = [Cell(score(e.mean), _range(e)) if e else Cell("") for e in found]
        rows.append(Row([Cell(standing.label), *cells], standing.kind == "winner"))
    return Grid(_task_head(results), rows)


def _task_difference_grid(results: Results, standings: Sequence[Standing]) -> Grid:
    rows = []
    for standing in sorted_standings(tuple(standings), results.objective):
        cells = [Cell(standing.label)]
        for task in results.tasks:
            difference = (standing.task_difference or {}).get(task.name)
            if difference is None:
                cells.append(Cell(""))
            else:
                under = f"{signed(difference.low)} to {signed(difference.high)}, {p_value(difference.p)}"
                cells.append(Cell(signed(difference.mean), under))
        rows.append(Row(cells))
    return Grid(_task_head(results), rows)


def _tasks_on_search(results: Results) -> list[Part]:
    """Before anything was scored elsewhere: baselines and the best trial, on the search split."""
    rows = ranked(results, results.objective)
    chosen = [row for row in rows if row.origin == "baseline" or row.number == results.winner or row is rows[0]]
    if not chosen or not results.tasks:
        return []
    grid = Grid(
        _task_head(results),
        [Row([Cell(row.label), *_task_cells(results, row)], row.number == results.winner) for row in chosen],
    )
    note = "Search split only: the best trial's scores are optimistic."
    return [Part("Scores by task", note, [Block(grid=grid)])]


def _task_cells(results: Results, row: TrialRow) -> list[Cell]:
    cells = []
    for task in results.tasks:
        found = row.tasks.get(task.name, {})
        smooth = f"smooth {score(found['smooth'])}" if "smooth" in found else ""
        cells.append(Cell(score(found["metric"]) if "metric" in found else "", smooth))
    return cells


def _search(results: Results) -> list[Part]:
    blocks: list[Block] = []
    several = len(results.objectives) > 1
    for index, objective in enumerate(results.objectives):
        of = f": {objective.name}" if several else ""
        blocks += _figure(plots.history(results, objective), f"history-{index}", f"Every trial{of}")
        blocks += _figure(plots.best_so_far(results, objective), f"best-{index}", f"Best observed so far{of}")
    note = (
        "Values on the search split. The best observed is the best of many noisy scores, so it stands above "
        "what the same model scores on fresh examples."
    )
    return [Part("Search", note, blocks)] if blocks else []


def _front(results: Results) -> list[Part]:
    blocks = _figure(plots.pareto(results), "pareto")
    note = "Search split, optimistic. "
    if blocks:
        note += "The dotted line joins the trials that no other trial beats on both objectives. "
    if results.front is not None:
        blocks.append(Block(grid=_front_grid(results, results.front)))
        note += "Every trial of the front can be exported: mergeopt export JOB DIR --trial N."
    return [Part("Trade-off", note.strip(), blocks)] if blocks else []


def _front_grid(results: Results, front: Front) -> Grid:
    head = [Column("trial"), Column("model", False), *(Column(o.name) for o in results.objectives), Column("", False)]
    rows = []
    for row in ranked(results, results.objective):
        if row.number in front.trials:
            values = [Cell(score(row.values[objective.name])) for objective in results.objectives]
            mark = Cell("knee" if row.number == front.knee else "")
            cells = [Cell(str(row.number), style="number"), Cell(row.label), *values, mark]
            rows.append(Row(cells, row.number == results.winner))
    return Grid(head, rows)


def _coefficients(results: Results) -> list[Part]:
    blocks = _figure(plots.coefficients(results), "coefficients")
    if not blocks:
        return []
    rows = []
    for (expert, module), values in by_expert(results.coefficients).items():
        for layer, value in values.items():
            place = "" if layer is None else str(layer)
            rows.append(Row([Cell(expert), Cell(module), Cell(place), Cell(f"{value:.6g}")]))
    head = [Column("expert", False), Column("module", False), Column("layer"), Column("coefficient")]
    return [
        Part(f"Coefficients of {winner_label(results) or 'the winner'}", "", blocks),
        Part("Coefficients as numbers", "", [Block(grid=Grid(head, rows))], folded=True),
    ]


def _importance(results: Results, importances: Mapping[str, float] | None) -> list[Part]:
    note = "How much each parameter explains of the trials' values (PED-ANOVA)."
    if not importances:
        importances = plots.rank_importances(results, results.objective)
        note = "Absolute rank correlation of each parameter with the trials' values."
    blocks = _figure(plots.importance(importances), "importance")
    return [Part("Parameter importance", note, blocks)] if blocks else []


def _trials(results: Results) -> list[Part]:
    rows = ranked(results, results.objective)
    if not rows:
        return []
    head = [Column("trial"), Column("model", False), Column("origin", False)]
    head += [Column(objective.name) for objective in results.objectives]
    head += _task_head(results)[1:]
    head += [Column("examples"), Column("seconds"), Column("digest", False)]
    grid = Grid(head, [_trial(results, row) for row in rows[:_TOP_TRIALS]])
    title = f"Best {min(_TOP_TRIALS, len(rows))} of {len(rows)} scored trials"
    note = "Search split, optimistic. ± is one standard error, where it is known."
    return [Part(title, note, [Block(grid=grid)])]


def _trial(results: Results, row: TrialRow) -> Row:
    values = [Cell(score(row.values[o.name]) if o.name in row.values else "") for o in results.objectives]
    if row.standard_error is not None and values[0].text:
        values[0] = Cell(values[0].text, f"± {row.standard_error:.4f}")
    cells = [Cell(str(row.number), style="number"), Cell(row.label), Cell(row.origin), *values]
    cells += [
        *_task_cells(results, row),
        Cell(f"{row.examples:,}"),
        Cell(f"{row.seconds:,.1f}"),
        Cell(row.digest),
    ]
    return Row(cells, row.number == results.winner)


def _failures(results: Results) -> list[Part]:
    failed = [row for row in results.trials if row.state == "failed"]
    if not failed:
        return []
    rows = [Row([Cell(str(row.number)), Cell(row.label), Cell(reason(row))]) for row in failed[-_FAILURES:]]
    grid = Grid([Column("trial"), Column("model", False), Column("reason", False)], rows)
    note = f"The last {_FAILURES} are shown." if len(failed) > _FAILURES else ""
    return [Part(f"Failed trials ({len(failed)})", note, [Block(grid=grid)])]


def _cost(results: Results) -> list[Part]:
    cost = results.cost
    if cost is None:
        return []
    rows = []
    for stage, seconds in cost.seconds.items():
        share = f"{seconds / cost.total:.1%}" if cost.total else ""
        tokens = f"{cost.tokens[stage]:,}" if cost.tokens.get(stage) else ""
        rows.append(Row([Cell(stage), Cell(f"{seconds:,.1f}"), Cell(share), Cell(tokens)]))
    grid = Grid([Column("stage", False), Column("seconds"), Column("share"), Column("tokens")], rows)
    return [Part("Where the time went", in_words(cost), [Block(grid=grid)])]


def _settings(results: Results) -> dict[str, str]:
    tasks = ", ".join(f"{t.name} ({t.metric}, weight {t.weight:g}, for {t.objective})" for t in results.tasks)
    found = {
        "base": results.base or "",
        "experts": ", ".join(results.experts),
        "method": results.method,
        "space": results.space,
        "engine": results.engine,
        "signal": results.signal,
        "seed": str(results.seed),
        "budget": ", ".join(f"{name} {value:g}" for name, value in results.budget.items()),
        "tasks": tasks,
        "splits": ", ".join(f"{name} {count:,} examples" for name, count in results.splits.items()),
        "cost": ", ".join(f"{split} {spent:,} EFE" for split, spent in results.efe.items()),
        "test (not charged)": f"{results.tested:,} examples scored" if results.tested else "",
        "wall time": f"{results.seconds:,.0f} s",
        "created": results.created,
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    }
    return {name: value for name, value in found.items() if value}
