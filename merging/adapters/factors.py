"""Weighted sums of low-rank products, kept as factors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """A change B A of one module: `a` is [rank, in, ...], `b` [out, rank, ...], both float32, scaling included."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def shape(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the factors' shapes are but for the rank: those of two changes of one module are the same."""
        return tuple(self.a.shape[1:]), (len(self.b), *self.b.shape[2:])


def product_sum(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The exact sum of w_i B_i A_i, its rank the sum of all ranks: factors side by side.

    A weight's sign goes to B alone: (-B) A is -BA, while (-B)(-A) would be BA again (PEM, 2306.14870 section 3.2).
    """
    b = [part.b * weight for part, weight in zip(parts, weights, strict=True)]
    return Factors(torch.cat([part.a for part in parts]), torch.cat(b, dim=1))


def factor_sum(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The sums of the A_i and of the B_i, weighted each on its own (PEM, 2306.14870 eq. 2): not the sum of B_i A_i.

    It means something only where the factors grew from one start. A negative weight negates an adapter first,
    which is the sign of its B, and then counts by its size. All parts have the same rank.
    """
    total = Factors(torch.zeros_like(parts[0].a), torch.zeros_like(parts[0].b))
    for part, weight in zip(parts, weights, strict=True):
        total.a.add_(part.a, alpha=abs(weight))
        total.b.add_(part.b, alpha=weight)
    return total


def truncated(factors: Factors, rank: int) -> tuple[Factors, float, float]:
    """The nearest product of this rank, and the squared Frobenius norms of what is lost and of the whole.

    Eckart-Young through the factors alone: QR of B and of A transposed, then the singular values of a matrix of their
    rank; the product itself is never made. In float64. Each factor takes the roots of the singular values.
    """
    left, right = factors.b.reshape(len(factors.b), -1).double(), factors.a.reshape(factors.rank, -1).double()
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, values, vh = torch.linalg.svd(r_left @ r_right.T)
    kept = min(rank, len(values))
    roots = values[:kept].sqrt()
    b, a = q_left @ (u[:, :kept] * roots), (roots[:, None] * vh[:kept]) @ q_right.T
    of_a, of_b = factors.shape
    near = Factors(a.float().reshape(kept, *of_a), b.float().reshape(of_b[0], kept, *of_b[1:]))
    return near, float(values[kept:].square().sum()), float(values.square().sum())
