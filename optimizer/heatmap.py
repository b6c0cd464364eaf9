"""Draw coefficients as a heat map: layers from left to right, an expert's modules from top to bottom."""

from collections.abc import Mapping, Sequence

from optimizer.results import ByExpert, by_expert
from optimizer.svg import Picture, short, width_of

MOST_COLUMNS = 96  # more layers than this are averaged over neighbours, so that a picture stays small
MOST_ROWS = 48  # more rows than this are one row for each expert, the mean of its modules
_LABEL = 24
_ROW = 17.0
_WIDE = 640.0
_SHADES = 24
_POSITIVE, _NEGATIVE, _NONE = (38, 110, 190), (200, 83, 45), (246, 247, 249)

Column = tuple[int | None, ...]  # the layers that share it; (None,) is what stands outside the layers


def heatmap(coefficients: Mapping[str, Mapping[str, float]], title: str) -> str | None:
    """The coefficients (group, then expert) as SVG text; None where there are none."""
    cells = by_expert(coefficients)
    if not cells:
        return None
    cells = _fewer_rows(cells)
    columns = _columns(cells)
    experts = list(dict.fromkeys(expert for expert, _ in cells))
    left = 16 + max(width_of(short(module, _LABEL)) for _, module in cells)
    wide = max(5.0, min(46.0, _WIDE / len(columns)))
    top = max(abs(value) for row in cells.values() for value in row.values()) or 1.0
    picture = Picture(max(left + wide * len(columns) + 16, 420), 76 + _ROW * len(cells) + 24 * len(experts), title)
    picture.text(12, 20, short(title, 90), bold=True, size=13)
    _scale(picture, top, any(value < 0 for row in cells.values() for value in row.values()))
    y = 46.0
    for expert in experts:
        picture.text(12, y + 13, short(expert, 60), bold=True)
        y += 20
        for module in (module for name, module in cells if name == expert):
            picture.text(left - 6, y + 12, short(module, _LABEL), anchor="end")
            _row(picture, [_mean(cells[expert, module], column) for column in columns], (left, y), wide, top)
            y += _ROW
        y += 4
    _layers(picture, columns, left, y + 12, wide)
    return picture.written()


def _row(
    picture: Picture, values: Sequence[float | None], corner: tuple[float, float], wide: float, top: float
) -> None:
    """One row of cells; neighbours of one colour are one rectangle."""
    left, y = corner
    start = 0
    shades = [None if value is None else _colour(value / top) for value in values]
    for place in range(1, len(values) + 1):
        if place == len(values) or shades[place] != shades[start] or wide >= 30:
            shade = shades[start]
            if shade is not None:
                picture.rect(left + wide * start, y, wide * (place - start) - 1, _ROW - 1, shade)
            start = place
    if wide >= 30:
        for place, value in enumerate(values):
            if value is not None:
                picture.text(left + wide * (place + 0.5), y + 12, f"{value:.2f}", anchor="middle", size=10)


def _colour(share: float) -> str:
    """From next to nothing to a full hue, in few enough shades that neighbours are often equal."""
    full = _POSITIVE if share >= 0 else _NEGATIVE
    amount = round(min(1.0, abs(share)) * _SHADES) / _SHADES * 0.85  # black numbers still read on the strongest
    return "#" + "".join(f"{round(none + (hue - none) * amount):02x}" for none, hue in zip(_NONE, full, strict=True))


def _scale(picture: Picture, top: float, negative: bool) -> None:
    """What the colours mean, in the upper line."""
    low = -top if negative else 0.0
    x = 12.0
    picture.text(x, 38, f"{low:.2f}", size=10)
    x += 8 + width_of(f"{low:.2f}")
    for place in range(20):
        picture.rect(x + 6 * place, 29, 6, 10, _colour((low + (top - low) * place / 19) / top))
    picture.text(x + 126, 38, f"{top:.2f}", size=10)


def _layers(picture: Picture, columns: Sequence[Column], left: float, y: float, wide: float) -> None:
    """The layers' numbers under the columns, as many as fit."""
    every = max(1, -(-28 // int(wide))) if wide < 28 else 1
    for place, column in enumerate(columns):
        if column == (None,):
            picture.text(left + wide * (place + 1), y, "outside", anchor="end", size=10)
        elif place % every == 0 and wide * (len(columns) - place) > 60:  # not under the word `outside`
            picture.text(left + wide * (place + 0.5), y, str(column[0]), anchor="middle", size=10)
    averaged = max(len(column) for column in columns)
    note = "layer" if averaged == 1 else f"layer; a column is the mean of {averaged} layers"
    picture.text(left, y + 14, note, size=10)


def _columns(cells: ByExpert) -> list[Column]:
    layers = sorted({layer for row in cells.values() for layer in row if layer is not None})
    each = max(1, -(-len(layers) // MOST_COLUMNS))
    found: list[Column] = [tuple(layers[start : start + each]) for start in range(0, len(layers), each)]
    return [*found, (None,)] if any(None in row for row in cells.values()) else found


def _mean(row: Mapping[int | None, float], column: Column) -> float | None:
    values = [row[layer] for layer in column if layer in row]
    return sum(values) / len(values) if values else None


def _fewer_rows(cells: ByExpert) -> ByExpert:
    """The rows themselves, or one for each expert (the first of them) where there are too many to look at."""
    if len(cells) <= MOST_ROWS:
        return cells
    found: ByExpert = {}
    for expert in list(dict.fromkeys(expert for expert, _ in cells))[:MOST_ROWS]:
        rows = [row for (name, _), row in cells.items() if name == expert]
        layers = list(dict.fromkeys(layer for row in rows for layer in row))
        found[expert, "mean of modules"] = {
            layer: sum(row[layer] for row in rows if layer in row) / sum(layer in row for row in rows)
            for layer in layers
        }
    return found
