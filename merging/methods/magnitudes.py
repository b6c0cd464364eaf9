"""Which entries of a task vector are among its largest: found once for a tensor, applied to any slice of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods.whole_model import WholeModel
from merging.pieces import CHUNK, pieces

if TYPE_CHECKING:
    from torch import Tensor

    from merging.selection import Band, Bits


@dataclass(frozen=True)
class Cut:
    """Where the kept entries end: at a magnitude and, among those equal to it, before a place in memory order.

    `until` is None where all that are equal are kept.
    """

    value: float
    until: int | None = None

    def kept(self, vector: Tensor, start: int = 0, out: Tensor | None = None) -> Tensor:
        """A new tensor, or `out`, with zeros for what is smaller. NaN is kept.

        `vector` is a slice of the flattened tensor from `start` on, or all of it in any shape; it may be `out`.
        """
        import torch

        made = vector.new_empty(vector.shape) if out is None else out
        for part, target, bound in self._parts(vector, made, start):
            torch.ops.aten.hardshrink.out(part, bound, out=target)
        return made

    def mask(self, numbers: Tensor, start: int = 0) -> Tensor:
        """The same tensor, of numbers that are not negative, with 1.0 for what is kept and 0.0 for what is smaller."""
        for part, _, bound in self._parts(numbers, numbers, start):
            part.gt_(bound)
        return numbers

    def _parts(self, numbers: Tensor, made: Tensor, start: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Parts of both, flattened, and the bound that kept entries are above."""
        size = numbers.numel()
        place = size if self.until is None else min(max(self.until - start, 0), size)
        flat, target = numbers.view(-1), made.view(-1)
        if place:
            yield flat[:place], target[:place], _below(self.value)
        if place < size:
            yield flat[place:], target[place:], self.value


def _below(value: float) -> float:
    """The next smaller float32; below zero is a bound that keeps everything."""
    if value == 0:
        return -1.0
    import numpy as np

    return float(np.nextafter(np.float32(value), np.float32(0)))


def cuts(base: Tensor, tuned: Sequence[Tensor], ranks: Sequence[Sequence[int]], *, exactly: bool) -> list[list[Cut]]:
    """For each expert and each of its ranks k, where the k largest entries of its task vector end; one reading.

    Tensors are as they are stored. `exactly`: of entries as large as the k-th those that come first are kept, so that k
    are; otherwise all are.
    """
    from merging.selection import bands_around, bits_of, sample_size, stride

    if not any(ranks):
        return [[] for _ in ranks]
    total = base.numel()
    every = stride(total, sample_size(total))
    few = base.view(-1)[::every].float()
    samples = [bits_of((expert.view(-1)[::every].float() - few).abs_().cpu()) for expert in tuned]
    bands = [bands_around(some, total, sample) for some, sample in zip(ranks, samples, strict=True)]
    readers = [_reader(base, expert) for expert in tuned]
    for start in range(0, total, CHUNK):
        for read, several in zip(readers, bands, strict=True):
            if several:
                bits = read(start)  # in the cache when it is counted
                for band in several:
                    band.count(bits)
    return [
        [cut(k, band, total, read, exactly=exactly) for k, band in zip(some, several, strict=True)]
        for read, some, several in zip(readers, ranks, bands, strict=True)
    ]


def _reader(base: Tensor, expert: Tensor) -> Callable[[int], Bits]:
    """What gives the bits of |task vector|, of `CHUNK` entries from a place on; overwritten by the next."""
    import torch

    from merging.kernels.compiled import takes
    from merging.kernels.counting import bits_of_magnitudes
    from merging.selection import bits_of

    if takes(base) and takes(expert):
        return bits_of_magnitudes(expert, base, CHUNK)
    buffer = torch.empty(min(base.numel(), CHUNK))

    def read(start: int) -> Bits:
        origin = base.view(-1)[start : start + CHUNK].cpu().float()
        return bits_of(buffer[: origin.numel()].copy_(expert.view(-1)[start : start + CHUNK]).sub_(origin).abs_())

    return read


def cut(rank: int, band: Band, total: int, read: Callable[[int], Bits], *, exactly: bool = True) -> Cut:
    """Where the `rank` largest of `total` numbers end, that are not negative and were counted by the band.

    `read(start)` gives the bits of up to `CHUNK` of them from there on, once more.
    """
    import numpy as np

    from merging.selection import bits_of_value, by_histogram

    starts = range(0, total, CHUNK)
    one = band.found(rank)
    last = one or by_histogram(rank, lambda: map(read, starts))
    left = rank - last.larger
    if not exactly or left >= last.equal:
        return Cut(last.value)
    number, left = band.home(last, left) if one is not None else (0, left)
    for start in starts[number:]:
        equal = np.flatnonzero(read(start) == bits_of_value(last.value))
        if left <= len(equal):
            return Cut(last.value, start + int(equal[left - 1]) + 1)
        left -= len(equal)
    raise RuntimeError("numbers must be the same in every reading, but are not; this is a fault of mergeopt")


def magnitudes(base: Tensor, expert: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """|task vector| in float32 on the CPU, piece by piece."""
    for origin, tuned in zip(pieces(base, size), pieces(expert, size), strict=True):
        yield _magnitude(tuned.cpu(), origin.cpu())


def whole_model_ends(whole: WholeModel, densities: Sequence[float]) -> tuple[float | None, ...]:
    """For each expert the smallest magnitude that it keeps of its whole task vector; None where it keeps all.

    Two readings of the models for all experts, of which the first looks at few entries only.
    """
    from merging.methods.arithmetic import kept_count
    from merging.selection import found_in_all

    wanted = [number for number, density in enumerate(densities) if density < 1]

    def score(parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """One after the other, so that each is still in the cache when it is looked at."""
        return (_magnitude(parts[1 + number], parts[0]) for number in wanted)

    if not wanted:
        return (None,) * len(densities)
    found = found_in_all(
        lambda: together(whole), score, lambda total: [[kept_count(densities[number], total)] for number in wanted]
    )
    ends = dict(zip(wanted, found, strict=False))
    return tuple(ends[number][0].value if number in ends else None for number in range(len(densities)))


def _magnitude(expert: Tensor, base: Tensor) -> Tensor:
    from merging.kernels.compiled import takes
    from merging.kernels.counting import magnitude

    return magnitude(expert, base) if takes(expert) and takes(base) else (expert.float() - base.float()).abs_()


def together(whole: WholeModel) -> Iterator[list[Tensor]]:
    """The same piece of the base and of each expert, one after the other; one reading."""
    from merging.methods.arithmetic import present

    return ([present(base), *tuned] for base, tuned in whole.pieces())


def slices(base: Tensor | None, tuned: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The same of one tensor, on the CPU."""
    from merging.methods.arithmetic import present

    return ([part.cpu() for part in parts] for parts in zip(*map(pieces, (present(base), *tuned)), strict=True))
