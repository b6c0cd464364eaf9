"""Drop entries by drawn numbers and rescale the rest, in place."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from merging.kernels.compiled import compiled, flat

Drawn = NDArray[np.uint16]


def drop(vector: Tensor, drawn: Drawn, below: int, factor: float) -> None:
    """Multiply entries whose draw is `below` a number by the factor, and all others by zero. float32."""
    _drop(flat(vector), drawn, np.int32(below), np.float32(factor))


def drop_by_rank(
    vector: Tensor, drawn: Drawn, length: int, chances: tuple[float, float], *, inverse: bool, factor: float
) -> None:
    """The same with a chance of each entry's own, of which draws are below; with `inverse` the factor is over it.

    Rows have `length` entries, their chances by rank are from `chances[0]` to `chances[0] + chances[1]`; see
    `merging.methods.della`, whose bits these are. float32.
    """
    low, width = chances
    rows = flat(vector).reshape(-1, length)
    numbers = drawn.reshape(-1, length)
    if length == 1 or width == 0:
        chance = np.float32(max(1, round(low + width / 2)))
        weight = np.float32(1) / chance if inverse else np.float32(1)
        _drop(rows.reshape(-1), drawn, np.int32(chance), weight * np.float32(factor))
        return
    step = width / (length - 1)
    least = np.float32(1 if low < 1 else 0)
    _drop_by_rank(rows, numbers, np.float32(step), np.float32(low - step / 2), least, inverse, np.float32(factor))


@compiled
def _drop(vector: Any, drawn: Any, below: Any, factor: Any) -> None:
    for i in range(vector.size):
        vector[i] *= factor if np.int32(drawn[i]) < below else np.float32(0)


SIGNIFICANT = 6
"""Bits of a magnitude that ranks look at, the leading one included."""
OCTAVES = 16
"""Powers of two below the largest of a row that ranks tell apart."""
BINS = OCTAVES << (SIGNIFICANT - 1)
_SHIFT = np.uint32(24 - SIGNIFICANT)


@compiled
def _drop_by_rank(rows: Any, drawn: Any, step: Any, start: Any, least: Any, inverse: Any, factor: Any) -> None:
    length = rows.shape[1]
    bins = np.empty(length, np.uint16)
    counts = np.empty((4, BINS), np.int32)
    ranks, chances = np.empty(BINS, np.float32), np.empty(BINS, np.float32)
    found = np.empty(length, np.float32)
    for number in range(rows.shape[0]):
        row, draws = rows[number], drawn[number]
        _bin(row, bins)
        _count(bins, counts)
        below = np.int32(0)
        for one in range(BINS):
            here = counts[0, one] + counts[1, one] + counts[2, one] + counts[3, one]
            below += here
            # the mean of a bin's ranks, which count from 0, is half a bin and a half below its end
            ranks[one] = np.float32(below) - np.float32(here) * np.float32(0.5)
        for one in range(BINS):
            chances[one] = max(np.float32(np.rint(ranks[one] * step + start)), least)
        for i in range(length):
            found[i] = chances[bins[i]]
        if inverse:
            for i in range(length):
                kept = np.float32(np.float32(draws[i]) < found[i])  # a number: nobody can foresee a branch
                row[i] *= ((np.float32(1) / found[i]) * factor) * kept
        else:
            for i in range(length):
                row[i] *= factor * np.float32(np.float32(draws[i]) < found[i])


@compiled
def _bin(row: Any, bins: Any) -> None:
    """The bin of each magnitude, by its leading bits, from `OCTAVES` below the largest; what is less is in bin 0."""
    most = np.int32(0)
    for i in range(row.size):
        most = max(most, np.int32(np.float32(row[i]).view(np.uint32) & np.uint32(0x7FFFFFFF)))
    lowest = np.int32(np.int32(np.uint32(most) >> _SHIFT) - np.int32(BINS - 1))
    for i in range(row.size):
        bits = np.uint32(np.float32(row[i]).view(np.uint32) & np.uint32(0x7FFFFFFF)) >> _SHIFT
        bins[i] = np.uint16(max(np.int32(bits) - lowest, np.int32(0)))


@compiled
def _count(bins: Any, counts: Any) -> None:
    """How many are in each bin, in four parts: neighbours, which are often alike, do not wait for each other."""
    counts[:] = 0
    whole = bins.size // 4 * 4
    for i in range(0, whole, 4):
        counts[0, bins[i]] += 1
        counts[1, bins[i + 1]] += 1
        counts[2, bins[i + 2]] += 1
        counts[3, bins[i + 3]] += 1
    for i in range(whole, bins.size):
        counts[0, bins[i]] += 1
