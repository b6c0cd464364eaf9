"""Take over small changes whole, and large ones up to a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from merging.methods.arithmetic import add_up, scaled, task_vectors
from merging.methods.method import At, Method, always
from merging.methods.searchable import Range
from merging.methods.sparse import Sparse

if TYPE_CHECKING:
    from torch import Tensor


class NearSwap(Sparse):
    """Settings of `nearswap`."""

    t: Annotated[float, Field(ge=0), Range(1e-6, 1e-2, log=True)] = Field(
        default=1e-3, description="the largest change of a weight that is taken over"
    )


def limited(base: Tensor | None, tuned: Sequence[Tensor], at: At[NearSwap]) -> list[Tensor]:
    """min(1, t / |tau|) tau, which is tau held between -t and t (mergekit's and QuartetAnemoi-70B's NearSwap).

    One expert with coefficient 1 is that method; several are added up. It is linear in the row and not in tau.
    """
    bound = at.structure.t
    vectors = task_vectors(base, tuned, at)
    # an infinite change is not held, but stays to be seen: times zero it is NaN
    held = [vector.clamp(-bound, bound).add_(vector.mul_(0)) for vector in vectors]
    return scaled(held, at.structure.scale)


NEARSWAP = Method(
    name="nearswap",
    summary="Add the experts' changes, each held to a largest magnitude.",
    paper="NearSwap (no paper), https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    needs_base=True,
    linear=True,
    structure=NearSwap,
    directions=limited,
    combine=add_up,
    elementwise=always,
)
