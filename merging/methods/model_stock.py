"""The average of fine-tuned models, drawn back to their base by as much as their directions disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up, task_vectors
from merging.methods.method import At, Gram, Method
from merging.methods.weighted_sum import from_base

if TYPE_CHECKING:
    from torch import Tensor


class ModelStock(Frozen):
    """Settings of `model_stock`."""

    scope: Literal["tensor", "row"] = Field(
        default="tensor", description="one angle for a tensor, as in the paper, or one for each row of a matrix"
    )


def directions(base: Tensor | None, tuned: Sequence[Tensor], at: At[ModelStock]) -> list[Tensor]:
    """The task vectors; with `scope: row` each row times its own t."""
    vectors = task_vectors(base, tuned, at)
    if at.structure.scope == "tensor" or vectors[0].ndim == 0:
        return vectors
    ratio = _row_ratios(vectors).float()
    return [vector.mul_(ratio) for vector in vectors]


def stock(gram: Gram, at: At[ModelStock]) -> Sequence[float]:
    """w_i t / N with t = N cos / (1 + (N-1) cos) (Model Stock, arXiv 2403.19522), cos the mean over pairs.

    Weights of one are the paper's t avg + (1-t) theta_0; equal weights multiply t. For more than two experts the
    paper has one angle and does not say which: we take the mean of the cosines of all pairs, as mergekit does. A task
    vector of zeros is orthogonal to all. Task vectors that point apart have cos < 0 and t < 0, which leads away from
    their average; where they cancel, at 1 + (N-1) cos = 0, there is no such point, and the base is it.
    """
    count = len(gram)
    if at.structure.scope == "row":
        return [weight / count for weight in at.row]
    found = []
    for i in range(count):
        for j in range(i):
            lengths = math.sqrt(gram[i][i]) * math.sqrt(gram[j][j])
            found.append(gram[i][j] / lengths if lengths else 0.0)
    cosine = sum(found) / len(found) if found else 1.0
    below = 1 + (count - 1) * cosine
    t = count * cosine / below if below > _CANCEL else 0.0
    return [weight * t / count for weight in at.row]


_CANCEL = 1e-9


def _row_ratios(vectors: Sequence[Tensor]) -> Tensor:
    """t of each row, float64 `[..., 1]`."""
    import torch

    count = len(vectors)
    if count == 1:
        return vectors[0].new_ones(1, dtype=torch.float64)
    doubles = [vector.double() for vector in vectors]
    norms = [one.norm(dim=-1, keepdim=True) for one in doubles]
    total = torch.zeros_like(norms[0])
    for i in range(count):
        for j in range(i):
            cosine = (doubles[i] * doubles[j]).sum(-1, keepdim=True).div_(norms[i] * norms[j])
            total.add_(cosine.nan_to_num_(0.0, 0.0, 0.0))
    cosine = total.div_(count * (count - 1) / 2)
    below = 1 + (count - 1) * cosine
    return torch.where(below > _CANCEL, count * cosine / below, 0.0)


MODEL_STOCK = Method(
    name="model_stock",
    summary="The average of the experts, drawn to the base by the angles between their task vectors.",
    paper="Model Stock, arXiv 2403.19522",
    needs_base=True,
    linear=False,
    structure=ModelStock,
    directions=directions,
    combine=add_up,
    elementwise=lambda structure: structure.scope == "tensor",
    law=stock,
    weighted_sum=from_base,
)
