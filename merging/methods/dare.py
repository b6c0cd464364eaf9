"""Drop entries of each task vector at random and rescale the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from merging.methods.arithmetic import add_up, elect_and_average, task_vectors
from merging.methods.draws import STEPS, drawn, kept, met
from merging.methods.method import At, Method, always
from merging.methods.norm_match import factor_of, norm_matches
from merging.methods.searchable import Range
from merging.methods.sparse import Elected, Rescaled, Shares, Sparse, one_per_expert

if TYPE_CHECKING:
    from torch import Tensor


class Dare(Rescaled, Sparse):
    """Settings of `dare_linear`."""

    density: Annotated[Shares, Range(0.05, 1, log=True)] = Field(
        default=0.1, description="chance of each entry to be kept; one number, or one per expert"
    )
    as_mergekit: ClassVar = {"rescale": "norm"}


class DareTies(Elected, Dare):
    """Settings of `dare_ties`."""

    as_mergekit: ClassVar = {"rescale": "norm", "average": "sum"}


def dropped(base: Tensor | None, tuned: Sequence[Tensor], at: At[Dare]) -> list[Tensor]:
    """m * tau / density with m ~ Bernoulli(density), so that the mean over masks is tau.

    arXiv 2311.03099, equations 2 to 4, with drop rate p = 1 - density.
    """
    from merging.kernels.compiled import takes
    from merging.kernels.dropping import drop

    vectors = task_vectors(base, tuned, at)
    densities = at.each(at.structure.density)
    matches = at.measured or measure(base, tuned, at)
    for expert, (vector, density) in enumerate(zip(vectors, densities, strict=True)):
        factor = factor_of(at, expert, met(density), matches)
        if density < 1 and takes(vector):
            drop(vector, drawn(at, expert, vector.numel()), round(met(density) * STEPS), factor)
        elif density < 1:  # on a GPU
            mask = kept(at, expert, vector.numel(), density).to(vector.device).view(vector.shape)
            vector.mul_(mask if factor == 1 else mask.mul_(factor))
        elif factor != 1:
            vector.mul_(factor)
    return vectors


def measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[Dare]) -> list[float] | None:
    """What brings each task vector's sum of magnitudes back to what it was, where that is wanted."""
    densities = at.each(at.structure.density)

    def masked(expert: int, magnitudes: Tensor, here: At[Dare]) -> Tensor:
        return magnitudes * kept(here, expert, magnitudes.numel(), densities[expert])

    return norm_matches(base, tuned, at, masked) if at.structure.rescale == "norm" else None


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
    sliced=always,
    measure=measure,
    row_error=one_per_expert,
)

DARE_TIES = Method(
    name="dare_ties",
    summary="Drop entries at random and rescale, then elect signs and average as in TIES.",
    paper="Language Models are Super Mario (DARE), arXiv 2311.03099",
    needs_base=True,
    linear=False,
    structure=DareTies,
    directions=dropped,
    combine=elect_and_average,
    keeps_directions=True,
    sliced=always,
    measure=measure,
    row_error=one_per_expert,
)
