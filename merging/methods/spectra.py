"""Singular vectors and polar factors of matrices, from the eigenvectors of the Gram matrix of their smaller side.

All in float64. A Gram matrix squares the singular values, so a singular vector is good to about 1e-16 (s_max / s)^2:
to 1e-8 where it is a ten-thousandth of the strongest, far below the float32 that results are cast to. What lies below
1e-8 sqrt(n) of the strongest cannot be told from zero; it is left out, so that a matrix of low rank has a result of
its own, where a decomposition would choose directions at will. The eigenvectors come from the machine's linear algebra
library: another library, or number of threads, may give other last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from merging.methods.arithmetic import task_vectors
from merging.methods.method import At

if TYPE_CHECKING:
    from torch import Tensor

ByMatrix = Callable[["list[Tensor]", At[Any]], "list[Tensor]"]
"""Task vectors of one matrix, float64 `[out, in]`, to as many directions of that shape, float64."""
ByTensor = Callable[["list[Tensor]", At[Any]], "list[Tensor]"]
"""Task vectors of a tensor that is no matrix, float32, to as many directions of its shape; may write to them."""


def matrix_directions(by_matrix: ByMatrix, by_tensor: ByTensor) -> Callable[..., list[Tensor]]:
    """A method's `directions` that treats matrices in one way and other tensors in another.

    Entries that are not finite give NaN in all directions, so that the merge can name the tensor.
    """

    def directions(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> list[Tensor]:
        import torch

        vectors = task_vectors(base, tuned, at)
        if not all(bool(vector.isfinite().all()) for vector in vectors):
            return [torch.full_like(vector, torch.nan) for vector in vectors]
        if vectors[0].ndim != 2 or vectors[0].numel() == 0:
            return by_tensor(vectors, at)
        return [one.float().contiguous() for one in by_matrix([vector.double() for vector in vectors], at)]

    return directions


def mean_parts(vectors: list[Tensor], at: At[Any]) -> list[Tensor]:  # noqa: ARG001
    """tau_i / N: weights of one give the mean."""
    return [vector.div_(len(vectors)) for vector in vectors]


def singular(matrix: Tensor, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """U `[m, k]`, s `[k]` and V `[n, k]` with matrix `[m, n]` = U diag(s) V^T, strongest first.

    At most `most` of them, and none that cannot be told from zero.
    """
    if matrix.shape[0] < matrix.shape[1]:
        right, strengths, left = singular(matrix.T, most)
        return left, strengths, right
    values, vectors = _eigen(matrix.T @ matrix, most)
    strengths = values.sqrt()
    return (matrix @ vectors).div_(strengths), strengths, vectors


def common_left(matrices: Sequence[Tensor], cut: float = 0.0) -> Tensor:
    """The left singular vectors `[m, k]` of the matrices `[m, n]` side by side, strongest first.

    Those weaker than `cut` times the strongest are left out.
    """
    import torch

    if matrices[0].shape[0] > sum(matrix.shape[1] for matrix in matrices):
        basis, strengths, _ = singular(torch.cat(list(matrices), 1))
    else:
        gram = matrices[0] @ matrices[0].T
        for matrix in matrices[1:]:
            gram.addmm_(matrix, matrix.T)
        values, basis = _eigen(gram, None)
        strengths = values.sqrt()
    return basis[:, strengths > cut * strengths[0]] if len(strengths) else basis


def polar(matrix: Tensor) -> Tensor:
    """X (X^T X)^(-1/2) of X `[m, k]`: the closest matrix with orthonormal columns, where they are independent.

    Columns that are not share what they span: two equal ones both become it over the square root of two.
    """
    values, vectors = _eigen(matrix.T @ matrix, None)
    return (matrix @ vectors).div_(values.sqrt()) @ vectors.T


def _eigen(gram: Tensor, most: int | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues above the noise, largest first, at most `most`, and their eigenvectors as columns."""
    import torch

    if gram.numel() == 0:
        return gram.new_zeros(0), gram.new_zeros(len(gram), 0)
    values, vectors = torch.linalg.eigh(gram)
    noise = values[-1].clamp(min=0) * torch.finfo(gram.dtype).eps * len(values)
    count = int((values > noise).sum())
    count = count if most is None else min(count, most)
    return values.flip(0)[:count], vectors.flip(1)[:, :count]
