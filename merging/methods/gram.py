"""The inner products of directions, over a whole tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from merging.kernels.compiled import takes
from merging.kernels.products import add_products
from merging.methods.method import Gram, WeightedSum
from merging.pieces import pieces


def gram(directions: Sequence[Tensor]) -> Gram:
    """G[i][j] = <d_i, d_j>: products and sums in float64, piece by piece. `directions` have one shape."""
    if not directions[0].numel():
        return [[0.0] * len(directions) for _ in directions]
    return gram_of(zip(*(pieces(direction) for direction in directions), strict=True))


def gram_of(parts: Iterable[Sequence[Tensor]]) -> Gram:
    """As `gram`, of directions that are made piece by piece: the same bits for the same pieces."""
    found: Any = None
    for part in parts:
        found = np.zeros((len(part), len(part))) if found is None else found
        if all(map(takes, part)):
            add_products(None, part, found)
        else:  # on a GPU
            _add(part, found)
    return _whole(found)


def gram_of_sum(total: WeightedSum) -> Gram:
    """As `gram`, of what a sum of stored tensors adds up: the same bits, in one reading."""
    found = np.zeros((len(total.models), len(total.models)))
    add_products(total.base, total.models, found)
    return _whole(found)


def _add(part: Sequence[Tensor], found: Any) -> None:
    wide = [direction.double() for direction in part]
    for row, one in enumerate(wide):
        for column, other in enumerate(wide[: row + 1]):
            found[row, column] += float(one @ other)


def _whole(lower: Any) -> Gram:
    whole: Gram = (lower + np.tril(lower, -1).T).tolist()
    return whole
