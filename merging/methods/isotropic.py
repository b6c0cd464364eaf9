"""Add up the task vectors of a matrix and give all directions of the sum the same strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merging.methods.arithmetic import present, task_vectors
from merging.methods.method import At, Method, NoStructure

if TYPE_CHECKING:
    from torch import Tensor


def isotropic(base: Tensor | None, directions: Sequence[Tensor], at: At[NoStructure]) -> Tensor:
    """base + the flattened sum of w_i tau_i of a matrix, base + its mean over the experts for other tensors.

    Iso-C, arXiv 2502.04959. With one weight alpha for all experts this is the paper's
    theta_0 + alpha Delta_ISO-C. Weights of zero do not shorten the mean.
    """
    total = directions[0] * at.row[0]
    for weight, direction in zip(at.row[1:], directions[1:], strict=True):
        total.add_(direction * weight)
    total = flattened(total) if total.ndim == 2 else total.div_(len(directions))
    return total.add_(present(base).float())


def flattened(matrix: Tensor) -> Tensor:
    """sigma U V^T of a matrix U S V^T, with sigma the mean of its singular values; float32 `[out, in]`.

    Directions that float64 cannot tell from zero are neither flattened nor counted, so that a matrix of low rank has a
    result of its own (see `merging.methods.spectra`). It takes as long as the singular value decomposition does in
    float32, and is as exact as that is in float64. Zero stays zero, and entries that are not finite give NaN.
    """
    import torch

    from merging.methods.spectra import singular

    if not bool(matrix.isfinite().all()):
        return torch.full_like(matrix, torch.nan)  # the decomposition would refuse it without naming the tensor
    left, strengths, right = singular(matrix.double())
    if not len(strengths):
        return torch.zeros_like(matrix)
    return (left @ right.T).mul_(strengths.mean()).to(matrix.dtype).contiguous()


ISO_C = Method(
    name="iso_c",
    summary="Add up the task vectors of each matrix and set all singular values of the sum to their mean.",
    paper="Isotropic merging, arXiv 2502.04959",
    needs_base=True,
    linear=False,
    structure=NoStructure,
    directions=task_vectors,
    combine=isotropic,
    combines_slices=False,
)
