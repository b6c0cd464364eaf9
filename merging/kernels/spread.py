"""How far models are apart, entry by entry."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merging.kernels.compiled import BLOCK, compiled, flat, flats, reducing, wide


def variance(models: Sequence[Tensor]) -> Tensor:
    """As `merging.methods.sce.variance` of two models or more, the same bits: a new tensor, flat, in float32."""
    out = torch.empty(models[0].numel())
    _variance(flats(models), flat(out))
    return out


def energy(model: Tensor, base: Tensor, mask: Tensor | None) -> float:
    """The sum of (model - base)^2, of entries where the mask is one: differences in float32, the rest in float64."""
    if mask is None:
        return float(_energy(flat(model), flat(base)))
    return float(_masked_energy(flat(model), flat(base), flat(mask)))


@compiled
def _variance(models: Any, out: Any) -> None:
    count = np.float32(len(models))
    total, squares = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, out.size, BLOCK):
        target, first = out[start : start + BLOCK], models[0][start : start + BLOCK]
        total[:] = np.float32(0)
        squares[:] = np.float32(0)
        for k in range(1, len(models)):
            model = models[k][start : start + BLOCK]
            for i in range(target.size):
                apart = wide(model[i]) - wide(first[i])
                total[i] += apart
                squares[i] += apart * apart
        for i in range(target.size):
            mean = total[i] / count
            target[i] = squares[i] / count - mean * mean


@reducing
def _energy(model: Any, base: Any) -> Any:
    total = 0.0
    for i in range(model.size):
        apart = wide(model[i]) - wide(base[i])
        total += np.float64(apart) * np.float64(apart)
    return total


@reducing
def _masked_energy(model: Any, base: Any, mask: Any) -> Any:
    total = 0.0
    for i in range(model.size):
        apart = wide(model[i]) - wide(base[i])
        total += np.float64(apart) * np.float64(apart) * np.float64(mask[i])
    return total
