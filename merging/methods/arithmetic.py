"""The few steps that several methods share, each a pure function on tensors.

Products and sums are separate operations on purpose: `add(alpha=...)` fuses them on some processors and at
some positions only, and the same recipe would then give different bits on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merging.methods.method import At
from merging.pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor


def present(base: Tensor | None) -> Tensor:
    """The base of a method that needs one; `check_method` has refused the recipe without it."""
    if base is None:
        raise ValueError("this method needs a base, but the recipe has none")
    return base


def task_vectors(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> list[Tensor]:  # noqa: ARG001
    """tau_i = theta_i - theta_0 in float32 (Task Arithmetic, arXiv 2212.04089, section 2)."""
    origin = present(base).float()
    return [expert.float() - origin for expert in tuned]


def add_up(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
    """base + sum of c_i d_i, added from left to right in the experts' order."""
    merged = present(base).float()
    for weight, direction in zip(at.row, directions, strict=True):
        step = direction * weight
        merged = step.add_(merged)  # addition commutes exactly, and `step` is ours to write to
    return merged


def elect_and_average(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
    """base + the mean of the weighted directions that agree with the elected sign.

    TIES, arXiv 2306.01708, section 4, steps 2 and 3, with each weight inside the election: the elected sign
    is that of sum of w_i d_i, and the mean runs over the experts whose w_i d_i is not zero and has that sign.
    With one weight lambda > 0 for all experts this is the paper's theta_0 + lambda tau_m. Where the weighted
    sum is exactly zero no sign is elected and the base's entry stays.
    """
    weighted = [direction * weight for weight, direction in zip(at.row, directions, strict=True)]
    total = weighted[0].clone()
    for entry in weighted[1:]:
        total.add_(entry)
    sign = total.sign_()
    merged, count = sign.new_zeros(sign.shape), sign.new_zeros(sign.shape)
    for entry in weighted:
        entry.mul_(sign).clamp_(min=0)  # what agrees, as a magnitude; a NaN stays one
        merged.add_(entry)
        count.add_(entry.sign_())
    return merged.mul_(sign).div_(count.clamp_(min=1)).add_(present(base).float())


def kept_count(density: float, size: int) -> int:
    """How many of `size` entries a density keeps: the nearest whole number, but at least one."""
    return min(size, max(1, round(density * size)))


def kth_largest(magnitudes: Tensor, k: int) -> float:
    """The k-th largest entry, exactly; k from 1 to the number of entries."""
    from merging.thresholds import histogram, kth_largest_of  # needs torch, which the table of methods must not

    return kth_largest_of(k, histogram(pieces(magnitudes)), pieces(magnitudes))


def top_mask(magnitudes: Tensor, k: int) -> Tensor:
    """True for exactly k entries, the largest; among equals those that come first in memory order."""
    if k == 0:
        return magnitudes.new_zeros(magnitudes.shape).bool()
    threshold = kth_largest(magnitudes, k)
    mask = magnitudes > threshold
    wanted = k - int(mask.count_nonzero())
    equal = (magnitudes == threshold).flatten().nonzero().flatten()[:wanted]
    mask.view(-1)[equal] = True
    return mask
