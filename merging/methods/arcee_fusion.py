"""Take over the changes of an expert that stand out, by size and by what they do to their row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from merging.methods.arithmetic import add_up, present, scaled, task_vectors
from merging.methods.method import At, Method
from merging.methods.searchable import Range
from merging.methods.sparse import Sparse

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-8  # added to every probability, as by mergekit


class ArceeFusion(Sparse):
    """Settings of `arcee_fusion`."""

    multiplier: Annotated[float, Range(0.5, 3)] = Field(
        default=1.5, description="how many interquartile ranges above the median a score must be"
    )


def outstanding(base: Tensor | None, tuned: Sequence[Tensor], at: At[ArceeFusion]) -> list[Tensor]:
    """tau where |tau| KL(softmax(row of theta) || softmax(row of theta_0)) is at least median + c (Q3 - Q1).

    Arcee Fusion, as mergekit has it (there is no paper). Rows run along the last dimension. Quartiles are those of the
    whole tensor, exactly: entries (n - 1)/4, (n - 1)/2 and 3(n - 1)/4, rounded down, in rising order. One expert with
    coefficient 1 is that method; several, each against the base, are added up. Linear in the row, not in tau.
    """
    origin = present(base).float()
    vectors = task_vectors(base, tuned, at)
    kept = []
    for vector, expert in zip(vectors, tuned, strict=True):
        if vector.numel() == 0:
            kept.append(vector)
            continue
        scores = _scores(vector, expert.float(), origin)
        kept.append(vector.mul_(scores.ge_(_threshold(scores, at.structure.multiplier))))
    return scaled(kept, at.structure.scale)


def _scores(vector: Tensor, expert: Tensor, origin: Tensor) -> Tensor:
    ours, theirs = (one.reshape(-1, one.shape[-1] if one.ndim else 1).softmax(-1) for one in (expert, origin))
    ours.add_(_EPSILON)
    divergence = theirs.add_(_EPSILON).reciprocal_().mul_(ours).log_().mul_(ours).sum(-1, keepdim=True)
    return (vector.reshape(divergence.shape[0], -1).abs() * divergence).view(vector.shape)


def _threshold(scores: Tensor, multiplier: float) -> float:
    from merging.selection import SAMPLE, found, signed_bits_of, stride

    size = scores.numel()
    bits = signed_bits_of(scores.cpu().contiguous())
    ranks = [size - int(share * (size - 1)) for share in (0.25, 0.5, 0.75)]
    low, middle, high = (one.value for one in found(ranks, size, bits[:: stride(size, SAMPLE)], lambda: [bits]))
    return middle + multiplier * (high - low)


ARCEE_FUSION = Method(
    name="arcee_fusion",
    summary="Add the changes of an expert that stand out from the tensor's others by a score.",
    paper="Arcee Fusion (no paper), https://github.com/arcee-ai/mergekit",
    needs_base=True,
    linear=True,
    structure=ArceeFusion,
    directions=outstanding,
    combine=add_up,
    keeps_directions=True,
)
