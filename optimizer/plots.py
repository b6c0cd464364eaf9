"""Draw a job's results with plotly, one function per figure.

Every function returns None where there is nothing to draw. Colours of text and grid come from the page (see
`optimizer.report_html`), so that a figure reads on light and dark. Names are escaped here: plotly takes its
texts for HTML.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from optimizer.front import undominated
from optimizer.results import (
    Objective,
    Results,
    Standing,
    TrialRow,
    better,
    by_expert,
    completed,
    keeping,
    ranked,
    reason,
    sorted_standings,
)
from optimizer.statistics import Estimate

SEARCH = "#8595ad"
BASELINE = "#d9822b"
PARENT = "#8a63d2"
WINNER = "#12997a"
FAILED = "#c8453b"
LINE = "#3b76c4"
KIND_COLOURS = {"base": PARENT, "parent": PARENT, "baseline": BASELINE, "winner": WINNER, "finalist": LINE}
ORIGIN_STYLES = {
    "search": ("searched", SEARCH, "circle", 6),
    "baseline": ("baseline or parent", BASELINE, "diamond", 9),
    "recommendation": ("recommended", LINE, "square", 8),
}
_TOP_PARAMETERS = 20
# Fewer trials than this rank parameters by noise.
_RANKABLE = 10


def history(results: Results, objective: Objective) -> go.Figure | None:
    """Every trial's value on the search split; baselines marked, failures at the bottom edge."""
    rows = completed(results, objective)
    failed = [row for row in results.trials if row.state == "failed"]
    if not rows:
        return None
    figure = go.Figure()
    for origin, (name, colour, symbol, size) in ORIGIN_STYLES.items():
        chosen = [row for row in rows if row.origin == origin and row.number != results.winner]
        if chosen:
            figure.add_trace(_dots(chosen, objective, name, colour, symbol, size))
    best = [row for row in rows if row.number == results.winner]
    if best:
        figure.add_trace(_dots(best, objective, "winner", WINNER, "star", 14))
    if failed:
        values = [row.values[objective.name] for row in rows]
        figure.add_trace(_failures(failed, min(values) - 0.06 * (max(values) - min(values))))
    return _styled(figure, "trial", _axis(objective), 380)


def _dots(rows: Sequence[TrialRow], objective: Objective, name: str, colour: str, symbol: str, size: int) -> go.Scatter:
    faint = 0.75 if symbol == "circle" else 1.0
    return go.Scatter(
        x=[row.number for row in rows],
        y=[row.values[objective.name] for row in rows],
        mode="markers",
        name=name,
        text=[html.escape(f"{row.label}, {row.examples:,} examples") for row in rows],
        hovertemplate="%{text}<br>%{y:.4f}<extra></extra>",
        marker={"color": colour, "symbol": symbol, "size": size, "opacity": faint},
    )


def _failures(rows: Sequence[TrialRow], level: float) -> go.Scatter:
    return go.Scatter(
        x=[row.number for row in rows],
        y=[level] * len(rows),
        mode="markers",
        name="failed (no score)",
        text=[html.escape(f"{row.label}: {reason(row)[:200]}") for row in rows],
        hovertemplate="%{text}<extra></extra>",
        marker={"color": FAILED, "symbol": "x-thin", "size": 8, "line": {"color": FAILED, "width": 2}},
    )


def best_so_far(results: Results, objective: Objective) -> go.Figure | None:
    """The best observed value after each trial, against trials and against examples scored.

    None under two scored trials. It is the best of noisy scores and therefore optimistic. Examples are added
    up in the order trials finished. Trials that break a bound are left out while any keeps them all.
    """
    rows = _finished(results)
    scored = keeping([row for row in rows if row.state == "complete" and objective.name in row.values])
    if len(scored) < 2:
        return None
    best: list[float] = []
    for row in scored:
        value = row.values[objective.name]
        best.append(value if not best or better(objective, value, best[-1]) else best[-1])
    spent = np.cumsum([row.examples for row in rows])
    totals = {row.number: int(total) for row, total in zip(rows, spent, strict=True)}
    examples = [totals[row.number] for row in scored]
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for column, x in ((1, list(range(1, len(scored) + 1))), (2, examples)):
        line = go.Scatter(
            x=x,
            y=best,
            mode="lines",
            line={"color": LINE, "width": 2, "shape": "hv"},
            text=[html.escape(row.label) for row in scored],
            hovertemplate="after %{text}, %{x:,}<br>%{y:.4f}<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(line, row=1, col=column)
    baseline = next((row for row in ranked(results, objective) if row.origin == "baseline"), None)
    if baseline is not None:
        _reference(figure, baseline, objective)
    _styled(figure, "scored trials", _axis(objective), 340)
    figure.update_xaxes(title_text="examples scored", row=1, col=2)
    figure.update_yaxes(title_text=None, row=1, col=2)
    return figure


def _reference(figure: go.Figure, baseline: TrialRow, objective: Objective) -> None:
    """A dashed line at the best baseline."""
    value = baseline.values[objective.name]
    for column in (1, 2):
        figure.add_hline(y=value, line={"color": BASELINE, "dash": "dash", "width": 1.5}, row=1, col=column)
    figure.add_annotation(
        text=f"best baseline: {html.escape(_short(baseline.label))}",
        x=1.0,
        xref="x domain",
        y=value,
        yref="y",
        xanchor="right",
        # On the side the best observed value leaves free.
        yanchor="top" if objective.higher_is_better else "bottom",
        showarrow=False,
        font={"size": 11},
    )


def _finished(results: Results) -> list[TrialRow]:
    """Trials in the order they finished, or by number where a time is missing."""
    rows = sorted(results.trials, key=lambda row: row.number)
    if all(row.finished for row in rows):
        rows.sort(key=lambda row: (row.finished or "", row.number))
    return rows


def coefficients(results: Results) -> go.Figure | None:
    """A heat map for each expert: layers from left to right, modules from top to bottom.

    What stands outside the layers (embeddings, head, final norm) is in the last column.
    """
    cells = by_expert(results.coefficients)
    if not cells:
        return None
    experts = list(dict.fromkeys(expert for expert, _ in cells))
    layers = sorted({layer for row in cells.values() for layer in row if layer is not None})
    places: list[int | None] = [*layers, *([None] if any(None in row for row in cells.values()) else [])]
    columns = ["outside" if layer is None else str(layer) for layer in places]
    counts = [sum(expert == name for name, _ in cells) for expert in experts]
    height = 26 * sum(counts) + 46 * len(experts) + 60
    figure = make_subplots(
        rows=len(experts),
        shared_xaxes=True,
        row_heights=counts,
        vertical_spacing=min(46 / height, 0.5 / len(experts)),
        subplot_titles=[html.escape(_short(expert)) for expert in experts],
    )
    for index, expert in enumerate(experts, start=1):
        modules = [module for name, module in cells if name == expert]
        grid = [[cells[expert, module].get(layer) for layer in places] for module in modules]
        heat = go.Heatmap(
            z=grid,
            x=columns,
            y=[html.escape(_short(module)) for module in modules],
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hovertemplate="layer %{x}, %{y}<br>%{z:.4f}<extra></extra>",
        )
        figure.add_trace(heat, row=index, col=1)
    _styled(figure, None, None, height)
    figure.update_xaxes(type="category", showgrid=False, ticks="")
    figure.update_xaxes(title_text="layer", row=len(experts), col=1)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticks="")
    figure.update_layout(coloraxis=_colours([value for row in cells.values() for value in row.values()]))
    _titles_left(figure)
    return figure


def _colours(values: Sequence[float]) -> dict[str, Any]:
    """One hue from clear to full where all coefficients have one sign; two hues around zero otherwise."""
    top = max((abs(value) for value in values), default=1.0) or 1.0
    bar = {"thickness": 12, "outlinewidth": 0, "len": 1.0}
    if min(values, default=0.0) < 0.0:
        scale = [[0.0, "rgba(200,83,45,1)"], [0.5, "rgba(140,140,140,0.10)"], [1.0, "rgba(38,110,190,1)"]]
        return {"colorscale": scale, "cmin": -top, "cmax": top, "colorbar": bar}
    scale = [[0.0, "rgba(38,110,190,0.06)"], [1.0, "rgba(38,110,190,1)"]]
    return {"colorscale": scale, "cmin": 0.0, "cmax": top, "colorbar": bar}


def standings(models: Sequence[Standing], objective: Objective) -> go.Figure | None:
    """Each model's score on a split with its 95 % interval, the best on top."""
    rows = [model for model in sorted_standings(tuple(models), objective) if objective.name in model.objectives]
    if not rows:
        return None
    figure = go.Figure(_whiskers(rows, lambda model: model.objectives.get(objective.name)))
    _styled(figure, _axis(objective), None, 90 + 30 * len(rows))
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def task_scores(results: Results, models: Sequence[Standing]) -> go.Figure | None:
    """Each model's score on each task with its 95 % interval; models in one order for all tasks."""
    rows = sorted_standings(tuple(models), results.objective)
    tasks = [task for task in results.tasks if any(task.name in model.tasks for model in rows)]
    if not tasks:
        return None
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    height = down * (70 + 28 * len(rows)) + 40
    figure = make_subplots(
        rows=down,
        cols=across,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=min(80 / height, 0.5 / down),
        subplot_titles=[
            html.escape(_short(task.name, 75 // across)) + ("" if task.higher_is_better else " (lower is better)")
            for task in tasks
        ],
    )
    for index, task in enumerate(tasks):
        trace = _whiskers(rows, _of_task(task.name))
        figure.add_trace(trace, row=index // across + 1, col=index % across + 1)
    _styled(figure, None, None, height)
    figure.update_yaxes(autorange="reversed", type="category")
    _titles_left(figure)
    return figure


def _of_task(name: str) -> Callable[[Standing], Estimate | None]:
    return lambda model: model.tasks.get(name)


def _whiskers(models: Sequence[Standing], estimate: Callable[[Standing], Estimate | None]) -> go.Scatter:
    """Dots with interval bars, one line per model that has the estimate."""
    found = [(model, value) for model in models if (value := estimate(model)) is not None]
    return go.Scatter(
        x=[value.mean for _, value in found],
        y=_unique([_short(model.label) for model, _ in found]),
        mode="markers",
        showlegend=False,
        marker={"size": 9, "color": [KIND_COLOURS[model.kind] for model, _ in found]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [value.high - value.mean for _, value in found],
            "arrayminus": [value.mean - value.low for _, value in found],
            "thickness": 1.5,
            "width": 4,
            "color": "rgba(128,138,152,0.9)",
        },
        text=[f"{value.mean:.4f} ({value.low:.4f} to {value.high:.4f}), n = {value.n:,}" for _, value in found],
        hovertemplate="%{y}<br>%{text}<extra></extra>",
    )


def _unique(labels: Sequence[str]) -> list[str]:
    """Escaped labels, told apart by a count where two are the same: plotly would draw them on one line."""
    seen: dict[str, int] = {}
    found = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        found.append(html.escape(label if seen[label] == 1 else f"{label} ({seen[label]})"))
    return found


def importance(importances: Mapping[str, float]) -> go.Figure | None:
    """The most important parameters as bars, at most twenty."""
    rows = sorted(importances.items(), key=lambda item: -item[1])[:_TOP_PARAMETERS]
    if not rows:
        return None
    figure = go.Figure(
        go.Bar(
            x=[value for _, value in rows],
            y=_unique([_short(name) for name, _ in rows]),
            orientation="h",
            marker={"color": LINE},
            hovertemplate="%{y}<br>%{x:.3f}<extra></extra>",
        )
    )
    _styled(figure, "importance", None, 90 + 24 * len(rows))
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def rank_importances(results: Results, objective: Objective) -> dict[str, float]:
    """Absolute rank correlation (Spearman) of each parameter with the value, over the scored trials.

    What to show where too few trials are there for PED-ANOVA. It sees only monotone effects, one parameter at
    a time; of a choice, how much the means of what was chosen differ. Empty under ten trials; parameters that never
    moved are left out.
    """
    rows = [row for row in completed(results, objective) if row.parameters]
    names = list(dict.fromkeys(name for row in rows for name in row.parameters))
    found = {}
    for name in names:
        having = [row for row in rows if name in row.parameters]
        y = np.array([row.values[objective.name] for row in having])
        x = _numbers([row.parameters[name] for row in having], y)
        if len(having) >= _RANKABLE and np.ptp(x) > 0 and np.ptp(y) > 0:
            found[name] = abs(float(np.corrcoef(_ranks(x), _ranks(y))[0, 1]))
    return found


def _numbers(values: Sequence[Any], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values; for those of a choice, the mean score of what was chosen."""
    if all(isinstance(value, int | float) for value in values):
        return np.array(values, dtype=np.float64)
    means = {value: scores[[one == value for one in values]].mean() for value in values}
    return np.array([means[value] for value in values])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts - 1) / 2.0)[inverse]
    return shared


def pareto(results: Results) -> go.Figure | None:
    """Two objectives against each other on the search split, with the front of what nothing beats, and its knee."""
    if len(results.objectives) != 2:
        return None
    first, second = results.objectives
    rows = [row for row in completed(results, first) if second.name in row.values]
    if not rows:
        return None
    figure = go.Figure()
    edge = sorted(undominated(keeping(rows), (first, second)), key=lambda row: row.values[first.name])
    line = {"color": LINE, "width": 1.5, "dash": "dot"}
    figure.add_trace(_points(edge, first, second, "front", {"mode": "lines", "line": line}))
    for origin, (name, colour, symbol, size) in ORIGIN_STYLES.items():
        chosen = [row for row in rows if row.origin == origin and row.number != results.winner]
        if chosen:
            marker = {"color": colour, "symbol": symbol, "size": size}
            figure.add_trace(_points(chosen, first, second, name, {"mode": "markers", "marker": marker}))
    best = [row for row in rows if row.number == results.winner]
    if best:
        marker = {"color": WINNER, "symbol": "star", "size": 14}
        figure.add_trace(_points(best, first, second, "winner", {"mode": "markers", "marker": marker}))
    turn = [row for row in rows if results.front is not None and row.number == results.front.knee]
    if turn:
        ring = {"color": "rgba(0,0,0,0)", "size": 18, "line": {"color": LINE, "width": 2}}
        figure.add_trace(_points(turn, first, second, "knee", {"mode": "markers", "marker": ring}))
    return _styled(figure, _axis(first), _axis(second), 420)


def _points(
    rows: Sequence[TrialRow], first: Objective, second: Objective, name: str, style: dict[str, Any]
) -> go.Scatter:
    return go.Scatter(
        x=[row.values[first.name] for row in rows],
        y=[row.values[second.name] for row in rows],
        name=name,
        text=[html.escape(row.label) for row in rows],
        hovertemplate="%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
        **style,
    )


def _axis(objective: Objective) -> str:
    note = "" if objective.higher_is_better else " (lower is better)"
    return html.escape(_short(objective.name)) + note


def _short(label: str, limit: int = 40) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"


def _titles_left(figure: go.Figure) -> None:
    """Subplot titles at the left edge of their panels."""
    for index, title in enumerate(figure.layout.annotations, start=1):
        axis = figure.layout["xaxis" if index == 1 else f"xaxis{index}"]
        title.update(x=axis.domain[0], xanchor="left", font={"size": 13})


def _styled(figure: go.Figure, x: str | None, y: str | None, height: int) -> go.Figure:
    """The look all figures share: no background, quiet grid, a legend above."""
    grid = "rgba(128,138,152,0.22)"
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#808a98"},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#9aa4b1", "activecolor": LINE},
    )
    figure.update_xaxes(title_text=x, gridcolor=grid, zeroline=False, automargin=True, linecolor=grid)
    figure.update_yaxes(title_text=y, gridcolor=grid, zeroline=False, automargin=True, linecolor=grid)
    return figure
