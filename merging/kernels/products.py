"""Inner products of stored models, or of their differences from a base."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from merging.kernels.compiled import compiled, flat, flats, reducing, wide

_BLOCK = 1 << 10  # float32 differences of some models stay in the nearest cache


def add_products(base: Tensor | None, models: Sequence[Tensor], found: NDArray[np.float64]) -> None:
    """found[i, j] += <m_i - base, m_j - base> for j <= i; differences in float32, products and sums in float64.

    Tensors as `takes` allows. The same bits for a tensor as for its pieces, where these are whole blocks of 1,024.
    """
    threes = -(-len(models) // 3) * 3
    padded = np.zeros((threes, threes))
    padded[: len(models), : len(models)] = found
    if base is None:
        _products(flats(models), padded)
    else:
        _difference_products(flat(base), flats(models), padded)
    found[:] = padded[: len(models), : len(models)]


@reducing
def _among(a: Any, b: Any, c: Any, found: Any) -> None:
    """All products of three lines, each read once."""
    aa = ba = bb = ca = cb = cc = 0.0
    for i in range(a.size):
        x, y, z = np.float64(a[i]), np.float64(b[i]), np.float64(c[i])
        aa, ba, bb = aa + x * x, ba + y * x, bb + y * y
        ca, cb, cc = ca + z * x, cb + z * y, cc + z * z
    found[0, 0] += aa
    found[1, 0] += ba
    found[1, 1] += bb
    found[2, 0] += ca
    found[2, 1] += cb
    found[2, 2] += cc


@reducing
def _between(one: Any, a: Any, b: Any, c: Any, found: Any) -> None:
    """Those of one line with three."""
    xa = xb = xc = 0.0
    for i in range(one.size):
        x = np.float64(one[i])
        xa, xb, xc = xa + x * np.float64(a[i]), xb + x * np.float64(b[i]), xc + x * np.float64(c[i])
    found[0] += xa
    found[1] += xb
    found[2] += xc


@compiled
def _add(block: Any, found: Any) -> None:
    """Products of the lines, of which there are three, or six, or nine ..."""
    for row in range(0, len(block), 3):
        for column in range(0, row, 3):
            for line in range(row, row + 3):
                here = found[line, column : column + 3]
                _between(block[line], block[column], block[column + 1], block[column + 2], here)
        _among(block[row], block[row + 1], block[row + 2], found[row : row + 3, row : row + 3])


@compiled
def _products(models: Any, found: Any) -> None:
    block = np.zeros((len(found), _BLOCK), np.float32)
    for start in range(0, models[0].size, _BLOCK):
        for k in range(len(models)):
            model, line = models[k][start : start + _BLOCK], block[k]
            for i in range(model.size):
                line[i] = wide(model[i])
            line[model.size :] = np.float32(0)
        _add(block, found)


@compiled
def _difference_products(base: Any, models: Any, found: Any) -> None:
    block = np.zeros((len(found), _BLOCK), np.float32)
    for start in range(0, base.size, _BLOCK):
        origin = base[start : start + _BLOCK]
        for k in range(len(models)):
            model, line = models[k][start : start + _BLOCK], block[k]
            for i in range(model.size):
                line[i] = wide(model[i]) - wide(origin[i])
            line[model.size :] = np.float32(0)
        _add(block, found)
