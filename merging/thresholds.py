"""Find the exact k-th largest magnitude of a whole model, reading it piece by piece."""

from collections.abc import Iterable

import torch
from torch import Tensor

_HALF = 1 << 16
_BINS = _HALF // 2  # the sign bit of a magnitude is zero


def histogram(magnitudes: Iterable[Tensor]) -> Tensor:
    """How many entries have each upper half of the bit pattern: int64 of 32768 bins.

    `magnitudes` are float32 pieces without negative entries. Such floats are ordered as their bits are when
    read as whole numbers, so bins are in order of size.
    """
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for piece in magnitudes:
        counts += torch.bincount(_bits(piece) >> 16, minlength=_BINS)
    return counts


def kth_largest_of(k: int, upper: Tensor, again: Iterable[Tensor]) -> float:
    """The k-th largest entry, exactly, k counted from 1; `upper` is the histogram of the same pieces.

    The second reading looks only into the one bin that the entry is in. Raises `ValueError` where there are
    fewer than k entries.
    """
    total = int(upper.sum())
    if not 1 <= k <= total:
        raise ValueError(f"k must be between 1 and the {total} entries there are, but is {k}")
    top, k = _descend(upper, k)
    lower = torch.zeros(_HALF, dtype=torch.int64)
    for piece in again:
        bits = _bits(piece)
        inside = bits[(bits >> 16) == top]
        lower += torch.bincount(inside & (_HALF - 1), minlength=_HALF)
    bottom, _ = _descend(lower, k)
    return torch.tensor(top * _HALF + bottom, dtype=torch.int32).view(torch.float32).item()


def _bits(piece: Tensor) -> Tensor:
    return piece.flatten().view(torch.int32)


def _descend(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th entry from the top, and which one it is inside that bin."""
    from_top = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, k))
    above = int(from_top[position - 1]) if position else 0
    return len(counts) - 1 - position, k - above
