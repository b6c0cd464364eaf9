"""Stitch together the small parts of the experts that matter most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from merging.methods.arithmetic import add_up
from merging.methods.method import At, Method, always
from merging.methods.rows import row_or_entry
from merging.methods.searchable import Range
from merging.methods.sparse import Shares, one_per_expert
from merging.methods.ties import Trimmed, measure, thresholds, trimmed

if TYPE_CHECKING:
    from torch import Tensor


class Localize(Trimmed):
    """Settings of `localize_and_stitch`."""

    density: Annotated[Shares, Range(0.002, 0.2, log=True)] = Field(
        default=0.01, description="share of each task vector that is kept; one number, or one per expert"
    )


def stitched(base: Tensor | None, tuned: Sequence[Tensor], at: At[Localize]) -> list[Tensor]:
    """m_i tau_i / sum of m_j, with m_i the largest entries of tau_i.

    Localize-and-Stitch, arXiv 2408.13656, section 3, in its form without data: masks are not learned. Regions of one
    expert are that expert's at coefficient 1, overlaps the mean. The row multiplies afterwards, so the merge is linear
    in it.
    """
    parts = trimmed(base, tuned, at)
    counts = parts[0].ne(0).float()
    for part in parts[1:]:
        counts.add_(part.abs().gt_(0))
    counts.clamp_(min=1)
    return [part.div_(counts) for part in parts]


LOCALIZE_AND_STITCH = Method(
    name="localize_and_stitch",
    summary="Keep the few largest entries of each task vector, add them up, average where they overlap.",
    paper="Localize-and-Stitch, arXiv 2408.13656",
    needs_base=True,
    linear=True,
    structure=Localize,
    directions=stitched,
    combine=add_up,
    keeps_directions=True,
    elementwise=lambda structure: structure.scope == "model",
    sliced=always,
    measure=measure,
    unit=row_or_entry,
    survey=thresholds,
    row_error=one_per_expert,
)
