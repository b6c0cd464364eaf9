"""Task arithmetic in which the lengths of the task vectors say how much each of them counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up, present, task_vectors
from merging.methods.method import At, Method, always
from merging.methods.whole_model import WholeModel
from merging.pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor

Shares = Callable[[Sequence[float]], list[float]]
"""Squared lengths of the task vectors to a factor for each."""


class Lengths(Frozen):
    """Settings of `metagpt` and `nan`."""

    scope: Literal["model", "tensor"] = Field(
        default="model", description="compare the lengths of whole task vectors, or anew in each tensor"
    )


def by_square(squared: Sequence[float]) -> list[float]:
    """|tau_i|^2 / sum |tau_k|^2 (MetaGPT, arXiv 2406.11385): the longer a task vector, the more it counts."""
    total = math.fsum(squared)
    return [one / total if total else 1 / len(squared) for one in squared]


def by_inverse(squared: Sequence[float]) -> list[float]:
    """(1/|tau_i|) / sum (1/|tau_k|) (after NAN, arXiv 2505.16148): all task vectors come to one length.

    A task vector of zeros adds nothing at any weight, so it has no share.
    """
    inverse = [1 / math.sqrt(one) if one else 0.0 for one in squared]
    total = math.fsum(inverse)
    return [one / total if total else 1 / len(squared) for one in inverse]


def squared_norms(whole: WholeModel, structure: Lengths) -> tuple[float, ...] | None:
    """|tau_k|^2 of the whole models, unless each tensor is compared by itself."""
    return whole.squared_norms() if structure.scope == "model" else None


def lengths(base: Tensor | None, tuned: Sequence[Tensor], at: At[Lengths]) -> list[float]:
    """|tau_k|^2 of the whole models where the method has asked for them, else in this tensor; float64."""
    if at.survey is not None:
        return list(at.survey)
    found = [0.0] * len(tuned)
    for origin, *experts in zip(*(pieces(one) for one in (present(base), *tuned)), strict=True):
        for position, vector in enumerate(task_vectors(origin, experts, at)):
            found[position] += vector.double().square().sum().item()
    return found


def _method(name: str, summary: str, paper: str, shares: Shares) -> Method:
    def directions(base: Tensor | None, tuned: Sequence[Tensor], at: At[Lengths]) -> list[Tensor]:
        vectors = task_vectors(base, tuned, at)
        squared = at.measured or lengths(base, tuned, at)
        return [vector.mul_(share) for vector, share in zip(vectors, shares(squared), strict=True)]

    return Method(
        name=name,
        summary=summary,
        paper=paper,
        needs_base=True,
        linear=True,
        structure=Lengths,
        directions=directions,
        combine=add_up,
        sliced=always,
        measure=lengths,
        survey=squared_norms,
    )


METAGPT = _method(
    "metagpt",
    "Task arithmetic with each task vector's share of the sum of their squared lengths.",
    "MetaGPT, arXiv 2406.11385",
    by_square,
)
NAN = _method(
    "nan",
    "Task arithmetic with shares that are in inverse proportion to the lengths of the task vectors.",
    "NAN, arXiv 2505.16148",
    by_inverse,
)
