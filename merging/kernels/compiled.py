"""Compile a loop, and hand tensors to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from merging.errors import MergeError
from merging.kernels.kept_loops import KeptLoops
from merging.methods.method import Write

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise MergeError("merging needs numba to compile its loops, but NUMBA_DISABLE_JIT is set; unset it.")

F = TypeVar("F", bound=Callable[..., Any])
Flat = NDArray[Any]
"""A flat tensor's memory: float32, or the bits of bfloat16 as uint16."""

BLOCK = 1 << 11
"""Entries that a loop takes at a time: a float32 copy of them for each of a dozen models stays in the nearest cache."""
MOST = 16
"""Models that a loop reads at once: compiling one for more takes longer than most merges."""
_STORED = {torch.float32: None, torch.bfloat16: torch.uint16}


def compiled(function: F, **options: Any) -> F:
    """The function as machine code, which other threads of Python run beside.

    Compiled once for each set of argument types, and kept (see `KeptLoops`).
    """
    loop = numba.njit(nogil=True, error_model="numpy", **options)(function)
    loop._cache = KeptLoops(function)
    return loop  # type: ignore[no-any-return]


def reducing(function: F) -> F:
    """As `compiled`, where the order of a sum is of no matter; its last bits may differ between kinds of processors."""
    return compiled(function, fastmath={"reassoc"})


def takes(*tensors: Tensor) -> bool:
    """Whether loops can read these: on the CPU, without gaps, bfloat16 or float32, all alike, and not too many."""
    first = tensors[0].dtype
    return (
        first in _STORED
        and len(tensors) <= MOST
        and all(one.dtype == first and one.device.type == "cpu" and one.is_contiguous() for one in tensors)
    )


def can_store(dtype: torch.dtype) -> bool:
    """Whether loops can write it."""
    return dtype in _STORED


def flat(tensor: Tensor) -> Flat:
    """The tensor's own memory, as `takes` has allowed."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dim() != 1:
        tensor = tensor.view(-1)
    stored = _STORED[tensor.dtype]
    return (tensor if stored is None else tensor.view(stored)).numpy()


def flats(tensors: Sequence[Tensor]) -> tuple[Flat, ...]:
    """That of several, for loops that take any number of them."""
    return tuple(flat(one) for one in tensors)


def writing(loop: Callable[..., Any], base: Tensor | None, models: Sequence[Tensor], *settings: Any) -> Write:
    """What has a loop write some entries: of the base, where there is one, the models, the settings, and a target."""
    bases, others = flats([] if base is None else [base]), flats(models)

    def write(start: int, stop: int, out: Tensor) -> bool:
        origin, here = (tuple(one[start:stop] for one in several) for several in (bases, others))
        return bool(loop(*origin, here, *settings, flat(out)))

    return write


def float32s(numbers: Sequence[float]) -> tuple[np.float32, ...]:
    """Numbers as loops take them. Those that are too large are infinite, and what is made of them is refused."""
    with np.errstate(over="ignore"):
        return tuple(map(np.float32, numbers))


def wide(stored: Any) -> Any:
    """In a loop: the float32 of an entry as it is stored."""
    raise NotImplementedError  # only compiled


@overload(wide)
def _wide(stored: Any) -> Any:
    def widened(stored: Any) -> Any:
        return np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)

    def same(stored: Any) -> Any:
        return stored

    return widened if stored == numba.types.uint16 else same


def put(out: Any, place: Any, number: Any) -> Any:
    """In a loop: store a float32, rounded to the nearest, ties to even. Returns its magnitude's bits (see `fits`)."""
    raise NotImplementedError  # only compiled


@overload(put)
def _put(out: Any, place: Any, number: Any) -> Any:  # noqa: ARG001
    def rounded(out: Any, place: Any, number: Any) -> Any:
        bits = np.float32(number).view(np.uint32)
        near = np.uint32(bits + np.uint32(0x7FFF) + np.uint32((bits >> np.uint32(16)) & np.uint32(1)))
        out[place] = np.uint16(near >> np.uint32(16))  # a NaN may become anything
        return np.int32(bits & np.uint32(0x7FFFFFFF))

    def same(out: Any, place: Any, number: Any) -> Any:
        out[place] = number
        return np.int32(np.float32(number).view(np.uint32) & np.uint32(0x7FFFFFFF))

    return rounded if out.dtype == numba.types.uint16 else same


def fits(most: Any, out: Any) -> Any:
    """In a loop: whether the largest of what `put` returned is finite as it is stored."""
    raise NotImplementedError  # only compiled


@overload(fits)
def _fits(most: Any, out: Any) -> Any:  # noqa: ARG001
    def below_rounding(most: Any, out: Any) -> Any:  # noqa: ARG001
        return most < 0x7F7F8000

    def below_infinity(most: Any, out: Any) -> Any:  # noqa: ARG001
        return most < 0x7F800000

    return below_rounding if out.dtype == numba.types.uint16 else below_infinity
