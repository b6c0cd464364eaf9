"""Draw a job's scores as small pictures: its trials, its standings, its tasks, its front.

Every function returns SVG text, or None where there is nothing to draw. The HTML report draws the same with more to
find out by the mouse (`optimizer.plots`); these are for places that show pictures only.
"""

from collections.abc import Iterable, Sequence

from optimizer.front import undominated
from optimizer.results import Objective, Results, Standing, TrialRow, better, completed, keeping, sorted_standings
from optimizer.statistics import Estimate
from optimizer.svg import BASELINE, FAILED, GRID, INK, LINE, PARENT, SEARCH, WINNER, Picture, short, ticks, width_of

MOST_TRIALS = 600  # drawn of a longer search: all that are not of the search, all records, and others evenly
MOST_TASKS = 12
MOST_MODELS = 24
_ORIGINS = {"search": SEARCH, "baseline": BASELINE, "recommendation": LINE}
_KINDS = {"base": PARENT, "parent": PARENT, "baseline": BASELINE, "winner": WINNER, "finalist": LINE}
_LEGEND = {"searched": SEARCH, "baseline or parent": BASELINE, "best so far": LINE, "winner": WINNER, "failed": FAILED}


class _Axes:
    """A frame with two scales."""

    def __init__(self, picture: Picture, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._picture = picture
        self._x, self._y = _widened(*x), _widened(*y)
        self._left, self._right = 64.0, picture.width - 16
        self._top, self._bottom = 46.0, picture.height - 40

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the data is on the picture."""
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return self._left + across * (self._right - self._left), self._bottom - up * (self._bottom - self._top)

    def drawn(self, x_title: str, y_title: str) -> None:
        """The grid, its numbers, and what they count."""
        for value in ticks(*self._y):
            _, y = self.at(self._x[0], value)
            self._picture.line(self._left, y, self._right, y, GRID)
            self._picture.text(self._left - 6, y + 4, f"{value:g}", anchor="end", size=10)
        for value in ticks(*self._x, about=7):
            x, _ = self.at(value, self._y[0])
            self._picture.line(x, self._bottom, x, self._bottom + 4, INK)
            self._picture.text(x, self._bottom + 16, f"{value:g}", anchor="middle", size=10)
        self._picture.text((self._left + self._right) / 2, self._bottom + 32, short(x_title, 80), anchor="middle")
        self._picture.text(12, 38, short(y_title, 60))


def history(results: Results, objective: Objective) -> str | None:
    """Every trial's value on the search split, and the best so far of those that keep the bounds."""
    rows = completed(results, objective)
    if not rows:
        return None
    failed = [row.number for row in results.trials if row.state == "failed"]
    values = [row.values[objective.name] for row in rows]
    records = _records(keeping(rows), objective)
    kept: set[int | None] = {results.winner, *(row.number for row in records)}
    shown = _thinned(rows, kept, MOST_TRIALS)
    picture = Picture(760, 320, f"{results.job}: {objective.name} of each trial")
    title = f"{objective.name} on the search split, trial by trial"
    picture.text(12, 20, short(title, 80), bold=True, size=13)
    axes = _Axes(picture, (0, max(row.number for row in results.trials)), (min(values), max(values)))
    axes.drawn("trial" + (f" ({len(shown)} of {len(rows)} drawn)" if len(shown) < len(rows) else ""), _aim(objective))
    for row in shown:
        x, y = axes.at(row.number, row.values[objective.name])
        picture.dot(x, y, 2.2 if row.origin == "search" else 4, _ORIGINS[row.origin])
    for number in failed[:: max(1, len(failed) // 200)]:
        x, y = axes.at(number, min(values))
        picture.dot(x, y + 8, 2.2, FAILED)
    steps: list[tuple[float, float]] = []
    for row in records:
        x, y = axes.at(row.number, row.values[objective.name])
        steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    if steps:
        picture.path([*steps, (axes.at(rows[-1].number, 0)[0], steps[-1][1])], LINE)
    for row in rows:
        if row.number == results.winner:
            picture.dot(*axes.at(row.number, row.values[objective.name]), 6, WINNER)
    _legend(picture, [name for name in _LEGEND if _is_there(name, rows, bool(failed), results.winner)])
    return picture.written()


def standings(models: Sequence[Standing], objective: Objective, split: str) -> str | None:
    """Each model's score on a split with its 95 % interval, the best on top."""
    rows = [one for one in sorted_standings(tuple(models), objective) if objective.name in one.objectives]
    if not rows:
        return None
    title = f"{objective.name} on the {split} split, with 95 % intervals"
    return _whiskers([(title, [(one, one.objectives[objective.name]) for one in rows[:MOST_MODELS]])])


def tasks(results: Results, models: Sequence[Standing], split: str) -> str | None:
    """Each model's score on each task with its 95 % interval; the first tasks where there are many."""
    rows = sorted_standings(tuple(models), results.objective)[:MOST_MODELS]
    panels = []
    for task in results.tasks[:MOST_TASKS]:
        found = [(model, model.tasks[task.name]) for model in rows if task.name in model.tasks]
        if found:
            aim = "" if task.higher_is_better else ", lower is better"
            panels.append((f"{task.name} ({task.metric}{aim}) on the {split} split", found))
    return _whiskers(panels) if panels else None


def front(results: Results) -> str | None:
    """The first two objectives against each other on the search split, and the front of what nothing beats."""
    if len(results.objectives) < 2:
        return None
    first, second = results.objectives[:2]
    rows = [row for row in completed(results, first) if second.name in row.values]
    if not rows:
        return None
    points = {row.number: (row.values[first.name], row.values[second.name]) for row in rows}
    edge = sorted(undominated(keeping(rows), (first, second)), key=lambda row: points[row.number])
    picture = Picture(560, 440, f"{results.job}: front of {first.name} and {second.name}")
    picture.text(12, 20, short(f"Front of {first.name} and {second.name}", 60), bold=True, size=13)
    across, up = zip(*points.values(), strict=True)
    axes = _Axes(picture, (min(across), max(across)), (min(up), max(up)))
    axes.drawn(_aim(first), _aim(second))
    for row in _thinned(rows, {row.number for row in edge}, MOST_TRIALS):
        picture.dot(*axes.at(*points[row.number]), 2.5, "#cccccc" if row.beyond > 0 else _ORIGINS[row.origin])
    picture.path([axes.at(*points[row.number]) for row in edge], LINE)
    for row in edge:
        picture.dot(*axes.at(*points[row.number]), 3.5, LINE)
    if results.winner in points:
        picture.dot(*axes.at(*points[results.winner]), 6, WINNER)
    return picture.written()


def _whiskers(panels: Sequence[tuple[str, list[tuple[Standing, Estimate]]]]) -> str:
    """A panel under the other, each a title and a line for every model."""
    labels = [short(model.label, 34) for _, rows in panels for model, _ in rows]
    left = 18 + max(width_of(label) for label in labels)
    picture = Picture(left + 460, sum(58 + 20 * len(rows) for _, rows in panels), panels[0][0])
    y = 0.0
    for title, rows in panels:
        picture.text(12, y + 20, short(title, 84), bold=True, size=12)
        low, high = min(one.low for _, one in rows), max(one.high for _, one in rows)
        low, high = _widened(low, high)
        scale = 380 / (high - low)
        foot = y + 30 + 20 * len(rows)
        for value in ticks(low, high):
            x = left + (value - low) * scale
            picture.line(x, y + 28, x, foot, GRID)
            picture.text(x, foot + 12, f"{value:g}", anchor="middle", size=10)
        for place, (model, estimate) in enumerate(rows):
            line = y + 40 + 20 * place
            picture.text(left - 6, line + 4, short(model.label, 34), anchor="end", bold=model.kind == "winner")
            picture.line(left + (estimate.low - low) * scale, line, left + (estimate.high - low) * scale, line, INK)
            picture.dot(left + (estimate.mean - low) * scale, line, 4.5, _KINDS[model.kind])
            picture.text(left + 388, line + 4, f"{estimate.mean:.4f}", size=10)
        y = foot + 28
    return picture.written()


def _records(rows: Iterable[TrialRow], objective: Objective) -> list[TrialRow]:
    """The trials that were the best when they came."""
    found: list[TrialRow] = []
    for row in rows:
        if not found or better(objective, row.values[objective.name], found[-1].values[objective.name]):
            found.append(row)
    return found


def _thinned(rows: Sequence[TrialRow], kept: set[int | None], most: int) -> list[TrialRow]:
    if len(rows) <= most:
        return list(rows)
    every = -(-len(rows) // most)
    return [row for place, row in enumerate(rows) if place % every == 0 or row.number in kept or row.origin != "search"]


def _is_there(name: str, rows: Sequence[TrialRow], failed: bool, winner: int | None) -> bool:
    if name == "searched":
        return any(row.origin == "search" for row in rows)
    if name == "baseline or parent":
        return any(row.origin == "baseline" for row in rows)
    if name == "winner":
        return any(row.number == winner for row in rows)
    return failed if name == "failed" else True


def _legend(picture: Picture, names: Sequence[str]) -> None:
    x = picture.width - 16 - sum(22 + width_of(name) for name in names)
    for name in names:
        picture.dot(x + 6, 34, 4, _LEGEND[name])
        picture.text(x + 14, 38, name, size=10)
        x += 22 + width_of(name)


def _aim(objective: Objective) -> str:
    return objective.name + ("" if objective.higher_is_better else " (lower is better)")


def _widened(low: float, high: float) -> tuple[float, float]:
    """A little room on both sides, and some where everything is equal."""
    room = 0.04 * (high - low) or 0.05 * abs(low) or 0.5
    return low - room, high + room
