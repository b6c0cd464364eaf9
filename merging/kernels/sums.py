"""Weighted sums of stored tensors in one reading, the arithmetic of each entry in float32."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from merging.kernels.compiled import compiled, fits, flat, float32s, put, takes, wide, writing
from merging.kernels.folds import NOTHING, difference, onto, weighed
from merging.methods.method import WeightedSum, Write


def can_sum(total: WeightedSum) -> bool:
    """Whether loops can read the models."""
    return takes(*total.models) and (total.base is None or takes(total.base))


def writer(total: WeightedSum) -> Write:
    """What writes a sum that `can_sum`."""
    loop = _summed if total.base is None else _added_to if total.base_first else _around
    return writing(loop, total.base, total.models, float32s(total.row))


def base_plus(base: Tensor, directions: tuple[Tensor, ...], row: tuple[float, ...]) -> Write:
    """What writes ((base + d_1 w_1) + d_2 w_2) + ... Tensors as `takes` allows."""
    return writing(_plus, base, directions, float32s(row))


def difference_of(model: Tensor, base: Tensor) -> Tensor:
    """model - base, a new tensor in float32. Both as `takes` allows."""
    out = torch.empty(model.shape)
    _subtracted(flat(model), flat(base), flat(out))
    return out


def store(source: Tensor, out: Tensor) -> bool:
    """Cast into `out`; whether all of it is finite. Both as `takes` allows, and of one size."""
    return bool(_stored(flat(source), flat(out)))


@compiled
def _added_to(base: Any, models: Any, row: Any, out: Any) -> Any:
    """out = ((base + (m_1 - base) w_1) + (m_2 - base) w_2) + ..."""
    most = np.int32(0)
    for i in range(out.size):
        most = max(most, put(out, i, onto(wide(base[i]), difference, models, row, wide(base[i]), i)))
    return fits(most, out)


@compiled
def _around(base: Any, models: Any, row: Any, out: Any) -> Any:
    """out = (((m_1 - base) w_1 + (m_2 - base) w_2) + ...) + base"""
    most = np.int32(0)
    for i in range(out.size):
        origin = wide(base[i])
        most = max(most, put(out, i, onto(NOTHING, difference, models, row, origin, i) + origin))
    return fits(most, out)


@compiled
def _summed(models: Any, row: Any, out: Any) -> Any:
    """out = (m_1 w_1 + m_2 w_2) + ..."""
    most = np.int32(0)
    for i in range(out.size):
        most = max(most, put(out, i, onto(NOTHING, weighed, models, row, NOTHING, i)))
    return fits(most, out)


@compiled
def _plus(base: Any, directions: Any, row: Any, out: Any) -> Any:
    """out = ((base + d_1 w_1) + d_2 w_2) + ..."""
    most = np.int32(0)
    for i in range(out.size):
        most = max(most, put(out, i, onto(wide(base[i]), weighed, directions, row, NOTHING, i)))
    return fits(most, out)


@compiled
def _subtracted(model: Any, base: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = wide(model[i]) - wide(base[i])


@compiled
def _stored(source: Any, out: Any) -> Any:
    most = np.int32(0)
    for i in range(out.size):
        most = max(most, put(out, i, wide(source[i])))
    return fits(most, out)
