"""Weigh the task vectors of a tensor by their energy where the experts differ most, and erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from merging.methods.arithmetic import differences, present, scaled, squared_length, task_vectors
from merging.methods.magnitudes import Cut, cut, slices
from merging.methods.method import At, Combine, Method, Write, always
from merging.methods.searchable import Range
from merging.methods.sparse import Share, Sparse
from merging.pieces import CHUNK

if TYPE_CHECKING:
    from torch import Tensor

    from merging.selection import Bits

_TOO_SMALL = 1e-6  # mean squares that sum to less are taken for none by mergekit: those of most fine-tunes


class Sce(Sparse):
    """Settings of `sce`."""

    density: Annotated[Share, Range(0.02, 1, log=True)] = Field(
        default=0.1, description="share of the entries whose experts differ that is selected: where they differ most"
    )
    mask: Literal["weights", "delta"] = Field(
        default="weights",
        description="what the selection is for: only the experts' weights (the authors' code), or also what is merged "
        "(mergekit)",
    )
    as_mergekit: ClassVar = {"mask": "delta", "density": 1.0}


@dataclass(frozen=True)
class Seen:
    """The least variance that is selected, None where nothing is left out; and each expert's weight."""

    end: Cut | None
    weights: tuple[float, ...]


def selected(base: Tensor | None, tuned: Sequence[Tensor], at: At[Sce]) -> list[Tensor]:
    """The task vectors, with `mask: delta` only where they differ most (FuseChat, arXiv 2408.07990, 3.2, select)."""
    vectors = task_vectors(base, tuned, at)
    seen = at.measured or measure(base, tuned, at)
    if at.structure.mask == "delta" and seen.end is not None:
        mask = seen.end.mask(variance(tuned).view(vectors[0].shape), at.start)
        for vector in vectors:
            vector.mul_(mask)
    return scaled(vectors, at.structure.scale)


def measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[Sce]) -> Seen:
    """Where the selection ends, and the weights: the mean square of each task vector there, brought to a sum of 1.

    The selection has round-down(density * n) of the n entries whose variance over the experts is not zero, the first in
    memory order among equals. Where no variance is, as with one expert, everything is selected. Weights are equal where
    nothing has energy.
    """
    end = _selection(tuned, at.structure.density) if at.structure.density < 1 else None
    energies = [0.0] * len(tuned)
    start = 0
    for origin, *parts in slices(base, tuned):
        mask = None if end is None else end.mask(variance(parts), start)
        for number, part in enumerate(parts):
            energies[number] += squared_length(part, origin, mask)
        start += len(origin)
    total = sum(energies)
    if at.structure.compat == "mergekit" and total < _TOO_SMALL * start:
        total = 0.0
    return Seen(end, tuple(one / total if total else 1 / len(tuned) for one in energies))


def _selection(tuned: Sequence[Tensor], density: float) -> Cut | None:
    import numpy as np

    from merging.selection import bands_around, bits_of, sample_size, stride

    def spread(start: int) -> Bits:
        return bits_of(variance([expert.view(-1)[start : start + CHUNK].cpu() for expert in tuned]))

    size = tuned[0].numel()
    if size == 0:
        return None
    every = stride(size, sample_size(size))
    sample = bits_of(variance([expert.view(-1)[::every].cpu() for expert in tuned]))
    likely = max(1, round(density * float(np.count_nonzero(sample)) / len(sample) * size))
    (band,) = bands_around([likely], size, sample)
    differing = 0
    for start in range(0, size, CHUNK):
        bits = spread(start)
        differing += int(np.count_nonzero(bits != 0))
        band.count(bits)
    return cut(max(1, int(density * differing)), band, size, spread) if differing else None


def variance(tuned: Sequence[Tensor]) -> Tensor:
    """Of each entry over the experts; a new tensor, exactly zero where they are equal.

    From the differences d to the first expert: mean of d^2 less the square of the mean of d, which is at most as many
    times as large as there are experts, so that little cancels. The base has no part in it.
    """
    from merging.kernels import spread
    from merging.kernels.compiled import takes

    if len(tuned) > 1 and takes(*tuned):
        return spread.variance(tuned)
    first = tuned[0].float()
    if len(tuned) == 1:
        return first.new_zeros(first.shape)
    total, *others = differences(first, tuned[1:])
    squares = total.square()
    for other in others:
        total.add_(other)
        squares.add_(other.square_())
    return squares.div_(len(tuned)).sub_(total.div_(len(tuned)).square_())


def _erased(base: Tensor | None, directions: Sequence[Tensor], at: At[Sce]) -> Tensor:
    entries = [direction * weight for weight, direction in zip(at.row, directions, strict=True)]
    sign = entries[0] + entries[1] if len(entries) > 1 else entries[0].clone()
    for entry in entries[2:]:
        sign.add_(entry)
    sign.sign_()
    if at.structure.compat == "mergekit":
        sign.add_(0.5).sign_()
    merged, divisor = None, sign.new_zeros(sign.shape)
    for eta, entry in zip(_etas(at), entries, strict=True):
        weight = (entry * sign).gt_(0).mul_(eta)  # eta where the signs agree, 0 elsewhere
        merged = entry.mul_(weight).add_(0.0 if merged is None else merged)  # so that there is no zero with a sign
        divisor.add_(weight)
    assert merged is not None, "there is at least one expert"
    divisor.add_(divisor.clone().eq_(0))  # none agree, or those without energy: by 1
    return merged.div_(divisor).add_(present(base).float())


def _erasing(base: Tensor | None, directions: Sequence[Tensor], at: At[Sce]) -> Write | None:
    from merging.kernels.compiled import takes
    from merging.kernels.elections import erasing

    origin = present(base)
    if not (takes(origin) and takes(*directions)):
        return None
    return erasing(origin, directions, at.row, _etas(at), ties_are_positive=at.structure.compat == "mergekit")


def _etas(at: At[Sce]) -> tuple[float, ...]:
    if at.measured is None:
        raise ValueError("`sce` must see a tensor before it combines it; call it at `Method.measured_at`")
    weights: tuple[float, ...] = at.measured.weights
    return weights


erased = Combine(_erased, _erasing)
"""base + sum of eta_i x_i over sum of eta_i, over the experts whose x_i = w_i d_i has the sign of sum of x_i.

FuseChat, section 3.2, calculate and erase, with eta the weights that were measured. Equal coefficients lambda are the
paper's method with its result scaled by lambda. Where sum of x_i is zero nothing is added; plus has it with
`compat: mergekit`.
"""


SCE = Method(
    name="sce",
    summary="Weigh experts by their energy where they differ most, elect a sign per entry, average those that agree.",
    paper="FuseChat (SCE), arXiv 2408.07990",
    needs_base=True,
    linear=False,
    structure=Sce,
    directions=selected,
    combine=erased,
    sliced=always,
    measure=measure,
)
