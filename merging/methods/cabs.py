"""Give each expert entries of its own: the largest of every block that earlier experts left free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from merging.methods.arithmetic import add_up, scaled, task_vectors
from merging.methods.method import At, Method, always
from merging.methods.rows import top_of_rows
from merging.methods.searchable import Range
from merging.methods.sparse import Sparse

if TYPE_CHECKING:
    from torch import Tensor


class Cabs(Sparse):
    """Settings of `cabs`."""

    keep: Annotated[int, Field(ge=1), Range(16, 96, log=True, whole=True)] = Field(
        default=64, description="n: how many entries of each block an expert keeps"
    )
    block: Annotated[int, Field(ge=1)] = Field(default=256, description="m: how many entries a block has")

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Cabs:
        if self.keep > self.block:
            raise ValueError(
                f"`keep` must be at most `block`, but is {self.keep} of {self.block}; lower it, or raise `block`"
            )
        return self


def own_entries(base: Tensor | None, tuned: Sequence[Tensor], at: At[Cabs]) -> list[Tensor]:
    """Each task vector with the `keep` largest of every `block` entries, among those no earlier expert kept.

    CABS, arXiv 2503.01874, section 4, conflict-aware and n:m balanced sparsification. **The order of the experts
    counts**: the first chooses first. Blocks follow each other in the flattened tensor; of a last block of s < m
    entries each expert keeps round-down(n s / m). Equal magnitudes are told apart by position.
    """
    vectors = task_vectors(base, tuned, at)
    keep, block = at.structure.keep, at.structure.block
    whole = vectors[0].numel() // block * block
    for end, start, length in ((whole, 0, block), (vectors[0].numel(), whole, vectors[0].numel() - whole)):
        if start < end:
            kept = keep * length // block
            _choose([vector.view(-1)[start:end].view(-1, length) for vector in vectors], kept)
    return scaled(vectors, at.structure.scale)


def _choose(blocks: Sequence[Tensor], keep: int) -> None:
    """Leave each expert its own entries of every row, in place."""
    free = blocks[0].new_ones(blocks[0].shape).bool()
    for vector in blocks:
        # what is taken is smaller than anything
        mask = top_of_rows(vector.abs().masked_fill_(~free, -1), keep) if keep else free.new_zeros(free.shape)
        vector.mul_(mask)  # NaN and infinity stay to be seen
        free.logical_and_(~mask)


def row_error(row: tuple[float, ...], structure: Cabs) -> str | None:
    """Experts cannot own more entries than there are."""
    if len(row) * structure.keep > structure.block:
        return (
            f"{len(row)} experts cannot keep {structure.keep} entries each of blocks of {structure.block}; "
            f"`keep` must be at most {structure.block // len(row)}"
        )
    return None


CABS = Method(
    name="cabs",
    summary="Give each expert the largest entries of every block that the experts before it left, add them up.",
    paper="CABS, arXiv 2503.01874",
    needs_base=True,
    linear=True,
    structure=Cabs,
    directions=own_entries,
    combine=add_up,
    keeps_directions=True,
    sliced=always,
    unit=lambda structure, shape: structure.block,  # noqa: ARG005
    row_error=row_error,
)
