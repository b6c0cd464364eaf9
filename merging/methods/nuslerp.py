"""The shortest arc between two experts, weighted: of their task vectors where there is a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from merging.frozen import Frozen
from merging.methods import slerp
from merging.methods.method import At, Gram, Method, NoStructure, always
from merging.methods.weighted_sum import around_base, around_origin, cancelling, from_origin, shares

if TYPE_CHECKING:
    from torch import Tensor

_COLINEAR = 1e-7  # below this sine the arc is a line in float32


class Rows(Frozen):
    """Settings of `nuslerp_rows`."""

    along: Annotated[
        Literal["rows", "columns"],
        Field(description="turn each row of a matrix by an angle of its own, or each column"),
    ] = "rows"


def arc_shares(gram: Gram, at: At[NoStructure]) -> Sequence[float]:
    """SLERP's weights of the two ends, t being the second weight's share; one expert alone is that expert."""
    weights = shares(at.row)
    return weights if len(weights) == 1 else slerp.shares(gram, replace(at, row=(weights[1],)))


def arcs(base: Tensor | None, directions: Sequence[Tensor], at: At[Rows]) -> Tensor:
    """An arc for every row, or column, of the two tensors; a tensor of one axis is one row.

    Angles come from 2 atan2(|u0 - u1|, |u0 + u1|) of the unit vectors, in float64.
    """
    import torch

    if len(directions) == 1:
        return around_origin(base, directions, at)
    along = -1 if at.structure.along == "rows" or directions[0].ndim < 2 else -2
    t = shares(at.row)[1]
    shape = directions[0].shape or (1,)
    v0, v1 = (direction.double().reshape(shape) for direction in directions)
    u0, u1 = (v / v.norm(dim=along, keepdim=True) for v in (v0, v1))
    apart, together = (u0 - u1).norm(dim=along, keepdim=True), (u0 + u1).norm(dim=along, keepdim=True)
    angle = torch.atan2(apart, together).mul_(2).nan_to_num_()  # a row of zeros has no angle; it is colinear
    sine = angle.sin()
    line = sine < _COLINEAR
    first = torch.where(line, 1 - t, ((1 - t) * angle).sin() / sine)
    second = torch.where(line, t, (t * angle).sin() / sine)
    merged: Tensor = v0.mul_(first).add_(v1.mul_(second)).float().reshape(directions[0].shape)
    return merged if base is None else merged.add_(base.float())


NUSLERP = Method(
    name="nuslerp",
    summary="The arc between two experts, or between their task vectors where there is a base, by weights.",
    paper="Animating Rotation with Quaternion Curves, Shoemake 1985, doi 10.1145/325165.325242",
    needs_base=False,
    linear=False,
    structure=NoStructure,
    directions=from_origin,
    combine=around_origin,
    min_experts=2,
    max_experts=2,
    elementwise=always,
    law=arc_shares,
    weighted_sum=around_base,
    row_error=cancelling,
)

NUSLERP_ROWS = Method(
    name="nuslerp_rows",
    summary="As `nuslerp`, with an angle for each row or each column of a matrix.",
    paper="Animating Rotation with Quaternion Curves, Shoemake 1985, doi 10.1145/325165.325242",
    needs_base=False,
    linear=False,
    structure=Rows,
    directions=from_origin,
    combine=arcs,
    combines_slices=False,
    min_experts=2,
    max_experts=2,
    row_error=cancelling,
)
