"""Keep the middle of each task vector: neither the outliers nor the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up, kept_count, task_vectors, top_mask
from merging.methods.method import At, Method

if TYPE_CHECKING:
    from torch import Tensor


class Breadcrumbs(Frozen):
    """Settings of `breadcrumbs`."""

    density: float = Field(default=0.9, gt=0, le=1, description="share that is kept of what gamma leaves")
    gamma: float = Field(default=0.01, ge=0, lt=1, description="share of the largest entries that is dropped")


def band(base: Tensor | None, tuned: Sequence[Tensor], at: At[Breadcrumbs]) -> list[Tensor]:
    """Each task vector without its largest and smallest entries (arXiv 2312.06795, section 3.2).

    Each tensor by itself: of n entries the round(gamma n) largest go, and of the rest the share `density` stays,
    largest first, to the nearest whole number; at least one entry is kept. Equal magnitudes are told apart by
    their position, so that the counts are exact.
    """
    vectors = task_vectors(base, tuned, at)
    for vector in vectors:
        size = vector.numel()
        if size == 0:
            continue
        top = min(round(at.structure.gamma * size), size - 1)
        kept = kept_count(at.structure.density, size - top)
        if kept == size:
            continue
        magnitudes = vector.abs()
        vector.mul_(top_mask(magnitudes, top + kept).logical_xor_(top_mask(magnitudes, top)))
    return vectors


BREADCRUMBS = Method(
    name="breadcrumbs",
    summary="Drop the largest and smallest entries of each task vector, add the weighted sum to the base.",
    paper="Model Breadcrumbs, arXiv 2312.06795",
    needs_base=True,
    linear=True,
    structure=Breadcrumbs,
    directions=band,
    combine=add_up,
    keeps_directions=True,
)
