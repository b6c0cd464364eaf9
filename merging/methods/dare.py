"""Drop entries of each task vector at random and rescale the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up, elect_and_average, task_vectors
from merging.methods.method import At, Method
from merging.pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor


class Dare(Frozen):
    """Settings of `dare_linear` and `dare_ties`."""

    density: float = Field(default=0.1, gt=0, le=1, description="chance of each entry to be kept")


def dropped(base: Tensor | None, tuned: Sequence[Tensor], at: At[Dare]) -> list[Tensor]:
    """m * tau / density with m ~ Bernoulli(density), so that the mean over masks is tau.

    arXiv 2311.03099, equations 2 to 4, with drop rate p = 1 - density.
    """
    vectors = task_vectors(base, tuned, at)
    density = at.structure.density
    if density == 1:
        return vectors
    for position, vector in enumerate(vectors):
        generator = at.generator(position)
        for part in pieces(vector):  # small pieces stay in the processor's cache
            draw = part.new_empty(part.shape).uniform_(generator=generator)
            part.mul_(draw < density).div_(density)
    return vectors


DARE_LINEAR = Method(
    name="dare_linear",
    summary="Drop entries of the task vectors at random, rescale the rest, add the weighted sum to the base.",
    paper="Language Models are Super Mario (DARE), arXiv 2311.03099",
    needs_base=True,
    linear=True,
    structure=Dare,
    directions=dropped,
    combine=add_up,
    keeps_directions=True,
)

DARE_TIES = Method(
    name="dare_ties",
    summary="Drop entries at random and rescale, then elect signs and average as in TIES.",
    paper="Language Models are Super Mario (DARE), arXiv 2311.03099",
    needs_base=True,
    linear=False,
    structure=Dare,
    directions=dropped,
    combine=elect_and_average,
    keeps_directions=True,
)
