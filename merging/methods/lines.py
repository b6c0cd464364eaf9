"""Task arithmetic that grows with the depth of the layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up, task_vectors
from merging.methods.method import At, Method, always
from merging.methods.searchable import Range

if TYPE_CHECKING:
    from torch import Tensor


class Lines(Frozen):
    """Settings of `lines`."""

    alpha: Annotated[float | None, Range(0, 0.6)] = Field(
        default=None, description="the factor of the first layer and outside of the layers; 1 over the experts if null"
    )
    beta: Annotated[float, Range(0, 1.5)] = Field(default=0.5, description="what the factor has gained in the last one")


def directions(base: Tensor | None, tuned: Sequence[Tensor], at: At[Lines]) -> list[Tensor]:
    """(alpha + beta depth) tau_i, depth from 0 for the first layer to 1 for the last (LiNeS, arXiv 2410.17146).

    Outside of the layers the factor is alpha. The paper's alpha for several tasks is 1/N times the ratio of
    |sum tau|_1 to that of the merge, which is 1 for task arithmetic: hence the default.
    """
    setting: Lines = at.structure
    alpha = setting.alpha if setting.alpha is not None else 1 / len(at.experts)
    factor = alpha if at.depth is None else alpha + setting.beta * at.depth
    return [vector.mul_(factor) for vector in task_vectors(base, tuned, at)]


LINES = Method(
    name="lines",
    summary="Task arithmetic with a factor that grows linearly from the first layer to the last.",
    paper="LiNeS, arXiv 2410.17146",
    needs_base=True,
    linear=True,
    structure=Lines,
    directions=directions,
    combine=add_up,
    elementwise=always,
)
