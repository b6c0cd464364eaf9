"""What adapters do to a weight, in place and in float32."""

import torch
from torch import Tensor


def add_product(weight: Tensor, a: Tensor, b: Tensor, scaling: float, transposed: bool) -> None:
    """Add scaling * B A to a weight (LoRA, 2106.09685 eq. 3).

    `a` is [rank, in, ...], `b` [out, rank, ...]. `weight` is [out, in, ...], or [in, out] where `transposed`: GPT-2's
    Conv1D, and embeddings, whose rows are inputs. A convolution's kernel belongs to its inputs.
    """
    rank = len(a)
    left, right = b.reshape(len(b), rank), a.reshape(rank, -1)
    flat = weight.view(len(weight), -1)
    if transposed:
        flat.addmm_(right.T, left.T, alpha=scaling)
    else:
        flat.addmm_(left, right, alpha=scaling)


def set_magnitudes(weight: Tensor, magnitude: Tensor, transposed: bool) -> None:
    """Give every output's weights the length in `magnitude` (DoRA, 2402.09353 eq. 5), where there are [out] of them.

    Outputs are the first dimension of `weight`, the second where `transposed`.
    """
    flat = weight.view(len(weight), -1)
    axis = 0 if transposed else 1
    flat.mul_(magnitude.reshape(-1).div(torch.linalg.vector_norm(flat, dim=axis)).unsqueeze(axis))


def scale(weight: Tensor, factors: Tensor, axis: int) -> None:
    """Multiply a weight with one factor for each place of a dimension (IA3, 2205.05638 section 3.3)."""
    shape = [1] * weight.ndim
    shape[axis] = weight.shape[axis]
    weight.mul_(factors.reshape(shape))
