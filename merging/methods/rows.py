"""Which entries of a task vector are among the largest of their row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merging.methods.arithmetic import kept_count

if TYPE_CHECKING:
    from torch import Tensor


def row_length(structure: Any, shape: Sequence[int]) -> int:  # noqa: ARG001
    """How many entries a row has: a row is the first index of a matrix, or of a tensor of more dimensions; a tensor of
    one dimension is one row. As a method's `unit`.
    """
    size = math.prod(shape)
    return size // shape[0] if len(shape) > 1 and size else max(1, size)


def row_or_entry(structure: Any, shape: Sequence[int]) -> int:
    """The `unit` of methods that look at rows with `scope: row`, and at entries else."""
    return row_length(structure, shape) if structure.scope == "row" else 1


def kept_in_rows(vector: Tensor, length: int, density: float, dropped: float = 0.0) -> Tensor:
    """A new tensor with, in every row, only the largest `density` of what is left after the `dropped` share of the
    largest. At least one entry of a row stays; equal magnitudes are told apart by position, so that counts are exact.
    """
    if vector.numel() == 0:
        return vector.clone()
    rows = vector.view(-1, length)
    top = min(round(dropped * length), length - 1)
    kept = top_of_rows(rows.abs(), top + kept_count(density, length - top))
    kept.logical_xor_(top_of_rows(rows.abs(), top))
    return (rows * kept).view(vector.shape)


def top_of_rows(magnitudes: Tensor, k: int) -> Tensor:
    """True for exactly k entries of each row, the largest; among equals those that come first."""
    import torch

    if k == 0:
        return magnitudes.new_zeros(magnitudes.shape, dtype=torch.bool)
    length = magnitudes.shape[1]
    ends = magnitudes.kthvalue(length - k + 1, dim=1, keepdim=True).values
    mask = magnitudes > ends
    equal = magnitudes == ends
    return mask.logical_or_(equal.logical_and_(equal.cumsum(1) <= k - mask.sum(1, keepdim=True)))
