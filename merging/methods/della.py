"""Drop entries at random, the smaller of a row more often, then elect and average or add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from merging.methods.arithmetic import add_up, elect_and_average, task_vectors
from merging.methods.draws import STEPS, drawn, draws
from merging.methods.method import At, Method, always
from merging.methods.norm_match import norm_matches
from merging.methods.rows import row_length
from merging.methods.searchable import Range
from merging.methods.sparse import Elected, Rescaled, Shares, Sparse, one_per_expert
from merging.pieces import CHUNK, pieces

if TYPE_CHECKING:
    from torch import Tensor

Window = Annotated[float, Field(ge=0, lt=1)]
_MOST_BINS = 1 << 20  # of all rows that are ranked together: rows may be short


class DellaLinear(Rescaled, Sparse):
    """Settings of `della_linear`. The defaults are the authors' example: drop rate 0.3, window 0.14."""

    density: Annotated[Shares, Range(0.1, 0.9, log=True)] = Field(
        default=0.7, description="mean chance of an entry to be kept; one number, or one per expert"
    )
    epsilon: Annotated[Window | tuple[Window, ...], Range(0.0, 0.18)] = Field(
        default=0.14,
        description="chance of a row's largest entry less its smallest's, half of that with `compat: mergekit`; "
        "one number, or one per expert",
    )
    as_mergekit: ClassVar = {"rescale": "norm"}

    def windows(self, experts: int) -> list[tuple[float, float]]:
        """For each expert the chance of a row's smallest entry, and how much larger that of its largest is."""
        densities, widths = (
            value if isinstance(value, tuple) else (value,) * experts for value in (self.density, self.epsilon)
        )
        factor = 2 if self.compat == "mergekit" else 1
        return [
            # what is kept anyway has no window, for mergekit
            (1.0, 0.0) if factor == 2 and density == 1 else (density - factor * width / 2, factor * width)
            for density, width in zip(densities, widths, strict=False)
        ]

    @model_validator(mode="after")
    def _chances_stay_chances(self) -> DellaLinear:
        longest = max(len(value) if isinstance(value, tuple) else 1 for value in (self.density, self.epsilon))
        for low, width in self.windows(longest):
            # one part in a billion of slack, for 0.9 + 0.2 / 2
            if low <= 0 or low + width > 1 + 1e-9:
                density = low + width / 2
                rule, widest = "density -/+ epsilon/2", 2 * min(density, 1 - density)
                if self.compat == "mergekit":
                    rule, widest = "density -/+ epsilon", widest / 2
                raise ValueError(
                    f"{rule} must be above 0 and at most 1, but is {low:g} to {low + width:g}; "
                    f"at density {density:g} epsilon can be at most {widest:g}"
                )
        return self


class Della(Elected, DellaLinear):
    """Settings of `della`."""

    as_mergekit: ClassVar = {"rescale": "norm", "average": "weights"}


def sampled(base: Tensor | None, tuned: Sequence[Tensor], at: At[DellaLinear]) -> list[Tensor]:
    """m * tau / p with m ~ Bernoulli(p), p rising with |tau|'s rank in its row (arXiv 2406.11617, section 3).

    The chance to be kept rises linearly from density - epsilon/2 for a row's smallest entry to density +
    epsilon/2 for its largest, so that its mean is the density: epsilon is the whole window, the authors'
    `window_size` (the `epsilon` of mergekit and of the authors' own configs is half of it). A row is the first index
    of a matrix; a tensor of one dimension is one row. Dividing by p leaves the mean over masks at tau.

    Ranks are counted, not sorted: magnitudes are compared by their first 6 significant bits, those equal in them share
    their mean rank, and so do all below 2^-16 of the row's largest. In a row of normal numbers that moves a rank by
    about 1 % of the row at most, and a chance by 0.01 epsilon; the mean of the chances stays the density.
    Chances are rounded to one part in 2^16, and what is kept is divided by the rounded one.
    """
    vectors = task_vectors(base, tuned, at)
    seen = at.measured or measure(base, tuned, at)
    settings = at.structure
    inverse = settings.rescale == "inverse"
    for expert, vector in enumerate(vectors):
        factor = settings.scale * (seen.factors[expert] if seen.factors else 1.0) * (STEPS if inverse else 1)
        _thin(vector, at, expert, seen.length, inverse=inverse, factor=factor)
    return vectors


@dataclass(frozen=True)
class Seen:
    """What slices must know of a tensor: how long its rows are, and what brings back the sums of its magnitudes."""

    length: int
    factors: tuple[float, ...] = ()


def measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[DellaLinear]) -> Seen:
    length = row_length(at.structure, tuned[0].shape)
    if at.structure.rescale != "norm" or tuned[0].numel() == 0:
        return Seen(length)

    def masked(expert: int, magnitudes: Tensor, here: At[DellaLinear]) -> Tensor:
        return _thin(magnitudes.clone(), here, expert, length, inverse=False, factor=1.0)

    whole_rows = max(1, CHUNK // length) * length
    return Seen(length, tuple(norm_matches(base, tuned, at, masked, whole_rows)))


def _thin(vector: Tensor, at: At[DellaLinear], expert: int, length: int, *, inverse: bool, factor: float) -> Tensor:
    """Whole rows, in place: entries that are kept times the factor, over p * STEPS with `inverse`, and zeros."""
    from merging.kernels.compiled import takes
    from merging.kernels.dropping import drop_by_rank

    low, width = (chance * STEPS for chance in at.structure.windows(len(at.experts))[expert])
    if vector.numel() and takes(vector):
        numbers = drawn(at, expert, vector.numel())
        drop_by_rank(vector, numbers, length, (low, width), inverse=inverse, factor=factor)
    elif vector.numel():
        _thin_elsewhere(vector, draws(at, expert, vector.numel()), length, (low, width), inverse=inverse, factor=factor)
    return vector


def _thin_elsewhere(
    vector: Tensor, numbers: Tensor, length: int, chances: tuple[float, float], *, inverse: bool, factor: float
) -> None:
    """The same on a GPU."""
    from merging.kernels.dropping import BINS

    size = max(1, _MOST_BINS // BINS) * length
    for part, drawn_here in zip(pieces(vector, size), pieces(numbers.to(vector.device), size), strict=True):
        chance = _chances(part.abs().view(-1, length), *chances).view(-1)
        mask = drawn_here.lt_(chance)
        part.mul_((mask.div_(chance) if inverse else mask).mul_(factor))


def _chances(magnitudes: Tensor, low: float, width: float) -> Tensor:
    """From `low` for the smallest entry of a row to `low + width` for its largest, by rank; overwrites the magnitudes.

    Rounded to whole numbers, which is what draws can be told apart by.
    """
    import torch

    from merging.kernels.dropping import BINS, SIGNIFICANT

    height, length = magnitudes.shape
    if length == 1 or width == 0:
        return magnitudes.fill_(max(1, round(low + width / 2)))
    bins = magnitudes.view(torch.int32)
    bins >>= 24 - SIGNIFICANT
    lowest = bins.amax(1, keepdim=True).sub_(BINS - 1)
    torch.maximum(bins, lowest, out=bins)
    first = torch.arange(0, height * BINS, BINS, dtype=torch.int32, device=bins.device).unsqueeze(1)
    flat = bins.add_(first - lowest).view(-1)
    counts = torch.bincount(flat, minlength=height * BINS).view(height, BINS)
    # the mean of each bin's ranks, which count from 0, is half a bin and a half below the end of the bin
    step = width / (length - 1)
    table = counts.cumsum(1).float().sub_(counts.float(), alpha=0.5).mul_(step).add_(low - step / 2).round_()
    if low < 1:
        table.clamp_(min=1)
    return table.view(-1).index_select(0, flat).view(height, length)


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
    sliced=always,
    measure=measure,
    unit=row_length,
    row_error=one_per_expert,
)

DELLA_LINEAR = Method(
    name="della_linear",
    summary="Drop entries at random by their rank in each row, rescale the rest, add the weighted sum to the base.",
    paper="DELLA-Merging, arXiv 2406.11617",
    needs_base=True,
    linear=True,
    structure=DellaLinear,
    directions=sampled,
    combine=add_up,
    keeps_directions=True,
    sliced=always,
    measure=measure,
    unit=row_length,
    row_error=one_per_expert,
)
