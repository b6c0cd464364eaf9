"""Average the experts entry by entry, each entry weighted by how much its expert's loss depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def fisher_average(weights: Sequence[Tensor], fishers: Sequence[Tensor]) -> Tensor:
    """theta = sum F_k theta_k / sum F_k, entry by entry (Fisher merging, arXiv 2111.09832, with equal lambdas).

    `weights` theta_k and `fishers` F_k >= 0 have one shape and any float dtype. Where every F_k is zero the entry is
    the average. Computed as the average plus sum F_k (theta_k - average) / sum F_k, in float64; returned in float32. So
    one expert is returned as it is, and equal Fishers give the average.
    """
    average = _sum([weight.double() for weight in weights]) / len(weights)
    total = _sum([fisher.double() for fisher in fishers])
    pull = _sum(
        [fisher.double() * (weight.double() - average) for weight, fisher in zip(weights, fishers, strict=True)]
    )
    known = total > 0
    return (average + pull.div_(total.where(known, total.new_ones(()))) * known).float()


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """A new tensor, added from left to right."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total
