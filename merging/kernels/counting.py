"""Magnitudes of task vectors, and how many of them are above a bound, in one reading each."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.kernels.compiled import BLOCK, compiled, flat, wide


def magnitude(model: Tensor, base: Tensor) -> Tensor:
    """|model - base|, a new tensor, flat, in float32. Tensors as `takes` allows."""
    out = torch.empty(model.numel())
    _magnitude(flat(model), flat(base), flat(out))
    return out


def bits_of_magnitudes(model: Tensor, base: Tensor, size: int) -> Callable[[int], NDArray[np.int32]]:
    """What gives the bits of |model - base| in float32, of `size` entries from a place on; overwritten by the next."""
    one, other, out = flat(model), flat(base), np.empty(min(size, model.numel()), np.float32)

    def read(start: int) -> NDArray[np.int32]:
        here = one[start : start + size]
        there = out[: len(here)]
        _magnitude(here, other[start : start + size], there)
        return there.view(np.int32)

    return read


def around(
    bits: NDArray[np.int32], low: int, high: int, *, open_low: bool, open_high: bool
) -> tuple[NDArray[np.int32], int, int, int]:
    """What lies from `low` to `high`, in order; how many are above `high`, equal to it, and equal to `low`.

    Ends that are `open` do not count as between.
    """
    kept = np.empty(len(bits), np.int32)
    between, above, at_high, at_low = _around(bits, np.int32(low), np.int32(high), open_low, open_high, kept)
    return kept[:between].copy(), above, at_high, at_low


@compiled
def _magnitude(model: Any, base: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = abs(wide(model[i]) - wide(base[i]))


@compiled
def _around(bits: Any, low: Any, high: Any, open_low: Any, open_high: Any, kept: Any) -> Any:
    above: Any = 0
    at_high: Any = 0
    at_low: Any = 0
    between = 0
    inside = np.zeros(BLOCK, np.uint8)
    eights = inside.view(np.uint64)
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        some_above = some_high = some_low = np.int32(0)
        for i in range(block.size):
            bit = block[i]
            some_above += np.int32(bit > high)
            some_high += np.int32(bit == high)
            some_low += np.int32(bit == low)
        for i in range(block.size):
            inside[i] = np.uint8(block[i] >= low) & np.uint8(block[i] <= high)
        if open_low:
            for i in range(block.size):
                inside[i] &= np.uint8(block[i] != low)
        if open_high:
            for i in range(block.size):
                inside[i] &= np.uint8(block[i] != high)
        inside[block.size :] = 0
        above, at_high, at_low = above + some_above, at_high + some_high, at_low + some_low
        for eight in range(eights.size):
            if eights[eight]:  # few are
                for i in range(8 * eight, 8 * eight + 8):
                    if inside[i]:
                        kept[between] = block[i]
                        between += 1
    return between, above, at_high, at_low
