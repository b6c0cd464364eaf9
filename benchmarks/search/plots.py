"""The test score of what is recommended over the logarithm of the cost: a page by plotly, and a plain SVG beside it."""

import html
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from benchmarks.search.judge import Run

COLOURS = (
    "#12997a", "#3b76c4", "#c8453b", "#d9822b", "#8a63d2", "#5f7d3a", "#b04a8f", "#4aa3b5",
    "#8a6d3b", "#6b7688", "#a3b04a", "#d16b8a", "#2f5d8a", "#94a3b8", "#7a4a2f", "#1f2937",
)  # fmt: skip
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 480, 56, 240, 36, 44

Curve = list[tuple[float, float]]


def curves(runs: Iterable[Run], points: int = 200) -> dict[str, dict[str, Curve]]:
    """For each landscape and contestant, (EFE, median over seeds of the test score), from where all seeds answer on."""
    grouped: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        grouped.setdefault(run.landscape, {}).setdefault(run.contestant, []).append(run)
    return {
        landscape: {name: _curve(own, points) for name, own in contestants.items()}
        for landscape, contestants in grouped.items()
    }


def _curve(runs: Sequence[Run], points: int) -> Curve:
    first = max(run.points[0].efe for run in runs)
    costs = np.geomspace(first, max(first + 1, max(run.budget for run in runs)), points)
    costs[0] = first  # exactly: the power of a logarithm may fall just short of it
    found = []
    for efe in costs.tolist():
        seen = [run.at(efe) for run in runs]
        found.append((efe, statistics.median(point.test for point in seen if point is not None)))
    return found


def write_page(found: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """One figure for each landscape, on a page that needs no network."""
    figures = []
    for number, (landscape, lines) in enumerate(found.items()):
        figure = go.Figure()
        for place, (name, curve) in enumerate(lines.items()):
            x, y = zip(*curve, strict=True)
            style = {"color": COLOURS[place % len(COLOURS)], "shape": "hv"}
            figure.add_trace(go.Scatter(x=x, y=y, name=html.escape(name), mode="lines", line=style))
        figure.update_layout(title=html.escape(landscape), template="plotly_white", height=560)
        figure.update_xaxes(type="log", title="EFE")
        figure.update_yaxes(title="test score", range=_range(lines))
        figures.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    path.write_text("<!doctype html><meta charset='utf-8'><title>search</title>" + "\n".join(figures))


def svg(landscape: str, lines: Mapping[str, Curve]) -> str:
    """One landscape's figure; names beside it in the order of the final score."""
    low, high = _range(lines)
    start = math.log10(min(curve[0][0] for curve in lines.values()))
    stop = math.log10(max(curve[-1][0] for curve in lines.values()))

    def place(efe: float, score: float) -> tuple[float, float]:
        across = (math.log10(efe) - start) / (stop - start)
        up = (score - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<clipPath id="inside"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
        f'<text x="{LEFT}" y="22" font-size="15">{html.escape(landscape)}: test score of what is recommended</text>',
    ]
    for decade in range(math.ceil(start), math.floor(stop + 1e-9) + 1):
        x, y = place(10.0**decade, low)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{10**decade:,}</text>')
    for score in np.linspace(low, high, 6).tolist():
        _, y = place(10**start, score)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * score:.1f}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">EFE</text>')
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(lines)}
    for name, curve in lines.items():
        parts.append(
            f'<polyline clip-path="url(#inside)" fill="none" stroke="{colours[name]}" stroke-width="2" '
            f'points="{_steps([place(*point) for point in curve])}"/>'
        )
    for row, name in enumerate(sorted(lines, key=lambda one: -lines[one][-1][1])):
        y = TOP + 10 + 20 * row
        x = WIDTH - RIGHT + 12
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 18}" y2="{y}" stroke="{colours[name]}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 24}" y="{y + 4}">{100 * lines[name][-1][1]:.1f} {html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """A score holds until the next: horizontally first, then up or down."""
    found = [points[0]]
    for x, y in points[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in found)


def _range(lines: Mapping[str, Curve]) -> tuple[float, float]:
    """From 15 points below the best to a point above it: what is further down is not worth the room."""
    best = max(score for curve in lines.values() for _, score in curve)
    return best - 0.15, best + 0.01
