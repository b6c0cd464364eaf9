"""Elect a sign for each entry and average what agrees, in one reading of float32 directions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from merging.kernels.compiled import compiled, fits, float32s, put, wide, writing
from merging.kernels.folds import NOTHING, agreeing, onto, share, shared, vote
from merging.methods.method import Write


def electing(
    base: Tensor, directions: Sequence[Tensor], row: Sequence[float], average: str, *, ties_are_positive: bool
) -> Write:
    """What writes the base plus the mean of the directions that agree.

    As `merging.methods.arithmetic.elected` has it, with its bits. Tensors as `takes` allows, directions in float32.
    """
    weights = _pairs(row, row if average == "weights" else [1.0] * len(row))
    return writing(_elect_onto, base, directions, weights, np.float32(ties_are_positive), average != "sum")


def erasing(
    base: Tensor,
    directions: Sequence[Tensor],
    row: Sequence[float],
    shares: Sequence[float],
    *,
    ties_are_positive: bool,
) -> Write:
    """What writes the mean of the weighted directions that agree, by their shares, added to the base.

    As `merging.methods.sce.erased` has it, with its bits.
    """
    return writing(_erase_onto, base, directions, _pairs(row, shares), np.float32(ties_are_positive))


def _pairs(row: Sequence[float], shares: Sequence[float]) -> tuple[tuple[np.float32, np.float32], ...]:
    return tuple(zip(float32s(row), float32s(shares), strict=True))


@compiled
def _sign(total: Any, ties: Any) -> Any:
    """Of a number; `ties` where it is zero, NaN where it is."""
    sign = np.float32(1) if total > np.float32(0) else (np.float32(-1) if total < np.float32(0) else ties)
    return sign + (total - total)


@compiled
def _over(total: Any, by: Any) -> Any:
    """The total where there is nothing to divide by."""
    return total / (by if by != np.float32(0) else np.float32(1))


@compiled
def _elect_onto(base: Any, directions: Any, weights: Any, ties: Any, divided: Any, out: Any) -> Any:
    most, none = np.int32(0), np.float32(0)
    for i in range(out.size):
        sign = _sign(onto(NOTHING, vote, directions, weights, NOTHING, i), ties)
        merged = onto(none, agreeing, directions, weights, sign, i) * sign
        if divided:
            merged = _over(merged, onto(none, share, directions, weights, sign, i))
        most = max(most, put(out, i, merged + wide(base[i])))
    return fits(most, out)


@compiled
def _erase_onto(base: Any, directions: Any, weights: Any, ties: Any, out: Any) -> Any:
    most, none = np.int32(0), np.float32(0)
    for i in range(out.size):
        sign = _sign(onto(NOTHING, vote, directions, weights, NOTHING, i), ties)
        merged = onto(none, shared, directions, weights, sign, i)
        merged = _over(merged, onto(none, share, directions, weights, sign, i))
        most = max(most, put(out, i, merged + wide(base[i])))
    return fits(most, out)
