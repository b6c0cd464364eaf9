"""Average the experts of a linear layer so that its outputs stay as close as they can to each expert's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merging.errors import MergeError

if TYPE_CHECKING:
    from torch import Tensor

ALPHA = 0.9
"""What is left of a Gram matrix's entries off the diagonal: the paper's value for language models."""
RIDGE = 1e-6
"""Of the mean diagonal: how strongly inputs that no expert ever has are held at the average."""

_ROWS = 4096  # of a weight in float64 at a time: the head of a language model has a row for every token


def regmean(weights: Sequence[Tensor], grams: Sequence[Tensor], alpha: float = ALPHA, ridge: float = RIDGE) -> Tensor:
    """W = (sum W_k G_k)(sum G_k)^-1, the least squares merge of linear layers (RegMean, arXiv 2212.09849).

    `weights` are W_k `[out, in]`, any float dtype; `grams` G_k `[in, in]`, the mean of x x^T over the inputs x that
    layer k has in its own model, any float dtype. Their entries off the diagonal are multiplied by `alpha`.
    Computed as the average plus sum (W_k - average) G_k (sum G_k + ridge)^-1, in float64; returned in float32. So one
    expert is returned as it is, and equal Gram matrices give the average.

    Raises `MergeError` where the sum of Gram matrices cannot be inverted.
    """
    import torch

    if len(weights) == 1:
        return weights[0].float().clone()
    own = [_shrunk(gram, alpha) for gram in grams]
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
        average = sum(rows[1:], rows[0]) / len(rows)
        pull = torch.zeros_like(average)
        for row, gram in zip(rows, own, strict=True):
            pull.add_((row - average) @ gram)
        merged[start : start + _ROWS] = average + torch.cholesky_solve(pull.T, factor).T
    return merged


def _shrunk(gram: Tensor, alpha: float) -> Tensor:
    """alpha G + (1 - alpha) diag(G), a new tensor in float64."""
    diagonal = gram.double().diagonal().clone()
    shrunk = gram.double() * alpha
    shrunk.diagonal().copy_(diagonal)
    return shrunk
