"""Let every entry of a task vector compete with its own vector and with the other experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from merging.methods.arithmetic import add_up, differences, scaled, task_vectors
from merging.methods.magnitudes import slices, together
from merging.methods.method import At, Method, always
from merging.methods.searchable import Range
from merging.methods.sparse import Share, Sparse
from merging.methods.whole_model import WholeModel

if TYPE_CHECKING:
    from torch import Tensor

_WINSOR = 1e-4  # share of each end of the magnitudes that is drawn in, from the authors' code


class Pcb(Sparse):
    """Settings of `pcb`."""

    density: Annotated[Share, Range(0.01, 0.5, log=True)] = Field(
        default=0.05, description="share of each task vector's entries that compete: those with the best scores"
    )
    scope: Literal["model", "tensor"] = Field(
        default="model", description="rank and normalise over the whole model, as in the paper, or over each tensor"
    )


@dataclass(frozen=True)
class Bounds:
    """Of one expert: the range its magnitudes are drawn into, the score of the last that is kept, and the best."""

    low: float
    high: float
    worst: float = 0.0
    best: float = 0.0


def competing(base: Tensor | None, tuned: Sequence[Tensor], at: At[Pcb]) -> list[Tensor]:
    """beta_i tau_i / sum of beta_j (PCB-Merging, arXiv 2410.02396, equations 3 to 6; details from the authors' code).

    Magnitudes are drawn into the range of all but 0.01 % at either end. beta_i is the score
    exp(T minmax(|tau_i|)^2) tanh(tau_i sum of tau_j), with what is below the best `density` set to the last of them,
    and brought to 0 to 1. The row multiplies afterwards, so the merge is linear in it.
    """
    vectors = task_vectors(base, tuned, at)
    bounds = at.survey or at.measured or measure(base, tuned, at)
    if not bounds:
        return vectors
    scores = _scores(vectors, bounds)
    total = scores[0].new_zeros(scores[0].shape)
    for score, bound in zip(scores, bounds, strict=True):
        if bound.best > bound.worst:
            score.clamp_(min=bound.worst).sub_(bound.worst).div_(bound.best - bound.worst)
        else:
            score.fill_(1)  # all compete alike
        total.add_(score)
    total.clamp_(min=1e-12)
    drawn = (_drawn_in(vector, bound) for vector, bound in zip(vectors, bounds, strict=True))
    return scaled(
        [vector.mul_(score).div_(total) for vector, score in zip(drawn, scores, strict=True)], at.structure.scale
    )


def _drawn_in(vector: Tensor, bound: Bounds) -> Tensor:
    return vector.abs().clamp_(bound.low, bound.high).mul_(vector.sign())


def _scores(vectors: Sequence[Tensor], bounds: Sequence[Bounds]) -> list[Tensor]:
    total = vectors[0].clone()
    for vector in vectors[1:]:
        total.add_(vector)
    scores = []
    for vector, bound in zip(vectors, bounds, strict=True):
        own = vector.abs().clamp_(bound.low, bound.high).sub_(bound.low)
        if bound.high > bound.low:
            own.div_(bound.high - bound.low)
        own.square_().mul_(len(vectors)).exp_()
        scores.append(own.mul_((vector * total).tanh_()))
    return scores


def bounds_of(reading: Callable[[], Iterable[Sequence[Tensor]]], settings: Pcb) -> tuple[Bounds, ...]:
    """Of each expert, over everything that is read; empty where that is nothing. Four readings, two of few entries."""
    from merging.selection import found_in_all

    def magnitudes(parts: Sequence[Tensor]) -> list[Tensor]:
        return [vector.abs_() for vector in differences(parts[0], parts[1:])]

    def ends(total: int) -> list[list[int]]:
        low, high = int(total * _WINSOR), max(int(total * (1 - _WINSOR) - 1), 0)
        return [[total - low, total - high]] * experts

    def scores(parts: Sequence[Tensor]) -> list[Tensor]:
        return _scores(differences(parts[0], parts[1:]), ranges)

    experts = len(next(iter(reading()), [None])) - 1
    found = found_in_all(reading, magnitudes, ends)
    ranges = [Bounds(low.value, max(low.value, high.value)) for low, high in found]
    if not ranges:
        return ()
    last = found_in_all(
        reading,
        scores,
        lambda total: [[total - min(int(total * (1 - settings.density)), total - 1), 1]] * experts,
        signed=True,
    )
    return tuple(
        Bounds(one.low, one.high, worst.value, best.value) for one, (worst, best) in zip(ranges, last, strict=True)
    )


def measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[Pcb]) -> tuple[Bounds, ...]:
    return at.survey or bounds_of(lambda: slices(base, tuned), at.structure)


def survey(whole: WholeModel, structure: Pcb) -> tuple[Bounds, ...] | None:
    return bounds_of(lambda: together(whole), structure) if structure.scope == "model" else None


PCB = Method(
    name="pcb",
    summary="Score entries by their size and by their agreement with the others, average the best by score.",
    paper="PCB-Merging, arXiv 2410.02396",
    needs_base=True,
    linear=True,
    structure=Pcb,
    directions=competing,
    combine=add_up,
    keeps_directions=True,
    elementwise=lambda structure: structure.scope == "model",
    sliced=always,
    measure=measure,
    survey=survey,
)
