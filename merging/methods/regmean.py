"""Average the experts of a linear layer so that its outputs stay as close as they can to each expert's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from merging.errors import MergeError
from merging.methods.calibrated import Calibrated, from_experts, refused, weighted_average
from merging.methods.method import At, Method
from merging.methods.searchable import Range

if TYPE_CHECKING:
    from torch import Tensor

    from merging.statistics import Statistics

ALPHA = 0.9
"""What is left of a Gram matrix's entries off the diagonal: the paper's value for language models."""
RIDGE = 1e-6
"""Of the mean diagonal: how strongly inputs that no expert ever has are held at the average."""

_ROWS = 4096  # of a weight in float64 at a time: the head of a language model has a row for every token


class RegMean(Calibrated):
    """Settings of `regmean`."""

    kind: ClassVar = "gram"
    alpha: Annotated[float, Range(0.05, 1)] = Field(
        default=ALPHA, ge=0, le=1, description="what is left of a Gram matrix's entries off the diagonal"
    )
    ridge: Annotated[float, Range(1e-6, 1e-1, log=True)] = Field(
        default=RIDGE, ge=0, description="how strongly the layer is held at the average, in means of the diagonal"
    )


def regmean(
    weights: Sequence[Tensor],
    grams: Sequence[Tensor],
    alpha: float = ALPHA,
    ridge: float = RIDGE,
    row: Sequence[float] | None = None,
) -> Tensor:
    """W = (sum w_k W_k G_k)(sum w_k G_k)^-1, the least squares merge of linear layers (RegMean, arXiv 2212.09849).

    `weights` are W_k `[out, in]`, any float dtype; `grams` G_k `[in, in]`, the mean of x x^T over the inputs x that
    layer k has in its own model, any float dtype. Their entries off the diagonal are multiplied by `alpha`. `row`
    are the w_k, none below zero, 1 where None: how much an expert's error counts.
    Computed as the average plus sum (W_k - average) G_k (sum G_k + ridge)^-1, in float64; returned in float32. So one
    expert is returned as it is, and equal Gram matrices give the average.

    Raises `MergeError` where the sum of Gram matrices cannot be inverted.
    """
    import torch

    if len(weights) == 1:
        return weights[0].float().clone()
    says = row if row is not None else (1.0,) * len(weights)
    own = [_shrunk(gram, alpha).mul_(one) for gram, one in zip(grams, says, strict=True)]
    total = own[0].clone()
    for gram in own[1:]:
        total.add_(gram)
    total.diagonal().add_(ridge * total.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(total)
    if int(failed) or not bool(factor.isfinite().all()):
        raise MergeError(
            f"inputs with {len(total)} entries must have Gram matrices whose sum can be inverted, but these cannot; "
            "use a smaller `alpha`, or more calibration examples."
        )
    merged = torch.empty(weights[0].shape, dtype=torch.float32)
    for start in range(0, len(merged), _ROWS):
        rows = [weight[start : start + _ROWS].double() for weight in weights]
        parts = [part * one for part, one in zip(rows, says, strict=True)]
        average = sum(parts[1:], parts[0]) / sum(says)
        pull = torch.zeros_like(average)
        for part, gram in zip(rows, own, strict=True):
            pull.add_((part - average) @ gram)
        merged[start : start + _ROWS] = average + torch.cholesky_solve(pull.T, factor).T
    return merged


def merged_layer(
    name: str,
    experts: Sequence[Tensor],
    statistics: Sequence[Statistics],
    row: Sequence[float],
    alpha: float,
    ridge: float,
) -> Tensor | None:
    """The `regmean` of a tensor with the Gram matrices that the experts' statistics have for it, as float32.

    None where one of them has none. Raises `MergeError` where they do not fit the tensor.
    """
    if not all(name in one.names for one in statistics):
        return None
    grams = [one.tensor(name).to(experts[0].device) for one in statistics]
    turned = [name in one.inputs_first for one in statistics]
    if turned[0]:
        experts = [expert.T for expert in experts]
    inputs = experts[0].shape[-1]
    if len(set(turned)) > 1 or any(gram.shape != (inputs, inputs) for gram in grams):
        raise MergeError(
            f"the Gram matrices of `{name}` must be {inputs} by {inputs} for every expert, but one is not; collect "
            "them from these models."
        )
    try:
        found = regmean(experts, grams, alpha, ridge, row)
    except MergeError as error:
        raise MergeError(f"`{name}`: {error}") from error
    return found.T.contiguous() if turned[0] else found


def combined(base: Tensor | None, directions: Sequence[Tensor], at: At[RegMean]) -> Tensor:  # noqa: ARG001
    """`regmean` of a linear layer, the weighted average of tensors that have no Gram matrices. A base takes no part."""
    statistics, setting = at.structure.opened(at.experts), at.structure
    found = (
        merged_layer(at.tensor, directions, statistics, at.row, setting.alpha, setting.ridge) if statistics else None
    )
    return found if found is not None else weighted_average(directions, at.row)


def _shrunk(gram: Tensor, alpha: float) -> Tensor:
    """alpha G + (1 - alpha) diag(G), a new tensor in float64."""
    diagonal = gram.double().diagonal().clone()
    shrunk = gram.double() * alpha
    shrunk.diagonal().copy_(diagonal)
    return shrunk


REGMEAN = Method(
    name="regmean",
    summary="The least-squares merge of linear layers on the experts' own inputs, the weighted average of the rest.",
    paper="RegMean, arXiv 2212.09849",
    needs_base=False,
    linear=False,
    structure=RegMean,
    directions=from_experts,
    combine=combined,
    combines_slices=False,
    row_error=refused,
)
