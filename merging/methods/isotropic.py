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

    U V^T = A (A^T A)^(-1/2) comes from the eigenvectors of the Gram matrix of the smaller side, in float64: it takes as
    long as the singular value decomposition does in float32, and is as exact as that is in float64. What float64 cannot
    tell from zero, singular values below about 1e-8 sqrt(n) of the largest, is no direction and is neither flattened
    nor counted: so a matrix of low rank has a result of its own, where the decomposition would choose directions at
    will. Zero stays zero, and entries that are not finite give NaN.
    """
    import torch

    if matrix.shape[0] < matrix.shape[1]:
        return flattened(matrix.T).T.contiguous()
    tall = matrix.double()
    gram = tall.T @ tall
    if not bool(gram.isfinite().all()):
        return torch.full_like(matrix, torch.nan)  # the decomposition would refuse it without naming the tensor
    if gram.numel() == 0:
        return matrix.clone()
    values, vectors = torch.linalg.eigh(gram)
    noise = values[-1] * torch.finfo(torch.float64).eps * len(values)
    real = values > noise
    if not bool(real.any()):
        return torch.zeros_like(matrix)
    strengths, basis = values[real].sqrt(), vectors[:, real]
    polar: Tensor = (tall @ basis).div_(strengths) @ basis.T
    return polar.mul_(strengths.mean()).to(matrix.dtype)


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
