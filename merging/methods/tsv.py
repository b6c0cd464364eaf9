"""Keep the strongest singular directions of every task vector, and make them orthogonal to each other's."""

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


class Tsv(Frozen):
    """Settings of `tsv`."""

    rank: Annotated[float | None, Range(0.05, 1, log=True)] = Field(
        default=None,
        gt=0,
        le=1,
        description="share of a matrix's singular directions that each expert keeps; 1 over the experts if null",
    )


def singular_parts(vectors: list[Tensor], at: At[Tsv]) -> list[Tensor]:
    """U'_i S_i V'_i^T, U' and V' the polar factors of all U_i and of all V_i side by side (TSV-M, arXiv 2412.00081).

    U_i, S_i, V_i are the strongest singular directions of tau_i. Their sum is the paper's merged task vector.
    """
    import torch

    share = at.structure.rank or 1 / len(vectors)
    kept = max(1, int(share * min(vectors[0].shape) + 1e-9))
    found = [singular(vector, kept) for vector in vectors]
    left, right = polar(torch.cat([u for u, _, _ in found], 1)), polar(torch.cat([v for _, _, v in found], 1))
    parts, start = [], 0
    for _, strengths, _ in found:
        end = start + len(strengths)
        parts.append((left[:, start:end] * strengths) @ right[:, start:end].T)
        start = end
    return parts


TSV = Method(
    name="tsv",
    summary="The strongest singular directions of each task vector, made orthogonal between experts, added up.",
    paper="Task Singular Vectors, arXiv 2412.00081",
    needs_base=True,
    linear=True,
    structure=Tsv,
    directions=matrix_directions(singular_parts, mean_parts),
    combine=add_up,
    keeps_directions=True,
)
