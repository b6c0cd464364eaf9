"""Weighted sums around an origin: of task vectors where there is a base, of the experts where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merging.methods.arithmetic import present, task_vectors
from merging.methods.method import At, WeightedSum

if TYPE_CHECKING:
    from torch import Tensor


def from_origin(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> list[Tensor]:
    """theta_i - theta_0 where there is a base, theta_i where there is none; float32."""
    return [expert.float() for expert in tuned] if base is None else task_vectors(base, tuned, at)


def around_origin(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
    """The base, or zero, + sum of c_i d_i, added from left to right in the experts' order."""
    merged = directions[0] * at.row[0]
    for weight, direction in zip(at.row[1:], directions[1:], strict=True):
        merged.add_(direction * weight)
    return merged if base is None else merged.add_(base.float())


def around_base(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> WeightedSum:
    """`from_origin` and `around_origin` as a sum of stored tensors."""
    return WeightedSum(base, tuple(tuned), at.row)


def from_base(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> WeightedSum:
    """`task_vectors` and `add_up` as a sum of stored tensors."""
    return WeightedSum(present(base), tuple(tuned), at.row, base_first=True)


def shares(row: Sequence[float]) -> list[float]:
    """The weights over their sum, which must not be zero (`cancelling`)."""
    total = sum(row)
    return [weight / total for weight in row]


def cancelling(row: tuple[float, ...], structure: Any) -> str | None:  # noqa: ARG001
    """Weights that cancel have no shares."""
    if abs(sum(row)) <= 1e-9 * sum(abs(weight) for weight in row):
        return f"weights must not sum to zero, of which each is a share, but are {list(row)}"
    return None
