"""Which entries of a task vector are among its largest: found once for a tensor, applied to any slice of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods.whole_model import WholeModel
from merging.pieces import CHUNK, pieces

if TYPE_CHECKING:
    from torch import Tensor

    from merging.selection import Bits, Found


@dataclass(frozen=True)
class Cut:
    """Where the kept entries end: at a magnitude and, among those equal to it, before a place in memory order.

    `until` is None where all that are equal are kept.
    """

    value: float
    until: int | None = None

    def kept(self, vector: Tensor, start: int = 0) -> Tensor:
        """A new tensor with zeros for what is smaller; `vector` is a slice of the flattened tensor from `start` on,
        or all of it in any shape. NaN is kept.
        """
        if self.until is None:
            return larger(vector, _below(self.value))
        place = min(max(self.until - start, 0), vector.numel())
        if place == vector.numel():
            return larger(vector, _below(self.value))
        made = larger(vector, self.value)
        if place:
            made.view(-1)[:place] = larger(vector.view(-1)[:place], _below(self.value))
        return made


def larger(vector: Tensor, bound: float) -> Tensor:
    """A new tensor with zeros for all but the entries whose magnitude is above the bound."""
    from torch.nn.functional import hardshrink

    return hardshrink(vector, bound)


def _below(value: float) -> float:
    """The next smaller float32; below zero is a bound that keeps everything."""
    if value == 0:
        return -1.0
    import numpy as np

    return float(np.nextafter(np.float32(value), np.float32(0)))


def cuts(base: Tensor, expert: Tensor, ranks: Sequence[int], *, exactly: bool) -> list[Cut]:
    """For each rank k, where the k largest entries of the task vector end; tensors as they are stored.

    `exactly`: of entries as large as the k-th those that come first are kept, so that k are; otherwise all are.
    """

    from merging.selection import SAMPLE, bits_of, stride

    total = base.numel()
    step = stride(total, SAMPLE)
    few = expert.view(-1)[::step].float() - base.view(-1)[::step].float()
    sample = bits_of(few.abs_().cpu())
    return ends_of(ranks, total, sample, lambda: magnitudes(base, expert), exactly=exactly)


def ends_of(
    ranks: Sequence[int], total: int, sample: Bits, reading: Callable[[], Iterable[Tensor]], *, exactly: bool
) -> list[Cut]:
    """The same for any numbers that are not negative; `sample` are bits of some of those that are read."""
    from merging.selection import bits_of, found

    ends = found(ranks, total, sample, lambda: map(bits_of, reading()))
    return closed(ranks, ends, reading()) if exactly else [Cut(end.value) for end in ends]


def closed(ranks: Sequence[int], ends: Sequence[Found], reading: Iterable[Tensor]) -> list[Cut]:
    """Cuts that keep exactly so many entries; reads only where not all that are equal to the last one are kept."""
    wanted = [k - end.larger for k, end in zip(ranks, ends, strict=True)]
    parted = [number for number, end in enumerate(ends) if wanted[number] < end.equal]
    places = places_of([ends[number].value for number in parted], [wanted[number] for number in parted], reading)
    found = dict(zip(parted, places, strict=True))
    return [Cut(end.value, found.get(number)) for number, end in enumerate(ends)]


def places_of(values: Sequence[float], counts: Sequence[int], reading: Iterable[Tensor]) -> list[int]:
    """For each value, the place behind as many entries equal to it as its count says, in memory order."""
    import numpy as np

    places = [0] * len(values)
    left = list(counts)
    start = 0
    for piece in reading if values else ():
        entries = piece.numpy()
        for number, value in enumerate(values):
            if left[number] <= 0:
                continue
            here = entries == np.float32(value)
            count = int(np.count_nonzero(here))
            if count >= left[number]:
                places[number] = start + int(np.flatnonzero(here)[left[number] - 1]) + 1
            left[number] -= count
        start += len(entries)
        if max(left) <= 0:
            break
    return places


def magnitudes(base: Tensor, expert: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """|task vector| in float32 on the CPU, piece by piece; each piece is overwritten by the next."""
    import torch

    buffer = torch.empty(0)
    for origin, tuned in zip(pieces(base, size), pieces(expert, size), strict=True):
        if buffer.numel() != origin.numel():
            buffer = torch.empty(origin.numel())
        buffer.copy_(tuned)
        yield buffer.sub_(origin.cpu().float()).abs_()


def whole_model_ends(whole: WholeModel, densities: Sequence[float]) -> tuple[float | None, ...]:
    """For each expert the smallest magnitude that it keeps of its whole task vector; None where it keeps all.

    Two readings of the models for all experts, of which the first looks at few entries only.
    """
    from merging.methods.arithmetic import kept_count
    from merging.selection import found_in_all

    wanted = [number for number, density in enumerate(densities) if density < 1]

    def score(parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """One after the other, so that each is still in the cache when it is looked at."""
        origin = parts[0].float()
        return ((parts[1 + number].float() - origin).abs_() for number in wanted)

    if not wanted:
        return (None,) * len(densities)
    found = found_in_all(
        lambda: together(whole), score, lambda total: [[kept_count(densities[number], total)] for number in wanted]
    )
    ends = dict(zip(wanted, found, strict=False))
    return tuple(ends[number][0].value if number in ends else None for number in range(len(densities)))


def together(whole: WholeModel) -> Iterator[list[Tensor]]:
    """The same piece of the base and of each expert, one after the other; one reading."""
    from merging.methods.arithmetic import present

    return ([present(base), *tuned] for base, tuned in whole.pieces())


def slices(base: Tensor | None, tuned: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The same of one tensor, on the CPU."""
    from merging.methods.arithmetic import present

    return ([part.cpu() for part in parts] for parts in zip(*map(pieces, (present(base), *tuned)), strict=True))
