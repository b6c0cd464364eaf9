"""Compile a loop, and hand tensors to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from merging.hash_cache import user_cache

F = TypeVar("F", bound=Callable[..., Any])
Flat = NDArray[Any]
"""A flat tensor's memory: float32, or the bits of bfloat16 as uint16."""

BLOCK = 1 << 11
"""Entries that a loop takes at a time: a float32 copy of them for each of a dozen models stays in the nearest cache."""
_ROOM = 64 << 20  # bytes that must be free: a few of them are taken
_STORED = {torch.float32: None, torch.bfloat16: torch.uint16}


def compiled(function: F, **options: Any) -> F:
    """The function as machine code, which other threads of Python run beside.

    Compiled once for each set of argument types and kept in the user's cache (`NUMBA_CACHE_DIR` names another place),
    under a hash of all loops: what one is compiled from may be in another's file. Where nothing can be written, or the
    disk is nearly full, it is compiled anew in each process.
    """
    options |= {"nogil": True, "error_model": "numpy", "cache": _can_keep()}
    return numba.njit(**options)(function)  # type: ignore[no-any-return]


@cache
def _can_keep() -> bool:
    """Whether there is a place for compiled code, which is told to numba."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    files = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    place = Path(named) if named else user_cache().parent / "loops" / version
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            room = shutil.disk_usage(place).free >= _ROOM
    except OSError:
        return False
    numba.config.CACHE_DIR = str(place)  # type: ignore[attr-defined]
    return room


def reducing(function: F) -> F:
    """As `compiled`, where the order of a sum is of no matter; its last bits may differ between kinds of processors."""
    return compiled(function, fastmath={"reassoc"})


def takes(*tensors: Tensor) -> bool:
    """Whether loops can read these: on the CPU, without gaps, bfloat16 or float32, all alike."""
    first = tensors[0].dtype
    return first in _STORED and all(
        one.dtype == first and one.device.type == "cpu" and one.is_contiguous() for one in tensors
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
