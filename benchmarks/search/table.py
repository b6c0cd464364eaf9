"""Figures as tables: Markdown for documents, rich for the terminal."""

import math
from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from benchmarks.search.figures import OFFSETS, Figures, Ratio, over_landscapes
from benchmarks.search.judge import CHECKPOINTS


def by_landscape(found: Iterable[Figures]) -> dict[str, list[Figures]]:
    """In their order."""
    tables: dict[str, list[Figures]] = {}
    for one in found:
        tables.setdefault(one.landscape, []).append(one)
    return tables


def markdown(found: Sequence[Figures]) -> str:
    """One table for each landscape, and one over all where there are several."""
    tables = by_landscape(found)
    parts = []
    for rows in tables.values():
        parts += [f"**{title(rows)}**", _piped(header(rows), [line(one) for one in rows])]
    if len(tables) > 1:
        over = [[name, _times(middle), _times(least)] for name, (middle, least) in over_landscapes(found).items()]
        parts += ["**over landscapes: incumbent's EFE over its own, to the target**"]
        parts += [_piped(["contestant", "median", "worst"], over)]
    return "\n\n".join(parts) + "\n"


def rich_tables(found: Sequence[Figures]) -> list[Table]:
    """The same for the terminal, without the table over all landscapes."""
    tables = []
    for rows in by_landscape(found).values():
        table = Table(*(escape(name) for name in header(rows)), title=escape(title(rows)))
        for one in rows:
            table.add_row(*(escape(cell) for cell in line(one)))
        tables.append(table)
    return tables


def title(rows: Sequence[Figures]) -> str:
    """`quadratic-0: target .8650, 3 seeds`."""
    seeds = sorted({one.seeds for one in rows})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{rows[0].landscape}: target {_score(rows[0].target)}, {many} seed{'s' if seeds[-1] > 1 else ''}"


def header(rows: Sequence[Figures]) -> list[str]:
    """The columns' names."""
    costs = [f"{efe // 1000}k" for efe, _ in zip(CHECKPOINTS, rows[0].at, strict=False)]
    reached = [f"EFE to {_offset(offset)}" for offset in OFFSETS]
    return ["contestant", *reached, "incumbent / it", "strong / it", *costs, "final", "optimism", "seconds"]


def line(one: Figures) -> list[str]:
    """A contestant's row; ratios are those to the target itself."""
    place = OFFSETS.index(0.0)
    return [
        one.contestant,
        *(_cost(cost) for cost in one.reached),
        _ratio(one.incumbent_over[place]),
        _ratio(one.strong_over[place]) if one.strong_over else "-",
        *("-" if value is None else _score(value) for value in one.at),
        _score(one.final),
        "-" if one.optimism is None else f"{100 * one.optimism:+.1f}",
        f"{one.seconds:.1f}",
    ]


def _piped(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows))


def _offset(offset: float) -> str:
    return f"{100 * offset:+.0f}" if offset else "target"


def _score(value: float) -> str:
    return f"{100 * value:.1f}"


def _cost(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f}"


def _ratio(ratio: Ratio) -> str:
    if ratio.value == 0:
        return "never"
    sign = "≥ " if ratio.at_least else ""
    interval = "" if ratio.low is None or ratio.high is None else f" ({_times(ratio.low)} to {_times(ratio.high)})"
    return f"{sign}{_times(ratio.value)}{interval}"


def _times(value: float) -> str:
    return f"{value:.0f}×" if value >= 10 else f"{value:.1f}×"
