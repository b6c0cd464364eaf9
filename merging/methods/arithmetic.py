"""The few steps that several methods share, each a pure function on tensors.

Products and sums are separate operations on purpose: `add(alpha=...)` fuses them on some processors and at
some positions only, and the same recipe would then give different bits on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from merging.methods.method import At, Combine, Write

if TYPE_CHECKING:
    from torch import Tensor

Average = Literal["count", "weights", "sum"]
"""What the sum of those that agree is divided by: how many they are, their weights' sum, or nothing."""


def present(base: Tensor | None) -> Tensor:
    """The base of a method that needs one; `check_method` has refused the recipe without it."""
    if base is None:
        raise ValueError("this method needs a base, but the recipe has none")
    return base


def task_vectors(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> list[Tensor]:  # noqa: ARG001
    """tau_i = theta_i - theta_0 in float32 (Task Arithmetic, arXiv 2212.04089, section 2)."""
    return differences(present(base), tuned)


def differences(base: Tensor, tuned: Sequence[Tensor]) -> list[Tensor]:
    """Each minus the base, new tensors in float32."""
    from merging.kernels.compiled import takes
    from merging.kernels.sums import difference_of

    if takes(base) and all(takes(expert) for expert in tuned):
        return [difference_of(expert, base) for expert in tuned]
    origin = base.float()
    # what has just been converted is ours to write to
    return [expert - origin if expert.dtype == origin.dtype else expert.float().sub_(origin) for expert in tuned]


def squared_length(expert: Tensor, base: Tensor, mask: Tensor | None = None) -> float:
    """|theta_i - theta_0|^2 on the CPU, of entries where the mask is one: squares and their sum in float64."""
    from merging.kernels.compiled import takes
    from merging.kernels.spread import energy

    if takes(expert) and takes(base):
        return energy(expert, base, mask)
    return energy(expert.float().contiguous(), base.float().contiguous(), mask)


def scaled(directions: list[Tensor], scale: float) -> list[Tensor]:
    """The directions times a number, in place: the merged difference is then multiplied by it, by any method here."""
    return directions if scale == 1 else [direction.mul_(scale) for direction in directions]


def _add_up(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
    merged = present(base).float()
    for weight, direction in zip(at.row, directions, strict=True):
        step = direction * weight
        merged = step.add_(merged)  # addition commutes exactly, and `step` is ours to write to
    return merged


def _adding_up(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Write | None:
    from merging.kernels.compiled import takes
    from merging.kernels.sums import base_plus

    if not (takes(present(base)) and takes(*directions)):
        return None
    return base_plus(present(base), tuple(directions), at.row)


add_up = Combine(_add_up, _adding_up)
"""base + sum of c_i d_i, added from left to right in the experts' order."""


def _election(at: At[Any]) -> tuple[Average, bool]:
    """Settings may have an `average`, and be `compat: mergekit` (see `merging.methods.sparse`)."""
    return getattr(at.structure, "average", "count"), getattr(at.structure, "compat", "paper") == "mergekit"


def _elect_and_average(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
    average, ties_are_positive = _election(at)
    return elected(directions, at.row, average, ties_are_positive=ties_are_positive).add_(present(base).float())


def _electing(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Write | None:
    from merging.kernels.compiled import takes
    from merging.kernels.elections import electing

    if not (takes(present(base)) and takes(*directions)):
        return None
    average, ties_are_positive = _election(at)
    return electing(present(base), directions, at.row, average, ties_are_positive=ties_are_positive)


elect_and_average = Combine(_elect_and_average, _electing)
"""base + the mean of the weighted directions that agree with the elected sign (see `elected`)."""


def elected(
    directions: Sequence[Tensor], row: Sequence[float], average: Average = "count", *, ties_are_positive: bool = False
) -> Tensor:
    """The mean of the weighted directions that agree with the elected sign, a new tensor.

    TIES, arXiv 2306.01708, section 4, steps 2 and 3, with each weight inside the election: the elected sign
    is that of sum of w_i d_i, and the mean runs over the experts whose w_i d_i is not zero and has that sign.
    With one weight lambda > 0 for all experts this is the paper's lambda tau_m. Where the weighted sum is exactly zero
    no sign is elected and the entry is zero, or plus is with `ties_are_positive`. `average`: divide by how many
    agree, by the sum of their weights, or not at all.
    """
    weighted = [direction * weight for weight, direction in zip(row, directions, strict=True)]
    total = weighted[0] + weighted[1] if len(weighted) > 1 else weighted[0].clone()
    for entry in weighted[2:]:
        total.add_(entry)
    sign = total.sign_()
    if ties_are_positive:
        sign.add_(0.5).sign_()
    merged = divisor = None
    for weight, entry in zip(row, weighted, strict=True):
        entry.mul_(sign).clamp_(min=0)  # what agrees, as a magnitude; a NaN stays one
        agrees = entry.sign() if merged is None and average != "sum" else entry
        merged = entry if merged is None else merged.add_(entry)
        if average == "sum":
            continue
        if agrees is entry:
            agrees.gt_(0)  # no longer needed itself, and faster than its sign
        share = weight if average == "weights" else 1.0  # times 0 or 1 it is exact, and may be fused with the sum
        divisor = agrees.mul_(share) if divisor is None else divisor.add_(agrees, alpha=share)
    assert merged is not None, "there is at least one expert"
    merged.mul_(sign)
    if divisor is None:
        return merged
    if average == "weights":
        return merged.div_(divisor.add_(divisor.clone().eq_(0)))  # none agree, or weights that cancel: by 1
    return merged.div_(divisor.clamp_(min=1))


def kept_count(density: float, size: int) -> int:
    """How many of `size` entries a density keeps: the nearest whole number, but at least one."""
    return min(size, max(1, round(density * size)))
