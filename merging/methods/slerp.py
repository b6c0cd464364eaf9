"""The shortest arc between two models, or between two task vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merging.methods.arithmetic import task_vectors
from merging.methods.method import At, Gram, Method, NoStructure, WeightedSum, always

if TYPE_CHECKING:
    from torch import Tensor

_COLINEAR = 1e-7  # below this sine the arc is a line in float32, and at pi there is no shortest one


def ends(base: Tensor | None, tuned: Sequence[Tensor], at: At[NoStructure]) -> list[Tensor]:
    """What the arc runs between: base and expert, two experts, or two task vectors if there is a base too."""
    if base is None:
        return [expert.float() for expert in tuned]
    if len(tuned) == 1:
        return [base.float(), tuned[0].float()]
    return task_vectors(base, tuned, at)


def shares(gram: Gram, at: At[NoStructure]) -> Sequence[float]:
    """sin((1-t)w) / sin(w) and sin(t w) / sin(w), w the angle between the ends (Shoemake 1985, section 3.3).

    The arc cosine loses digits at the small angles that fine-tuned models have, but the shares do not need them: they
    are smooth in the square of the angle, which inner products in float64 know to 1e-16. Ends that are colinear,
    opposite or zero are interpolated along their line.
    """
    (t,) = at.row
    lengths = math.sqrt(gram[0][0]) * math.sqrt(gram[1][1])
    angle = math.acos(max(-1.0, min(1.0, gram[0][1] / lengths))) if lengths else 0.0  # rounding may leave the cosines
    sine = math.sin(angle)
    if sine < _COLINEAR:
        return 1 - t, t
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def arc(base: Tensor | None, directions: Sequence[Tensor], at: At[NoStructure]) -> Tensor:
    """The sum of the ends by their shares. Two task vectors are added to the base again."""
    first, second = at.row
    merged = directions[0] * first
    merged.add_(directions[1] * second)
    if base is not None and len(at.experts) == 2:
        merged.add_(base.float())
    return merged


def weighted_sum(base: Tensor | None, tuned: Sequence[Tensor], at: At[NoStructure]) -> WeightedSum:
    """`ends` and `arc` as a sum of stored tensors."""
    if base is not None and len(tuned) == 1:
        return WeightedSum(None, (base, tuned[0]), at.row)
    return WeightedSum(base, tuple(tuned), at.row)


SLERP = Method(
    name="slerp",
    summary="The arc between base and one expert, two experts, or (with a base) two experts' task vectors.",
    paper="Animating Rotation with Quaternion Curves, Shoemake 1985, doi 10.1145/325165.325242",
    needs_base=False,
    linear=False,
    structure=NoStructure,
    directions=ends,
    combine=arc,
    coefficients=lambda experts: ("t",),  # noqa: ARG005 - one number, however many experts
    max_experts=2,
    min_models=2,
    elementwise=always,
    law=shares,
    weighted_sum=weighted_sum,
)
