"""One tensor of a merged model: what it is made from, and how."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from merging.errors import MergeError
from merging.heap import keep_freed_memory
from merging.kernels.compiled import can_store, takes
from merging.kernels.sums import can_sum, store, writer
from merging.methods import At, Method
from merging.methods.gram import gram_of, gram_of_sum
from merging.methods.method import Combine, Write
from merging.pieces import CHUNK, PIECE, pieces

Read = Callable[[], Tensor]
"""A tensor as it is stored, read when it is needed; never written to."""
Make = Callable[[Tensor], bool]
"""Writes some entries of the result where it is told to, and says whether all are finite there."""
Room = Callable[[int, int], Tensor]
"""Where the entries from the first number up to the second are to be put: flat, of the step's dtype, on the CPU."""
_INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}  # its bits
_GPU_CHUNK = 1 << 25  # entries in a piece on a GPU, which has no use for small ones


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

    @property
    def memory(self) -> int:
        """About how many bytes it takes to make, sources and result aside; 0 where it is made piece by piece."""
        if self.method is None or self.at is None:
            return 0
        together = math.prod(self.shape)
        if _is_piecewise(self.method, self.at):
            size = _piece_of(self.method, self.at, self.shape)
            if size <= CHUNK:
                return 0
            together = min(together, size)
        return 4 * together * (len(self.tuned) + 2)

    def into(self, out: Tensor, directions: Sequence[Tensor] | None = None) -> None:
        """Make the tensor, cast once into `out`, in pieces that fit the cache as far as the method allows.

        `out` has the step's shape, and is contiguous. `directions` are the method's own for this place, where they were
        kept: the bits are the same. Raises `MergeError` where the tensor is not finite; `out` is then undefined.
        """
        flat = out.view(-1)
        for _ in self.filled(lambda start, stop: flat[start:stop], directions):
            pass

    def filled(
        self, room: Room, directions: Sequence[Tensor] | None = None, device: str = "cpu"
    ) -> Iterator[tuple[int, Tensor]]:
        """Make the tensor from its beginning on: where each piece starts, and the piece, cast once into `room`.

        A piece may be overwritten when the next is asked for. On another `device` the same arithmetic is done there, on
        large pieces. Raises `MergeError` where a piece is not finite.
        """
        keep_freed_memory()
        for start, stop, make in self._written(directions, device):
            target = room(start, stop)
            if not make(target):
                raise MergeError(self._broken())
            yield start, target

    def made(self) -> Tensor:
        """The tensor in memory of its own, which may be written to. Raises `MergeError` as `into` does."""
        out = torch.empty(self.shape, dtype=self.dtype)
        self.into(out)
        return out

    def _written(self, kept: Sequence[Tensor] | None, device: str) -> Iterator[tuple[int, int, Make]]:
        """Which entries come next, and what makes them."""
        if self.method is None or self.at is None:
            yield from _puts(0, self.tuned[0]().contiguous())
            return
        base = self.base().to(device).contiguous() if self.base is not None else None
        if kept is None:
            tuned = [read().to(device).contiguous() for read in self.tuned]
            total = self._sum(self.method, base, tuned, self.at)
            if total is not None:
                yield from self._writes(total)
                return
            if _is_piecewise(self.method, self.at):
                yield from _piecewise(self.method, base, tuned, self.at, self.dtype)
                return
            kept = self.method.directions(base, tuned, self.at)
            del tuned  # those that were made for this are gone before the result is
        at = self.method.settled(kept, self.at)
        write = _writer(self.method, base, [one.contiguous() for one in kept], at, self.dtype)
        if write is not None:
            yield from self._writes(write)
            return
        for start, part in _combined(self.method, base, kept, at):
            yield from _puts(start, part)

    def _writes(self, write: Write) -> Iterator[tuple[int, int, Make]]:
        size = math.prod(self.shape)
        for start in range(0, size, PIECE):
            stop = min(start + PIECE, size)
            yield start, stop, partial(write, start, stop)

    def _sum(self, method: Method, base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> Write | None:
        """What writes a weighted sum of stored tensors in one reading; None where the merge is not one."""
        total = method.weighted_sum(base, tuned, at) if can_store(self.dtype) else None
        if total is None or not can_sum(total):
            return None
        if method.law is not None:
            total = method.weighted_sum(base, tuned, method.ruled(gram_of_sum(total), at))
        return writer(total) if total is not None else None

    def _broken(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        if self.method is None or self.at is None:
            return (
                f"`{self.name}` is not merged and must be finite, but holds NaN or infinity as {dtype}; use a wider "
                "dtype, and check the model for broken weights."
            )
        broken = self._broken_sources()
        if broken:
            return (
                f"`{self.name}` must be finite in every model, but holds NaN or infinity in {', '.join(broken)}; save "
                "or download these weights again."
            )
        return (
            f"`{self.name}` must be finite, but `{self.method.name}` with coefficients {list(self.at.row)} gives NaN "
            f"or infinity as {dtype}; use smaller coefficients or a wider dtype."
        )

    def _broken_sources(self) -> list[str]:
        named = [("the base", self.base)] if self.base is not None else []
        experts = self.at.experts if self.at is not None else ()
        reads = [*named, *((f"`{expert}`", read) for expert, read in zip(experts, self.tuned, strict=False))]
        return [name for name, read in reads if not all(is_finite(piece) for piece in pieces(read().contiguous()))]


def take_into(out: Tensor, name: str, stored: Tensor) -> None:
    """A tensor that is not merged, cast into `out`. Raises `MergeError` where it is not finite there."""
    Step(name, tuple(out.shape), out.dtype, None, None, None, (lambda: stored,)).into(out)


def _writer(
    method: Method, base: Tensor | None, directions: Sequence[Tensor], at: At[Any], dtype: torch.dtype
) -> Write | None:
    """What writes the directions combined in one reading; None where no loop does."""
    if not isinstance(method.combine, Combine) or not can_store(dtype):
        return None
    return method.combine.writer(base, directions, at)


def _combined(
    method: Method, base: Tensor | None, directions: Sequence[Tensor], at: At[Any]
) -> Iterator[tuple[int, Tensor]]:
    """Directions of the whole tensor, combined piece by piece where the method allows it."""
    if not method.combines_slices:
        yield 0, method.combine(base, directions, at).contiguous()
        return
    start = 0
    for origin, parts in _sliced(base, directions):
        yield start, method.combine(origin, parts, at)
        start += parts[0].numel()


def _puts(start: int, part: Tensor) -> Iterator[tuple[int, int, Make]]:
    """What casts a part into its place, piece by piece."""
    for offset, piece in enumerated(part):
        yield start + offset, start + offset + piece.numel(), partial(_put, piece)


def _put(piece: Tensor, target: Tensor) -> bool:
    if takes(piece) and takes(target):
        return store(piece, target)
    target.copy_(piece)
    return is_finite(target)


def enumerated(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The pieces of a tensor, and where each starts."""
    start = 0
    for piece in pieces(tensor):
        yield start, piece
        start += piece.numel()


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in it."""
    if tensor.numel() == 0 or not tensor.dtype.is_floating_point:
        return True
    first = _INFINITY.get(tensor.dtype)
    if first is not None and tensor.device.type == "cpu":
        # as whole numbers, infinity and all NaN come last: among the positive ones, and with a sign among all
        bits = tensor.view(torch.int16).numpy()
        return bool(bits.max() < first and bits.view("uint16").max() < first | 0x8000)
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    if math.isfinite(tensor.sum(dtype=wide).item()):  # NaN and infinity stay in any sum; this is twice as fast
        return True
    low, high = tensor.aminmax()  # a NaN anywhere makes both NaN; the sum of finite entries may be infinite
    return math.isfinite(low.item()) and math.isfinite(high.item())


def _is_piecewise(method: Method, at: At[Any]) -> bool:
    return method.elementwise(at.structure) or method.sliced(at.structure)


def _piecewise(
    method: Method, base: Tensor | None, tuned: Sequence[Tensor], at: At[Any], dtype: torch.dtype
) -> Iterator[tuple[int, int, Make]]:
    """A method that may be called on slices: directions of one piece at a time, made twice where there is a law."""
    if not tuned[0].numel():
        return
    chunk = CHUNK if tuned[0].device.type == "cpu" else _GPU_CHUNK
    size = _piece_of(method, at, tuned[0].shape, chunk)
    if not method.elementwise(at.structure):
        at = method.measured_at(base, tuned, at)

    def made() -> Iterator[tuple[int, Tensor | None, list[Tensor]]]:
        start = 0
        for origin, models in _sliced(base, tuned, size):
            wide = origin if origin is None or takes(origin) else origin.float()
            yield start, wide, method.directions(wide, models, replace(at, start=start))
            start += models[0].numel()

    if method.law is not None:
        at = method.ruled(gram_of(directions for _, _, directions in made()), at)
    for start, origin, directions in made():
        here = replace(at, start=start)
        write = _writer(method, origin, directions, here, dtype)
        if write is None:
            yield from _puts(start, method.combine(origin, directions, here))
        else:
            stop = start + directions[0].numel()
            yield start, stop, partial(write, 0, stop - start)


def _piece_of(method: Method, at: At[Any], shape: Sequence[int], chunk: int = CHUNK) -> int:
    """How many entries a piece has: about `chunk`, and whole units of the method."""
    unit = max(1, method.unit(at.structure, shape))
    return max(unit, chunk // unit * unit)


def _sliced(
    base: Tensor | None, others: Sequence[Tensor], size: int = CHUNK
) -> Iterator[tuple[Tensor | None, Sequence[Tensor]]]:
    """The same piece of the base and of each other tensor, one after the other."""
    bases = pieces(base, size) if base is not None else repeat(None)
    yield from zip(bases, zip(*(pieces(one, size) for one in others), strict=True), strict=False)
