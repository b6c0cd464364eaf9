"""Isotropic merging in what the experts have in common, and in what each of them adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up
from merging.methods.method import At, Method
from merging.methods.searchable import Range
from merging.methods.spectra import matrix_directions, mean_parts, polar, singular

if TYPE_CHECKING:
    from torch import Tensor


class IsoCts(Frozen):
    """Settings of `iso_cts`."""

    fraction: Annotated[float, Range(0.5, 1)] = Field(
        default=0.8, ge=0, le=1, description="share of the directions that are taken from the sum of the task vectors"
    )


def isotropic_parts(vectors: list[Tensor], at: At[IsoCts]) -> list[Tensor]:
    """Each expert's own directions, and its part of the common ones, all of one strength (Iso-CTS, arXiv 2502.04959).

    Common are the strongest directions of sum tau_k; an expert's own are the strongest of its tau outside of their left
    span, as many for each expert. U' and V' are the polar factors of all of them, the strength is their mean. What an
    expert's weight acts on is its own part of U' V'^T and 1/N of the common one, so that their sum is the paper's.
    """
    import torch

    count, smaller = len(vectors), min(vectors[0].shape)
    own = min(smaller // count, round((smaller - int(smaller * at.structure.fraction + 1e-9)) / count))
    shared = singular(sum(vectors[1:], vectors[0]), smaller - own * count)
    outside = [vector - shared[0] @ (shared[0].T @ vector) for vector in vectors] if own else []
    found = [singular(vector, own) for vector in outside] + [shared]
    strengths = torch.cat([one for _, one, _ in found])
    if not len(strengths):
        return [torch.zeros_like(vector) for vector in vectors]
    left, right = polar(torch.cat([u for u, _, _ in found], 1)), polar(torch.cat([v for _, _, v in found], 1))
    parts, start = [], 0
    for _, one, _ in found:
        end = start + len(one)
        parts.append((left[:, start:end] @ right[:, start:end].T).mul_(strengths.mean()))
        start = end
    common = parts.pop().div_(count)
    return [part.add_(common) for part in parts] if parts else [common.clone() for _ in vectors]


ISO_CTS = Method(
    name="iso_cts",
    summary="Common and expert-specific singular directions of the task vectors, all at their mean strength.",
    paper="Isotropic merging, arXiv 2502.04959",
    needs_base=True,
    linear=True,
    structure=IsoCts,
    directions=matrix_directions(isotropic_parts, mean_parts),
    combine=add_up,
    keeps_directions=True,
)
