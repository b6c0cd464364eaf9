"""Inner products of stored models, or of their differences from a base."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from merging.kernels.compiled import compiled, flat, flats, reducing, wide

_BLOCK = 1 << 10  # float64 copies stay in the nearest cache


def add_products(base: Tensor | None, models: Sequence[Tensor], found: NDArray[np.float64]) -> None:
    """found[i, j] += <m_i - base, m_j - base> for j <= i; differences in float32, products and sums in float64.

    Tensors as `takes` allows. The same bits for a tensor as for its pieces, where these are whole blocks of 1,024.
    """
    if base is None:
        _products(flats(models), found)
    else:
        _difference_products(flat(base), flats(models), found)


@reducing
def _dot(one: Any, other: Any) -> Any:
    total = 0.0
    for i in range(one.size):
        total += one[i] * other[i]
    return total


@compiled
def _add(block: Any, found: Any) -> None:
    for row in range(len(found)):
        for column in range(row + 1):
            found[row, column] += _dot(block[row], block[column])


@compiled
def _products(models: Any, found: Any) -> None:
    block = np.empty((len(models), _BLOCK))
    for start in range(0, models[0].size, _BLOCK):
        for k in range(len(models)):
            model, line = models[k][start : start + _BLOCK], block[k]
            for i in range(model.size):
                line[i] = wide(model[i])
            line[model.size :] = 0.0
        _add(block, found)


@compiled
def _difference_products(base: Any, models: Any, found: Any) -> None:
    block = np.empty((len(models), _BLOCK))
    for start in range(0, base.size, _BLOCK):
        origin = base[start : start + _BLOCK]
        for k in range(len(models)):
            model, line = models[k][start : start + _BLOCK], block[k]
            for i in range(model.size):
                line[i] = wide(model[i]) - wide(origin[i])
            line[model.size :] = 0.0
        _add(block, found)
