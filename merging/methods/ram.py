"""Add up what only one expert changes, average what several change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from merging.methods.arithmetic import add_up, differences, scaled, task_vectors
from merging.methods.magnitudes import slices, together
from merging.methods.method import At, Method, always
from merging.methods.searchable import Range
from merging.methods.sparse import Sparse
from merging.methods.whole_model import WholeModel

if TYPE_CHECKING:
    from torch import Tensor


class Ram(Sparse):
    """Settings of `ram`."""

    epsilon: Annotated[float, Field(ge=0), Range(1e-7, 1e-3, log=True)] = Field(
        default=1e-5, description="changes up to this magnitude do not count, and are dropped"
    )


class RamPlus(Ram):
    """Settings of `ram_plus`."""

    boost: Annotated[float, Field(ge=0), Range(0.0, 1.0)] = Field(
        default=0.1, description="r: how much an expert's own changes grow with its share of shared ones"
    )
    limit: Annotated[float, Field(ge=0), Range(0.0, 1.0)] = Field(
        default=0.2, description="alpha: the share of shared changes to own ones from which on they grow no more"
    )
    scope: Literal["model", "tensor"] = Field(
        default="model", description="count changes over the whole model, or over each tensor as mergekit does"
    )
    as_mergekit: ClassVar = {"scope": "tensor"}


def shared_out(base: Tensor | None, tuned: Sequence[Tensor], at: At[Ram]) -> list[Tensor]:
    """Changes above epsilon over how many experts make one there (RAM, arXiv 2601.13572).

    Entries that one expert changes are so added, those that several change averaged. With `ram_plus` an expert's own
    are multiplied by 1 + r min(rho, alpha), rho the number of its shared changes over that of its own ones. The row
    multiplies afterwards, so the merge is linear in it; it is not equivariant under scaling, as epsilon is absolute.
    """
    vectors = task_vectors(base, tuned, at)
    counts, changes = _changes(vectors, at.structure.epsilon)
    boosts = at.survey or at.measured or measure(base, tuned, at)
    divisor = counts.clamp(min=1)
    own = counts.eq_(1)
    for vector, change, boost in zip(vectors, changes, boosts or (0.0,) * len(vectors), strict=True):
        vector.mul_(change).div_(divisor)
        if boost:
            vector.mul_((own * boost).add_(1))
    return scaled(vectors, at.structure.scale)


def _changes(vectors: Sequence[Tensor], epsilon: float) -> tuple[Tensor, list[Tensor]]:
    """How many experts change each entry, and which: 1 or 0."""
    changes = [vector.abs().gt_(epsilon) for vector in vectors]
    counts = changes[0].clone()
    for change in changes[1:]:
        counts.add_(change)
    return counts, changes


def boosts_of(reading: Callable[[], Iterable[Sequence[Tensor]]], settings: RamPlus) -> tuple[float, ...]:
    """r min(rho, alpha) of each expert, over everything that is read."""
    import torch

    totals: list[int] = []
    owned: list[int] = []
    for parts in reading():
        counts, changes = _changes(differences(parts[0], parts[1:]), settings.epsilon)
        own = counts.eq_(1)
        totals = totals or [0] * len(changes)
        owned = owned or [0] * len(changes)
        for number, change in enumerate(changes):
            totals[number] += int(change.sum(dtype=torch.float64))
            owned[number] += int(change.mul_(own).sum(dtype=torch.float64))
    # an expert without changes of its own has nothing to boost
    ratios = ((all_of - own) / own if own else 0.0 for all_of, own in zip(totals, owned, strict=True))
    return tuple(settings.boost * min(ratio, settings.limit) for ratio in ratios)


def measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[Ram]) -> tuple[float, ...]:
    if not isinstance(at.structure, RamPlus):
        return ()
    return at.survey or boosts_of(lambda: slices(base, tuned), at.structure)


def survey(whole: WholeModel, structure: RamPlus) -> tuple[float, ...] | None:
    return boosts_of(lambda: together(whole), structure) if structure.scope == "model" else None


RAM = Method(
    name="ram",
    summary="Add up changes that one expert makes, average those that several make.",
    paper="Reinforced Agent Merging, arXiv 2601.13572",
    needs_base=True,
    linear=True,
    structure=Ram,
    directions=shared_out,
    combine=add_up,
    elementwise=always,
)

RAM_PLUS = Method(
    name="ram_plus",
    summary="As `ram`, with changes of one expert made larger the more of its changes are shared.",
    paper="Reinforced Agent Merging, arXiv 2601.13572",
    needs_base=True,
    linear=True,
    structure=RamPlus,
    directions=shared_out,
    combine=add_up,
    sliced=always,
    measure=measure,
    survey=survey,
)
