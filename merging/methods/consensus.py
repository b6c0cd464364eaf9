"""Keep the entries of the summed task vectors that enough experts rely on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from merging.methods.arithmetic import add_up, scaled, task_vectors
from merging.methods.method import At, Method, always
from merging.methods.searchable import Range
from merging.methods.sparse import Sparse, one_per_expert

if TYPE_CHECKING:
    from torch import Tensor

Factor = Annotated[float, Field(ge=0)]


class Consensus(Sparse):
    """Settings of `consensus`."""

    votes: Annotated[int, Field(ge=0), Range(1, 2, whole=True)] = Field(
        default=2, description="k: how many experts must use an entry; 0 keeps all"
    )
    mask_factor: Annotated[Factor | tuple[Factor, ...], Range(0.1, 1)] = Field(
        default=0.4,
        description="lambda of the masks: an expert uses an entry whose size is at least so many times that of what "
        "the others add there; one number, or one per expert",
    )


def agreed(base: Tensor | None, tuned: Sequence[Tensor], at: At[Consensus]) -> list[Tensor]:
    """The task vectors where at least `votes` of the masks 1[|tau_t| >= lambda |sum of tau - tau_t|] are set.

    TALL-masks and Consensus TA, arXiv 2405.07813, equations 4 to 6. The masks know nothing of the row, so the merge is
    linear in it.
    """
    vectors = task_vectors(base, tuned, at)
    if at.structure.votes == 0:
        return scaled(vectors, at.structure.scale)
    total = vectors[0].clone()
    for vector in vectors[1:]:
        total.add_(vector)
    votes = total.new_zeros(total.shape)
    for vector, factor in zip(vectors, at.each(at.structure.mask_factor), strict=True):
        others = (total - vector).abs_().mul_(factor)
        votes.add_(vector.abs().sub_(others).ge_(0))
    votes.ge_(at.structure.votes)
    return scaled([vector.mul_(votes) for vector in vectors], at.structure.scale)


def row_error(row: tuple[float, ...], structure: Consensus) -> str | None:
    """More votes than there are experts would leave the base."""
    if structure.votes > len(row):
        return f"`votes` must be at most the number of experts, {len(row)}, but is {structure.votes}"
    return one_per_expert(row, structure)


CONSENSUS = Method(
    name="consensus",
    summary="Add up the task vectors where enough experts rely on the entry.",
    paper="TALL-masks and Consensus Merging, arXiv 2405.07813",
    needs_base=True,
    linear=True,
    structure=Consensus,
    directions=agreed,
    combine=add_up,
    elementwise=always,
    row_error=row_error,
)
