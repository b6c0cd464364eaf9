"""Trim each task vector, elect a sign per entry, average what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from merging.methods.arithmetic import elect_and_average, kept_count, present, scaled, task_vectors
from merging.methods.magnitudes import Cut, cuts, whole_model_ends
from merging.methods.method import At, Method, always
from merging.methods.rows import kept_in_rows, row_length, row_or_entry
from merging.methods.searchable import Range
from merging.methods.sparse import Elected, Shares, Sparse, one_per_expert
from merging.methods.whole_model import WholeModel

if TYPE_CHECKING:
    from torch import Tensor


class Trimmed(Sparse):
    """What methods that keep the largest entries can be told."""

    density: Annotated[Shares, Range(0.02, 1, log=True)] = Field(
        default=0.2, description="share of each task vector that is kept; one number, or one per expert"
    )
    scope: Literal["model", "tensor", "row"] = Field(
        default="model",
        description="keep the largest of the whole model, as in the paper, of each tensor, or of each row",
    )


class Ties(Elected, Trimmed):
    """Settings of `ties`."""

    as_mergekit: ClassVar = {"scope": "tensor", "average": "weights"}


def trimmed(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> list[Tensor]:
    """Each task vector with its smaller entries set to zero (arXiv 2306.01708, section 4, step 1).

    Entries as large as the smallest kept one are all kept; as mergekit does it, those that come first.
    """
    vectors = task_vectors(base, tuned, at)
    ends = at.measured or measure(base, tuned, at)
    if isinstance(ends, int):
        shares = zip(vectors, at.each(at.structure.density), strict=True)
        kept = [kept_in_rows(vector, ends, density) for vector, density in shares]
    else:
        kept = [
            vector if end is None else end.kept(vector, at.start, out=vector)
            for vector, end in zip(vectors, ends, strict=True)
        ]
    return scaled(kept, at.structure.scale)


def measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> list[Cut | None] | int:
    """Where each task vector's kept entries end; the length of a row where every row has an end of its own."""
    settings = at.structure
    if settings.scope == "row":
        return row_length(settings, tuned[0].shape)
    if at.survey is not None:
        return [None if value is None else Cut(value) for value in at.survey]
    size, exactly = tuned[0].numel(), settings.compat == "mergekit"
    ranks = [
        [] if density == 1 or size == 0 else [max(1, int(density * size)) if exactly else kept_count(density, size)]
        for density in at.each(settings.density)
    ]
    return [ends[0] if ends else None for ends in cuts(present(base), tuned, ranks, exactly=exactly)]


def thresholds(whole: WholeModel, structure: Trimmed) -> tuple[float | None, ...] | None:
    """The smallest magnitude that each task vector keeps: the paper trims the whole model as one vector."""
    if structure.scope != "model":
        return None
    density = structure.density
    return whole_model_ends(whole, density if isinstance(density, tuple) else (density,) * whole.experts)


TIES = Method(
    name="ties",
    summary="Keep the largest entries of each task vector, elect a sign per entry, average those that agree.",
    paper="TIES-Merging, arXiv 2306.01708",
    needs_base=True,
    linear=False,
    structure=Ties,
    directions=trimmed,
    combine=elect_and_average,
    keeps_directions=True,
    elementwise=lambda structure: structure.scope == "model",
    sliced=always,
    measure=measure,
    unit=row_or_entry,
    survey=thresholds,
    row_error=one_per_expert,
)
