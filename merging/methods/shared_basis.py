"""Trim and elect in a basis that the experts' matrices share, instead of entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up, kept_count
from merging.methods.draws import kept, met
from merging.methods.method import At, Method
from merging.methods.searchable import Range
from merging.methods.spectra import common_left, matrix_directions

if TYPE_CHECKING:
    from torch import Tensor

_WEAK = 1e-2
"""DRM leaves out directions weaker than this times the strongest."""


class Knots(Frozen):
    """Settings of `knots`."""

    inner: Literal["ties", "dare_ties"] = Field(
        default="ties", description="keep the largest entries in the shared basis, or some by chance"
    )
    density: Annotated[float, Range(0.02, 1, log=True)] = Field(
        default=0.2, gt=0, le=1, description="share of each expert's entries that is kept"
    )


class Drm(Frozen):
    """Settings of `drm`."""

    stack: Literal["horizontal", "vertical"] = Field(
        default="horizontal", description="put the matrices side by side, or on top of each other"
    )
    density: Annotated[float, Range(0.05, 1, log=True)] = Field(
        default=0.2, gt=0, le=1, description="share of all experts' entries that is kept"
    )


def agreeing_parts(vectors: Sequence[Tensor]) -> list[Tensor]:
    """For each expert its entries of the elected sign, over how many experts have it there: their sum is the mean.

    TIES, arXiv 2306.01708, section 4, steps 2 and 3, all weights being one. Where the sum is zero no sign is elected.
    """
    total = vectors[0].clone()
    for vector in vectors[1:]:
        total.add_(vector)
    sign = total.sign_()
    parts = [vector * (vector.sign() == sign) for vector in vectors]
    count = parts[0].ne(0).to(sign.dtype)
    for part in parts[1:]:
        count.add_(part.ne(0))
    return [part.div_(count.clamp(min=1)) for part in parts]


def knots_matrix(vectors: list[Tensor], at: At[Knots]) -> list[Tensor]:
    """U times what TIES or DARE-TIES make of S V_i^T, where [tau_1 ... tau_N] = U S [V_1 ... V_N]^T (arXiv 2410.19735).

    S V_i^T is U^T tau_i. Trimming is per matrix, not over the whole model.
    """
    basis = common_left(vectors)
    return [basis @ part for part in knots_tensor([basis.T @ vector for vector in vectors], at)]


def knots_tensor(vectors: list[Tensor], at: At[Knots]) -> list[Tensor]:
    """The same of entries as they are: bias and norms have no basis to share."""
    density = at.structure.density
    for position, vector in enumerate(vectors if density < 1 else ()):
        if not vector.numel():
            continue
        if at.structure.inner == "dare_ties":
            mask = kept(at, position, vector.numel(), density).view(vector.shape)
            vector.mul_(mask.to(vector)).div_(met(density))
        else:
            _keep_largest([vector], density)
    return agreeing_parts(vectors)


def drm_matrix(vectors: list[Tensor], at: At[Drm]) -> list[Tensor]:
    """Decompose, renormalise, merge (DRM, arXiv 2505.23117): as KnOTS, trimmed where all rows have one length.

    S V_i^T is trimmed where S V_i^T, each row at unit length, has the largest entries over all experts.
    """
    if at.structure.stack == "vertical":
        turned = at.structure.model_copy(update={"stack": "horizontal"})
        found = drm_matrix([vector.T for vector in vectors], replace(at, structure=turned))
        return [part.T for part in found]
    basis = common_left(vectors, _WEAK)
    rows = [basis.T @ vector for vector in vectors]
    lengths = [one.norm(dim=1, keepdim=True) for one in rows]
    units = [one.div_(length).nan_to_num_(0.0) for one, length in zip(rows, lengths, strict=True)]
    _keep_largest(units, at.structure.density)
    trimmed = [unit.mul_(length) for unit, length in zip(units, lengths, strict=True)]
    return [basis @ part for part in agreeing_parts(trimmed)]


def drm_tensor(vectors: list[Tensor], at: At[Drm]) -> list[Tensor]:  # noqa: ARG001
    """Bias and norms are not trimmed."""
    return agreeing_parts(vectors)


def _keep_largest(tensors: Sequence[Tensor], density: float) -> None:
    """Set to zero, in place, what is smaller than the share `density` of the entries of all tensors together.

    Compared in float32. Entries as large as the smallest kept one are all kept.
    """
    from merging.selection import kth_largest  # needs torch, which the table of methods must not

    size = sum(tensor.numel() for tensor in tensors)
    if density == 1 or not size:
        return
    magnitudes = [tensor.abs().float().contiguous() for tensor in tensors]
    (threshold,) = kth_largest([one.cpu() for one in magnitudes], [kept_count(density, size)])
    for tensor, magnitude in zip(tensors, magnitudes, strict=True):
        tensor.mul_(magnitude >= threshold)


KNOTS = Method(
    name="knots",
    summary="TIES or DARE-TIES in the basis of left singular vectors that the task vectors of a matrix share.",
    paper="KnOTS, arXiv 2410.19735",
    needs_base=True,
    linear=True,
    structure=Knots,
    directions=matrix_directions(knots_matrix, knots_tensor),
    combine=add_up,
    keeps_directions=True,
)

DRM = Method(
    name="drm",
    summary="Trim renormalised singular vectors that the task vectors share, elect a sign per entry, average.",
    paper="Decom-Renorm-Merge, arXiv 2505.23117",
    needs_base=True,
    linear=True,
    structure=Drm,
    directions=matrix_directions(drm_matrix, drm_tensor),
    combine=add_up,
    keeps_directions=True,
)
