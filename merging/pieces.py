"""Cut a tensor into pieces that stay in a processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 18
"""Entries in a piece: a few float32 copies of it fit the cache, and calls cost little beside their arithmetic."""

PIECE = 1 << 19
"""Entries in a piece of what is made without copies of its sources: large enough that calls cost nothing."""


def pieces(tensor: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """Views of `size` entries of the flattened tensor, in memory order."""
    flat = tensor.view(-1)
    for start in range(0, flat.numel(), size):
        yield flat[start : start + size]
