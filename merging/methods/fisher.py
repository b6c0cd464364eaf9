"""Average the experts entry by entry, each entry weighted by how much its expert's loss depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from merging.errors import MergeError
from merging.methods.calibrated import Calibrated, from_experts, refused, weighted_average
from merging.methods.method import At, Method
from merging.pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor

    from merging.statistics import Statistics


class Fisher(Calibrated):
    """Settings of `fisher`."""

    kind: ClassVar = "fisher"


def fisher_average(weights: Sequence[Tensor], fishers: Sequence[Tensor], row: Sequence[float] | None = None) -> Tensor:
    """theta = sum w_k F_k theta_k / sum w_k F_k, entry by entry (Fisher merging, arXiv 2111.09832, lambdas w_k).

    `weights` theta_k and `fishers` F_k >= 0 have one shape and any float dtype; `row` are the w_k, none below zero, 1
    where None. Where every w_k F_k is zero the entry is the average by the w_k. Computed as that average plus
    sum w_k F_k (theta_k - average) / sum w_k F_k, in float64; returned in float32. So one expert is returned as it is,
    and equal Fishers give the average.
    """
    says = row if row is not None else (1.0,) * len(weights)
    average = _sum([weight.double() * one for weight, one in zip(weights, says, strict=True)]) / sum(says)
    counted = [fisher.double() * one for fisher, one in zip(fishers, says, strict=True)]
    total = _sum(counted)
    pull = _sum([one * (weight.double() - average) for weight, one in zip(weights, counted, strict=True)])
    known = total > 0
    return (average + pull.div_(total.where(known, total.new_ones(()))) * known).float()


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """A new tensor, added from left to right."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


def merged_tensor(
    name: str, experts: Sequence[Tensor], statistics: Sequence[Statistics], row: Sequence[float]
) -> Tensor | None:
    """The `fisher_average` of a tensor, float32, each expert's Fisher divided by its norm over the whole model.

    None where an expert's statistics have nothing on the tensor. Raises `MergeError` where they do not fit it.
    """
    if not all(name in one.names for one in statistics):
        return None
    fishers = [one.tensor(name).to(experts[0].device) for one in statistics]
    if any(fisher.shape != experts[0].shape for fisher in fishers):
        raise MergeError(
            f"the squared gradients of `{name}` must have shape {tuple(experts[0].shape)} for every expert, but one "
            "has not; collect them from these models."
        )
    out = experts[0].new_empty(experts[0].shape).float()
    for target, *both in zip(*(pieces(tensor) for tensor in (out, *experts, *fishers)), strict=True):
        weights, squares = both[: len(experts)], both[len(experts) :]
        scaled = [square.double() / one.norm for square, one in zip(squares, statistics, strict=True)]
        target.copy_(fisher_average(weights, scaled, row))
    return out


def combined(base: Tensor | None, directions: Sequence[Tensor], at: At[Fisher]) -> Tensor:  # noqa: ARG001
    """The Fisher average, or the weighted average of tensors without statistics. A base takes no part."""
    statistics = at.structure.opened(at.experts)
    found = merged_tensor(at.tensor, directions, statistics, at.row) if statistics else None
    return found if found is not None else weighted_average(directions, at.row)


FISHER = Method(
    name="fisher",
    summary="The average of the experts with each entry weighted by how much the expert's loss depends on it.",
    paper="Fisher merging, arXiv 2111.09832",
    needs_base=False,
    linear=False,
    structure=Fisher,
    directions=from_experts,
    combine=combined,
    combines_slices=False,
    row_error=refused,
)
