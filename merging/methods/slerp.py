"""The shortest arc between two models, or between two task vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from merging.methods.method import At, Method, NoStructure
from merging.pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor

_COLINEAR = 1e-7  # below this sine the arc is a line in float32, and at pi there is no shortest one


def ends(base: Tensor | None, tuned: Sequence[Tensor], at: At[NoStructure]) -> list[Tensor]:  # noqa: ARG001
    """What the arc runs between: base and expert, two experts, or two task vectors if there is a base too."""
    if base is None:
        return [expert.float() for expert in tuned]
    if len(tuned) == 1:
        return [base.float(), tuned[0].float()]
    return [expert.float() - base.float() for expert in tuned]


def arc(base: Tensor | None, directions: Sequence[Tensor], at: At[NoStructure]) -> Tensor:
    """[sin((1-t)w) v0 + sin(t w) v1] / sin(w), w the angle between v0 and v1 (Shoemake 1985, section 3.3).

    Two task vectors are added to the base again. Colinear ends are interpolated along their line, opposite
    ends too.
    """
    (t,) = at.row
    first, second = _shares(_angle(directions[0], directions[1]), t)
    merged = directions[0] * first
    merged.add_(directions[1] * second)
    if base is not None and len(at.experts) == 2:
        merged.add_(base.float())
    return merged


def _shares(angle: float, t: float) -> tuple[float, float]:
    sine = math.sin(angle)
    if sine < _COLINEAR:
        return 1 - t, t
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def _angle(v0: Tensor, v1: Tensor) -> float:
    """The angle as 2 atan2(|u0 - u1|, |u0 + u1|) of the unit vectors (Kahan), in float64.

    The arc cosine loses all digits at the small angles that fine-tuned models have. Zero vectors count as
    colinear.
    """
    norms = [math.sqrt(sum(part.square().sum().item() for part in _parts(v))) for v in (v0, v1)]
    if 0.0 in norms:
        return 0.0
    apart = together = 0.0
    for part0, part1 in zip(_parts(v0), _parts(v1), strict=True):
        unit0, unit1 = part0 / norms[0], part1 / norms[1]
        apart += (unit0 - unit1).square().sum().item()
        together += (unit0 + unit1).square().sum().item()
    return 2 * math.atan2(math.sqrt(apart), math.sqrt(together))


def _parts(vector: Tensor) -> Iterator[Tensor]:
    return (part.double() for part in pieces(vector))


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
    combines_slices=False,
    max_experts=2,
    min_models=2,
)
