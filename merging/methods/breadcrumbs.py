"""Keep the middle of each task vector: neither the outliers nor the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from merging.methods.arithmetic import add_up, elect_and_average, kept_count, present, scaled, task_vectors
from merging.methods.magnitudes import Cut, cuts
from merging.methods.method import At, Method, always
from merging.methods.rows import kept_in_rows, row_length, row_or_entry
from merging.methods.searchable import Range
from merging.methods.sparse import Elected, Shares, Sparse, one_per_expert

if TYPE_CHECKING:
    from torch import Tensor

Dropped = Annotated[float, Field(ge=0, lt=1)]
Ends = tuple[Cut | None, Cut | None]
"""Where the kept entries end, and where the dropped large ones do; None where nothing is dropped on that side."""


class Breadcrumbs(Sparse):
    """Settings of `breadcrumbs`."""

    density: Annotated[Shares, Range(0.1, 1, log=True)] = Field(
        default=0.9,
        description="share that is kept of what gamma leaves, of all entries with `compat: mergekit`; "
        "one number, or one per expert",
    )
    gamma: Annotated[Dropped | tuple[Dropped, ...], Range(1e-3, 0.1, log=True)] = Field(
        default=0.01, description="share of the largest entries that is dropped; one number, or one per expert"
    )
    scope: Literal["tensor", "row"] = Field(
        default="tensor", description="count in each tensor, or in each row as the authors' code does"
    )


class BreadcrumbsTies(Elected, Breadcrumbs):
    """Settings of `breadcrumbs_ties`."""

    as_mergekit: ClassVar = {"average": "sum"}


def band(base: Tensor | None, tuned: Sequence[Tensor], at: At[Breadcrumbs]) -> list[Tensor]:
    """Each task vector without its largest and smallest entries (arXiv 2312.06795, section 3.2).

    Each tensor by itself: of n entries the round(gamma n) largest go, and of the rest the share `density` stays,
    largest first, to the nearest whole number; at least one entry is kept. Equal magnitudes are told apart by
    their position, so that the counts are exact.
    """
    vectors = task_vectors(base, tuned, at)
    settings = at.structure
    ends = at.measured or measure(base, tuned, at)
    if isinstance(ends, int):
        shares = zip(vectors, at.each(settings.density), at.each(settings.gamma), strict=True)
        kept = [kept_in_rows(vector, ends, density, gamma) for vector, density, gamma in shares]
    else:
        kept = [_between(vector, end, at.start) for vector, end in zip(vectors, ends, strict=True)]
    return scaled(kept, settings.scale)


def _between(vector: Tensor, ends: Ends, start: int) -> Tensor:
    """Overwrites the vector."""
    bottom, top = ends
    kept = vector if bottom is None else bottom.kept(vector, start, out=vector)
    return kept if top is None else kept.sub_(top.kept(kept, start))


def measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[Breadcrumbs]) -> list[Ends] | int:
    """Where each task vector's kept entries, and its dropped large ones, end; the length of a row where rows differ."""
    settings = at.structure
    if settings.scope == "row":
        return row_length(settings, tuned[0].shape)
    size = tuned[0].numel()
    limits = [
        _ranks(size, density, gamma, settings)
        for density, gamma in zip(at.each(settings.density), at.each(settings.gamma), strict=True)
    ]
    looked_for = [[rank for rank in both if 0 < rank < size] for both in limits]
    found = cuts(present(base), tuned, looked_for, exactly=True)
    ends = [dict(zip(ranks, cut, strict=True)) for ranks, cut in zip(looked_for, found, strict=True)]
    return [(cut.get(bottom), cut.get(top)) for cut, (bottom, top) in zip(ends, limits, strict=True)]


def _ranks(size: int, density: float, gamma: float, settings: Breadcrumbs) -> tuple[int, int]:
    """How many are kept or dropped from the top, and how many of them are dropped."""
    if size == 0:
        return 0, 0
    if settings.compat == "mergekit":
        if density == 1:
            return size, 0
        kept = max(1, int(density * size))
        top = min(int(gamma * size), size - kept)
    else:
        top = min(round(gamma * size), size - 1)
        kept = kept_count(density, size - top)
    return top + kept, top


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
    sliced=always,
    measure=measure,
    unit=row_or_entry,
    row_error=one_per_expert,
)

BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    summary="Drop the largest and smallest entries of each task vector, then elect signs and average as in TIES.",
    paper="Model Breadcrumbs, arXiv 2312.06795; TIES-Merging, arXiv 2306.01708",
    needs_base=True,
    linear=False,
    structure=BreadcrumbsTies,
    directions=band,
    combine=elect_and_average,
    keeps_directions=True,
    sliced=always,
    measure=measure,
    unit=row_or_entry,
    row_error=one_per_expert,
)
