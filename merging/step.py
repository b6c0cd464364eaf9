"""One tensor of a merged model: what it is made from, and how."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from merging.errors import MergeError
from merging.methods import At, Method
from merging.pieces import pieces

Read = Callable[[], Tensor]
"""A tensor as it is stored, read when it is needed; never written to."""


@dataclass(frozen=True)
class Step:
    """A tensor of the result. Steps stand alone: they may be carried out in any order, or side by side.

    `method` merges what `base` and `tuned` read, all of `shape`, with the row and settings of `at`. Where it is None
    the one tensor of `tuned` is taken as it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    method: Method | None
    at: At[Any] | None
    base: Read | None
    tuned: tuple[Read, ...]

    def into(self, out: Tensor, directions: Sequence[Tensor] | None = None) -> None:
        """Make the tensor, cast once into `out`, in pieces that fit the cache as far as the method allows.

        `out` has the step's shape, and is contiguous. `directions` are the method's own for this place, where they were
        kept: the bits are the same. Raises `MergeError` where the tensor is not finite; `out` is then undefined.
        """
        if self.method is None or self.at is None:
            take_into(out, self.name, self.tuned[0]())
            return
        base = self.base() if self.base is not None else None
        if directions is None and self.method.elementwise(self.at.structure):
            for target, origin, models in _sliced(out, base, [read() for read in self.tuned]):
                target.copy_(self.method.merge(origin, models, self.at))
                _check_finite(target, self.method, self.at)
            return
        if directions is None:
            directions = self.method.directions(base, [read() for read in self.tuned], self.at)
        at = self.method.settled(directions, self.at)
        if not self.method.combines_slices:
            out.copy_(self.method.combine(base, directions, at))
            _check_finite(out, self.method, at)
            return
        for target, origin, parts in _sliced(out, base, directions):
            target.copy_(self.method.combine(origin, parts, at))
            _check_finite(target, self.method, at)

    def made(self) -> Tensor:
        """The tensor in memory of its own, which may be written to. Raises `MergeError` as `into` does."""
        out = torch.empty(self.shape, dtype=self.dtype)
        self.into(out)
        return out


def take_into(out: Tensor, name: str, stored: Tensor) -> None:
    """A tensor that is not merged, cast into `out`. Raises `MergeError` where it is not finite there."""
    out.copy_(stored)
    if out.dtype.is_floating_point and not _is_finite(out):
        raise MergeError(
            f"`{name}` is not merged and must be finite, but holds NaN or infinity as "
            f"{str(out.dtype).removeprefix('torch.')}; use a wider dtype, and check the model for broken weights."
        )


def _sliced(
    out: Tensor, base: Tensor | None, others: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None, Sequence[Tensor]]]:
    """The same piece of the target, the base and each other tensor, one after the other."""
    together = [pieces(tensor) for tensor in (out, *others)]
    bases = pieces(base) if base is not None else repeat(None)
    for (target, *parts), origin in zip(zip(*together, strict=True), bases, strict=False):
        yield target, origin, parts


def _check_finite(merged: Tensor, method: Method, at: At[Any]) -> None:
    if not _is_finite(merged):
        raise MergeError(
            f"`{at.tensor}` must be finite, but `{method.name}` with coefficients {list(at.row)} gives NaN or "
            f"infinity as {str(merged.dtype).removeprefix('torch.')}; use smaller coefficients or a "
            "wider dtype, and check the models for broken weights."
        )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = tensor.aminmax()  # a NaN anywhere makes both NaN
    return math.isfinite(low.item()) and math.isfinite(high.item())
