"""Drop entries at random, the smaller of a row more often, then elect and average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from merging.frozen import Frozen
from merging.methods.arithmetic import elect_and_average, task_vectors
from merging.methods.method import At, Method
from merging.pieces import CHUNK

if TYPE_CHECKING:
    from torch import Tensor


class Della(Frozen):
    """Settings of `della`. The defaults are the authors' example: drop rate 0.3, window 0.14."""

    density: float = Field(default=0.7, gt=0, le=1, description="mean chance of an entry to be kept")
    epsilon: float = Field(default=0.14, ge=0, lt=1, description="chance of a row's largest entry less its smallest's")

    @model_validator(mode="after")
    def _chances_stay_chances(self) -> Della:
        low, high = self.density - self.epsilon / 2, self.density + self.epsilon / 2
        # one part in a billion of slack, for 0.9 + 0.2 / 2
        if low <= 0 or high > 1 + 1e-9:
            widest = 2 * min(self.density, 1 - self.density)
            raise ValueError(
                f"density -/+ epsilon/2 must be above 0 and at most 1, but is {low:g} to {high:g}; "
                f"at density {self.density:g} epsilon can be at most {widest:g}"
            )
        return self


def sampled(base: Tensor | None, tuned: Sequence[Tensor], at: At[Della]) -> list[Tensor]:
    """m * tau / p with m ~ Bernoulli(p), p rising with |tau|'s rank in its row (arXiv 2406.11617, section 3).

    The chance to be kept rises linearly from density - epsilon/2 for a row's smallest entry to density +
    epsilon/2 for its largest, so that its mean is the density: epsilon is the whole window, the authors'
    `window_size` (the `epsilon` of mergekit and of the authors' own configs is half of it). Equal magnitudes
    are ranked by position. A row is the first index of a matrix; a tensor of one dimension is one row.
    Dividing by p leaves the mean over masks at tau.
    """
    vectors = task_vectors(base, tuned, at)
    for position, vector in enumerate(vectors):
        if vector.numel() == 0:
            continue
        generator = at.generator(position)
        rows = vector.view(vector.shape[0], -1) if vector.ndim > 1 else vector.view(1, -1)
        height = max(1, CHUNK // rows.shape[1])
        for top in range(0, rows.shape[0], height):
            block = rows[top : top + height]
            chances = _chances(block.abs(), at.structure)
            draw = block.new_empty(block.shape).uniform_(generator=generator)
            block.mul_(draw < chances).div_(chances)
    return vectors


def _chances(magnitudes: Tensor, structure: Della) -> Tensor:
    """The chance of each entry to be kept, by its rank in its row."""
    length = magnitudes.shape[1]
    if length == 1:
        return magnitudes.new_full(magnitudes.shape, structure.density)
    order = magnitudes.argsort(stable=True, dim=1)
    ramp = magnitudes.new_ones(length).cumsum(0).sub_(1).mul_(structure.epsilon / (length - 1))
    ramp.add_(structure.density - structure.epsilon / 2)
    return magnitudes.new_empty(magnitudes.shape).scatter_(1, order, ramp.expand_as(magnitudes))


DELLA = Method(
    name="della",
    summary="Drop entries at random by their rank in each row, rescale, then elect signs and average.",
    paper="DELLA-Merging, arXiv 2406.11617",
    needs_base=True,
    linear=False,
    structure=Della,
    directions=sampled,
    combine=elect_and_average,
    keeps_directions=True,
)
