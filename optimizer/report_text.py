"""Print a job's results as tables for the terminal."""

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from optimizer.cost import in_words
from optimizer.headline import TESTS, headline, p_value, plural, score, signed
from optimizer.normalised import mean_share, normalised
from optimizer.results import (
    ByExpert,
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

# A title and what stands under it.
Section = tuple[str, RenderableType]

TOP = 10
FRONT = 20
# What fits side by side in 80 columns.
_LAYERS_A_BLOCK = 8
_TASKS_A_BLOCK = 3


def show(results: Results, console: Console | None = None) -> None:
    """Print the whole report. Without a terminal the output is plain text, 80 columns wide."""
    (console or Console(highlight=False)).print(render(results))


def text(results: Results, width: int = 80) -> str:
    """The report as plain text, for a file or a log."""
    stream = io.StringIO()
    show(results, Console(file=stream, width=width, highlight=False, no_color=True, force_terminal=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def render(results: Results) -> Group:
    """The report as one rich renderable: sentences, standings, tasks, trials, coefficients."""
    sections: list[Section] = [("", _summary(results)), ("", _sentences(headline(results)))]
    sections += [("What the search decided", _sentences(results.notes))] if results.notes else []
    standings, split = (results.test, "Test split") if results.test else (results.select, "Select split")
    if standings:
        sections += [_standings(objective, standings, split) for objective in results.objectives]
        sections += _bounds(standings, split)
        sections += _by_task(results, standings)
        sections += _task_differences(results, standings)
        sections += _normalised(results)
    sections += _front(results)
    sections += [_trials(results), *_failures(results), *_coefficients(results), *_cost(results)]
    parts: list[RenderableType] = []
    for title, content in sections:
        # A title of its own, because a table's wraps at the table's width.
        parts += [_t(title, "bold")] if title else []
        parts += [content, Text("")]
    return Group(*parts)


def clean(value: str) -> str:
    """The string without control characters, which could move the cursor or colour what follows."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)


def _t(value: str, style: str = "") -> Text:
    # A Text, not a str: rich would read `[...]` in a str as markup.
    return Text(clean(value), style=style)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def _summary(results: Results) -> Table:
    table = Table.grid(padding=(0, 2))
    splits = ", ".join(f"{name} {count:,}" for name, count in results.splits.items())
    budget = ", ".join(f"{name} {value:g}" for name, value in results.budget.items())
    rows = {
        "job": f"{results.job} ({results.state})",
        "models": ", ".join([*([results.base] if results.base else []), *results.experts]),
        "method": results.method,
        "space": results.space,
        "engine": f"{results.engine}, seed {results.seed}, budget {budget}",
        "examples": splits,
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        "time": f"{results.seconds:,.0f} s",
    }
    for name, value in rows.items():
        if value:
            table.add_row(_t(name, "dim"), _t(value))
    return table


def _cost(results: Results) -> list[Section]:
    cost = results.cost
    if cost is None:
        return []
    table = _table()
    table.add_column("stage")
    for name in ("seconds", "share", "tokens"):
        table.add_column(name, justify="right")
    for stage, seconds in cost.seconds.items():
        tokens = f"{cost.tokens.get(stage, 0):,}" if cost.tokens.get(stage) else ""
        table.add_row(stage, f"{seconds:,.1f}", f"{seconds / cost.total:.1%}" if cost.total else "", tokens)
    return [("Where the time went", table), ("", _t(in_words(cost)))]


def _sentences(sentences: Iterable[str]) -> Text:
    return Text("\n").join([_t(sentence) for sentence in sentences])


def _standings(objective: Objective, standings: tuple[Standing, ...], split: str) -> Section:
    table = _table()
    table.add_column("model", overflow="fold")
    for column in ("score", "95 % interval", "difference", "95 % interval", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    alike = False
    for standing in sorted_standings(standings, objective):
        row = [_t(standing.label, _style(standing)), *_estimate(standing.objectives.get(objective.name))]
        difference = (standing.difference or {}).get(objective.name)
        if difference is not None:
            mark = "" if difference.distinguishable else " ~"
            alike = alike or bool(mark)
            row.append(Text(signed(difference.mean)))
            row.append(Text(f"{difference.low:+z.3f} to {difference.high:+z.3f}"))
            row.append(Text(p_value(difference.p)[2:].replace("= 0", "").replace("< 0", "<") + mark))
        table.add_row(*row)
    note = "" if objective.higher_is_better else ", lower is better"
    note += " (difference: winner minus model"
    note += "; ~ not distinguishable)" if alike else ")"
    return f"{split}: {objective.name}{note}", table


def _bounds(standings: tuple[Standing, ...], split: str) -> list[Section]:
    """For every model, whether it keeps the job's bounds."""
    if not any(standing.kept for standing in standings):
        return []
    table = _table()
    table.add_column("model", overflow="fold")
    table.add_column("bound", overflow="fold")
    table.add_column("measured", justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("")
    for standing in standings:
        for kept in standing.kept:
            bound = _t(f"{kept.task} {kept.bound}")
            table.add_row(_t(standing.label, _style(standing)), bound, *_estimate(kept.measured), Text(kept.verdict))
    return [(f"{split}: bounds", table)]


def _estimate(estimate: Estimate | None) -> list[Text]:
    if estimate is None:
        return [Text("-"), Text("")]
    return [Text(score(estimate.mean)), Text(f"{estimate.low:.3f} to {estimate.high:.3f}")]


def _by_task(results: Results, standings: tuple[Standing, ...]) -> list[Section]:
    """A table for every few tasks, so that many tasks fit the width."""
    found: list[Section] = []
    for start in range(0, len(results.tasks), _TASKS_A_BLOCK):
        tasks = results.tasks[start : start + _TASKS_A_BLOCK]
        table = _table()
        table.add_column("model", overflow="fold")
        for task in tasks:
            note = "" if task.higher_is_better else ", lower is better"
            table.add_column(_t(f"{task.name} ({task.metric}{note})"), justify="right", overflow="fold")
        for standing in sorted_standings(standings, results.objective):
            cells = [standing.tasks.get(task.name) for task in tasks]
            texts = [f"{c.mean:.3f}\n{c.low:.3f} to {c.high:.3f}" if c else "-" for c in cells]
            table.add_row(_t(standing.label, _style(standing)), *(Text(cell) for cell in texts))
        found.append(("By task" if start == 0 else "By task, continued", table))
    return found


def _task_differences(results: Results, standings: tuple[Standing, ...]) -> list[Section]:
    """The winner minus every other model on each task, a table for every few tasks."""
    compared = [one for one in sorted_standings(standings, results.objective) if one.task_difference]
    if not compared or len(results.tasks) < 2:
        return []
    found: list[Section] = []
    for start in range(0, len(results.tasks), _TASKS_A_BLOCK):
        tasks = results.tasks[start : start + _TASKS_A_BLOCK]
        table = _table()
        table.add_column("model", overflow="fold")
        for task in tasks:
            table.add_column(_t(task.name), justify="right", overflow="fold")
        for standing in compared:
            cells = [_difference((standing.task_difference or {}).get(task.name)) for task in tasks]
            table.add_row(_t(standing.label), *cells)
        title = "Winner minus model by task (p adjusted over the tasks by Holm)"
        found.append((title if start == 0 else "Winner minus model by task, continued", table))
    return [*found, ("", _t(TESTS))]


def _difference(difference: Difference | None) -> Text:
    if difference is None:
        return Text("-")
    under = f"{difference.low:+z.3f} to {difference.high:+z.3f}\n{p_value(difference.p)}"
    return Text(f"{difference.mean:+z.3f}\n{under}")


def _normalised(results: Results) -> list[Section]:
    """The winner's test score on each task as a share of the best parent's."""
    rows = normalised(results)
    if not rows:
        return []
    table = _table()
    for name, justify in (("task", "left"), ("winner", "right"), ("best parent", "left"), ("its score", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("share", justify="right")
    for row in rows:
        table.add_row(_t(row.task), score(row.merged), _t(row.parent), score(row.best), f"{row.share:.3f}")
    table.add_row("mean over tasks", "", "", "", f"{mean_share(rows):.3f}")
    return [("Normalised scores on the test split", table)]


def _front(results: Results) -> list[Section]:
    """The trials of the front, by the first objective."""
    front = results.front
    if front is None:
        return []
    table = _table()
    table.add_column("trial", justify="right")
    table.add_column("model", overflow="fold")
    for objective in results.objectives:
        table.add_column(_t(objective.name), justify="right", overflow="fold")
    table.add_column("")
    rows = [row for row in ranked(results, results.objective) if row.number in front.trials]
    for row in rows[:FRONT]:
        mark = "knee" if row.number == front.knee else ""
        values = [_t(score(row.values[objective.name])) for objective in results.objectives]
        table.add_row(str(row.number), _t(row.label), *values, mark)
    shown = f", {FRONT} shown" if len(rows) > FRONT else ""
    return [(f"Front of the objectives on the search split (optimistic): {plural(len(rows), 'trial')}{shown}", table)]


def _style(standing: Standing) -> str:
    return "bold" if standing.kind == "winner" else ""


def _trials(results: Results) -> Section:
    rows = ranked(results, results.objective)
    if not rows:
        return "", Text("There are no scored trials to list.")
    table = _table()
    table.add_column("trial", justify="right")
    table.add_column("model", overflow="fold")
    for objective in results.objectives:
        table.add_column(_t(objective.name), justify="right", overflow="fold")
    table.add_column("examples", justify="right")
    table.add_column("digest", overflow="fold")
    for row in rows[:TOP]:
        values = [_t(_value(row, objective, results)) for objective in results.objectives]
        style = "bold" if row.number == results.winner else ""
        label = row.label if row.beyond == 0 else f"{row.label} (beyond a bound)"
        table.add_row(str(row.number), _t(label, style), *values, f"{row.examples:,}", _t(row.digest[:12]))
    note = ", ± standard error" if any(row.standard_error is not None for row in rows[:TOP]) else ""
    return f"Best {min(TOP, len(rows))} of {len(rows)} scored trials on the search split (optimistic{note})", table


def _value(row: TrialRow, objective: Objective, results: Results) -> str:
    """The trial's estimate, with its standard error where that is known: of the first objective."""
    if objective.name not in row.values:
        return "-"
    error = row.standard_error if objective == results.objective else None
    return score(row.values[objective.name]) + (f" ±{error:.4f}" if error is not None else "")


def _failures(results: Results) -> list[Section]:
    failed = [row for row in results.trials if row.state == "failed"]
    if not failed:
        return []
    table = _table()
    table.add_column("trial", justify="right")
    table.add_column("reason", overflow="fold")
    for row in failed[-TOP:]:
        table.add_row(str(row.number), _t(reason(row)))
    return [(f"Failed trials: {len(failed)}" + (f", the last {TOP} shown" if len(failed) > TOP else ""), table)]


def _coefficients(results: Results) -> list[Section]:
    """A table for each block of layers, a row per expert and module; one more for what stands outside."""
    cells = by_expert(results.coefficients)
    layers = list(dict.fromkeys(layer for row in cells.values() for layer in row if layer is not None))
    layers.sort()
    title = f"Coefficients of {winner_label(results) or 'the winner'}"
    found: list[Section] = []
    for start in range(0, len(layers), _LAYERS_A_BLOCK):
        block = layers[start : start + _LAYERS_A_BLOCK]
        found.append((f"{title}, layers {block[0]} to {block[-1]}", _layers(cells, block)))
    outside = {key: row[None] for key, row in cells.items() if None in row}
    return [*found, (f"{title}, outside the layers", _outside(outside))] if outside else found


def _layers(cells: ByExpert, block: list[int]) -> Table:
    table = _table()
    table.add_column("expert", overflow="fold", max_width=16)
    table.add_column("module", overflow="fold", max_width=12)
    for layer in block:
        table.add_column(str(layer), justify="right")
    for (expert, module), row in cells.items():
        values = [f"{row[layer]:.2f}" if layer in row else "" for layer in block]
        if any(values):
            table.add_row(_t(expert), _t(module), *values)
    return table


def _outside(cells: dict[tuple[str, str], float]) -> Table:
    modules = list(dict.fromkeys(module for _, module in cells))
    table = _table()
    table.add_column("expert", overflow="fold", max_width=16)
    for module in modules:
        table.add_column(_t(module), justify="right", overflow="fold")
    for expert in dict.fromkeys(expert for expert, _ in cells):
        values = [cells.get((expert, module)) for module in modules]
        table.add_row(_t(expert), *("" if value is None else f"{value:.2f}" for value in values))
    return table
