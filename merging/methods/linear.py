"""The weighted average of the experts, known as a model soup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.method import At, Method, WeightedSum, always

if TYPE_CHECKING:
    from torch import Tensor


class Linear(Frozen):
    """Settings of `linear`."""

    normalize: bool = Field(
        default=True, description="divide by the sum of the weights, so that they need not sum to 1"
    )


def experts(base: Tensor | None, tuned: Sequence[Tensor], at: At[Linear]) -> list[Tensor]:  # noqa: ARG001
    """The experts themselves, in float32. A base takes no part."""
    return [expert.float() for expert in tuned]


def shares(at: At[Linear]) -> list[float]:
    """What each expert is multiplied by."""
    total = sum(at.row) if at.structure.normalize else 1.0
    return [weight / total for weight in at.row]


def weighted_sum(base: Tensor | None, tuned: Sequence[Tensor], at: At[Linear]) -> WeightedSum:  # noqa: ARG001
    return WeightedSum(None, tuple(tuned), tuple(shares(at)))


def average(base: Tensor | None, directions: Sequence[Tensor], at: At[Linear]) -> Tensor:  # noqa: ARG001
    """sum of w_i theta_i, over sum of w_i with `normalize` (Model Soups, arXiv 2203.05482, section 2)."""
    first, *others = shares(at)
    merged = directions[0] * first
    for weight, expert in zip(others, directions[1:], strict=True):
        merged.add_(expert * weight)
    return merged


def row_error(row: tuple[float, ...], structure: Linear) -> str | None:
    """Weights that cancel have no average."""
    if structure.normalize and abs(sum(row)) <= 1e-9 * sum(abs(weight) for weight in row):
        return f"weights must not sum to zero with `normalize: true`, but are {list(row)}"
    return None


LINEAR = Method(
    name="linear",
    summary="Weighted average of the experts; a base, if named, only lends its config and tokenizer.",
    paper="Model Soups, arXiv 2203.05482",
    needs_base=False,
    linear=False,
    structure=Linear,
    directions=experts,
    combine=average,
    elementwise=always,
    weighted_sum=weighted_sum,
    row_error=row_error,
)
