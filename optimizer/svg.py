"""Write small pictures as SVG text: what a score plot or a heat map is put together from.

Every text is escaped, and nothing here can make a script, a link or a style sheet. Pictures bring a background of
their own, so that they read on a dark page too.
"""

import math
from collections.abc import Sequence
from html import escape

SEARCH = "#8595ad"
BASELINE = "#d9822b"
PARENT = "#8a63d2"
WINNER = "#12997a"
FAILED = "#c8453b"
LINE = "#3b76c4"
INK = "#3a424e"
GRID = "#e3e6ea"
PAPER = "#ffffff"
_CHARACTER = 6.3  # the mean width of one at 11 px, a little more than it takes


class Picture:
    """What has been drawn so far. Coordinates are pixels from the upper left corner."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        self._title = title
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        self._parts.append(f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" fill="{colour}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False) -> None:
        """A thin line."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke="{colour}"{dash}/>')

    def path(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """Straight lines from point to point."""
        drawn = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self._parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>')

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        """A filled circle."""
        self._parts.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{colour}"/>')

    def text(self, x: float, y: float, words: str, anchor: str = "start", bold: bool = False, size: int = 11) -> None:
        """Words on one line, `y` at their foot. `anchor`: start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" font-size="{size}"{weight}>{_safe(words)}</text>'
        )

    def written(self) -> str:
        """The picture as an SVG document."""
        size = f'width="{_n(self.width)}" height="{_n(self.height)}" viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" fill="{INK}">'
            f'<title>{_safe(self._title)}</title><rect width="100%" height="100%" fill="{PAPER}"/>'
            + "".join(self._parts)
            + "</svg>"
        )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * place, 12) for place in range(first, last + 1)]


def short(words: str, limit: int) -> str:
    """At most so many characters."""
    return words if len(words) <= limit else words[: limit - 1] + "…"


def width_of(words: str) -> float:
    """About how many pixels the words take at the usual size."""
    return _CHARACTER * len(words)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _safe(words: str) -> str:
    return escape("".join(c if c.isprintable() else " " for c in words))
