"""Trim each task vector, elect a sign per entry, average what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import elect_and_average, kept_count, kth_largest, task_vectors
from merging.methods.method import At, Method
from merging.methods.whole_model import WholeModel

if TYPE_CHECKING:
    from torch import Tensor


class Ties(Frozen):
    """Settings of `ties`."""

    density: float = Field(default=0.2, gt=0, le=1, description="share of each task vector that is kept")
    scope: Literal["model", "tensor"] = Field(
        default="model", description="keep the largest of the whole model, as in the paper, or of each tensor"
    )


def trimmed(base: Tensor | None, tuned: Sequence[Tensor], at: At[Ties]) -> list[Tensor]:
    """Each task vector with its smaller entries set to zero (arXiv 2306.01708, section 4, step 1).

    Entries as large as the smallest kept one are all kept.
    """
    vectors = task_vectors(base, tuned, at)
    if at.structure.density == 1:
        return vectors
    for position, vector in enumerate(vectors):
        magnitudes = vector.abs()
        if at.survey is not None:
            kept = magnitudes >= at.survey[position]
        else:
            kept = magnitudes >= kth_largest(magnitudes, kept_count(at.structure.density, magnitudes.numel()))
        vector.mul_(kept)
    return vectors


def thresholds(whole: WholeModel, structure: Ties) -> tuple[float, ...] | None:
    """The smallest magnitude that each task vector keeps: the paper trims the whole model as one vector."""
    if structure.scope == "tensor" or structure.density == 1:
        return None
    return tuple(whole.threshold(expert, structure.density) for expert in range(whole.experts))


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
    elementwise=lambda structure: structure.scope == "model" or structure.density == 1,
    survey=thresholds,
)
