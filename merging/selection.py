"""Find the k-th largest of many numbers exactly, without sorting: a sample says where it is, one reading counts.

Numbers are float32, compared as their bits are when read as whole numbers: the order is the same, once the bits of
negative ones are turned around. NaN without a sign is larger than everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.kernels.counting import around
from merging.pieces import pieces
from merging.threads import torch_threads

Bits = NDArray[np.int32]

SAMPLE = 1 << 15
"""Entries of a large tensor that are looked at before all of it."""
_FEW = 1 << 12
_SHARE = 1 << 8  # of so many entries of a smaller one: each is a read of memory that is in no cache
_HEAVY = 0.002  # share of the sample that is equal
_HALF = 1 << 15
_SIGMAS = 5.0  # one band in two million misses its entry, and is then found by histogram


def kth_largest(magnitudes: Sequence[Tensor], ranks: Sequence[int]) -> list[float]:
    """For each rank k, from 1 to the number of entries, the k-th largest entry of all pieces, exactly.

    `magnitudes` are float32 and contiguous, any number of pieces of any shape.
    """
    total = sum(piece.numel() for piece in magnitudes)
    sample = np.concatenate([sampled(piece, SAMPLE * piece.numel() // total + 1) for piece in magnitudes])
    everything = found(ranks, total, sample, lambda: (bits_of(part) for piece in magnitudes for part in pieces(piece)))
    return [one.value for one in everything]


@dataclass(frozen=True)
class Found:
    """A number of some rank, how many are larger, and how many equal."""

    value: float
    larger: int
    equal: int


def found(ranks: Sequence[int], total: int, sample: Bits, reading: Callable[[], Iterable[Bits]]) -> list[Found]:
    """For each rank, the number of that rank among the `total` that a reading goes through.

    `sample` are some of them, taken evenly: one reading is enough unless it misleads; then a histogram takes two more.
    Raises `ValueError` for ranks that do not exist.
    """
    for k in ranks:
        if not 1 <= k <= total:
            raise ValueError(f"k must be between 1 and the {total} entries there are, but is {k}")
    bands = bands_around(ranks, total, sample)
    for bits in reading():
        for band in bands:
            band.count(bits)
    return [band.found(k) or by_histogram(k, reading) for k, band in zip(ranks, bands, strict=True)]


Score = Callable[[Sequence[Tensor]], Iterable[Tensor]]
"""From the same places of several tensors, flat, a float32 number for each place; one tensor for each score."""


def found_in_all(
    reading: Callable[[], Iterable[Sequence[Tensor]]],
    score: Score,
    ranks: Callable[[int], Sequence[Sequence[int]]],
    *,
    signed: bool = False,
) -> list[list[Found]]:
    """For each score, the numbers of some ranks among those of all places, of models that are only read.

    `reading()` goes through the same piece of each tensor, and twice is enough: the first looks at few entries only.
    `ranks` gives each score's, from how many places there are. `signed`: scores may be negative. Empty where there are
    no places.
    """
    with torch_threads(1):  # on pieces as small as these, two cost twice as much and are no sooner done
        return _found_in_all(reading, score, ranks, signed_bits_of if signed else bits_of)


def _found_in_all(
    reading: Callable[[], Iterable[Sequence[Tensor]]],
    score: Score,
    ranks: Callable[[int], Sequence[Sequence[int]]],
    bits_of_score: Callable[[Tensor], Bits],
) -> list[list[Found]]:
    samples: list[Evenly] = []
    for parts in reading():
        size = parts[0].numel()
        where = samples[0].places(size) if samples else slice(0, size)
        few = list(score([part[where] for part in parts]))
        samples = samples or [Evenly() for _ in few]
        for sample, numbers in zip(samples, few, strict=True):
            sample.add(bits_of_score(numbers.contiguous()), size)
    total = samples[0].seen if samples else 0
    if total == 0:
        return []
    wanted = ranks(total)
    bands = [bands_around(some, total, sample.taken()) for some, sample in zip(wanted, samples, strict=True)]
    for parts in reading():
        for several, numbers in zip(bands, score(parts), strict=True):
            bits = bits_of_score(numbers)
            for band in several:
                band.count(bits)

    def again(number: int) -> Iterator[Bits]:
        return (bits_of_score(next(islice(score(parts), number, None))) for parts in reading())

    return [
        [band.found(k) or by_histogram(k, partial(again, number)) for k, band in zip(some, several, strict=True)]
        for number, (some, several) in enumerate(zip(wanted, bands, strict=True))
    ]


def by_histogram(k: int, reading: Callable[[], Iterable[Bits]]) -> Found:
    """The same in two readings, whatever the numbers are."""
    upper = np.zeros(2 * _HALF, dtype=np.int64)
    for bits in reading():
        upper += np.bincount((bits >> 16) + _HALF, minlength=2 * _HALF)
    top, larger = _descend(upper, k)
    lower = np.zeros(2 * _HALF, dtype=np.int64)
    for bits in reading():
        lower += np.bincount(bits[(bits >> 16) + _HALF == top] & (2 * _HALF - 1), minlength=2 * _HALF)
    bottom, more = _descend(lower, k - larger)
    return Found(as_float((top - _HALF) * 2 * _HALF + bottom), larger + more, int(lower[bottom]))


def _descend(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """The bin that holds the k-th entry from the top, and how many are in those above it."""
    from_top = np.cumsum(counts[::-1])
    position = int(np.searchsorted(from_top, k))
    return len(counts) - 1 - position, int(from_top[position] - counts[len(counts) - 1 - position])


def bands_around(ranks: Sequence[int], total: int, sample: Bits) -> list[Band]:
    """A band for each rank that holds its entry almost surely, judging by the sample."""
    ordered = np.sort(sample)
    return [_band(k, total, ordered) for k in ranks]


def _band(k: int, total: int, ordered: Bits) -> Band:
    size = len(ordered)
    share = k / total
    middle = size * (1 - share)
    reach = _SIGMAS * math.sqrt(size * share * (1 - share)) + 2
    low, high = math.floor(middle - reach), math.ceil(middle + reach)
    bottom = int(ordered[low]) if low >= 0 else np.iinfo(np.int32).min
    top = int(ordered[high]) if high < size else np.iinfo(np.int32).max
    return Band(bottom, top, tuple(bool(_share(ordered, one) > _HEAVY) for one in (bottom, top)))


def _share(ordered: Bits, value: int) -> float:
    left, right = np.searchsorted(ordered, value, side="left"), np.searchsorted(ordered, value, side="right")
    return float(right - left) / len(ordered)


@dataclass
class Band:
    """Counts what is above `high` and keeps what is from `low` to `high`.

    `heavy`: whether many entries are equal to `low` or `high`, as differences of bfloat16 numbers often are; these are
    counted and not kept. What is counted and kept stays apart by the piece it was in.
    """

    low: int
    high: int
    heavy: tuple[bool, ...] = (False, False)
    above: int = 0
    at_high: list[int] = field(default_factory=list)
    at_low: list[int] = field(default_factory=list)
    between: list[Bits] = field(default_factory=list)

    def count(self, bits: Bits) -> None:
        """The next piece."""
        whole = self.low == self.high
        between, above, at_high, at_low = around(
            bits, self.low, self.high, open_low=whole or self.heavy[0], open_high=whole or self.heavy[1]
        )
        self.above += above
        self.at_high.append(at_high if self.heavy[1] or whole else 0)
        if not whole:
            self.between.append(between)
            if self.heavy[0]:
                self.at_low.append(at_low)

    def found(self, k: int) -> Found | None:
        """The k-th largest of all that was counted; None where it lies outside of the band."""
        larger, at_high, at_low = self.above, sum(self.at_high), sum(self.at_low)
        if k <= larger:
            return None
        if k <= larger + at_high:
            return Found(as_float(self.high), larger, at_high)
        larger += at_high
        inside = np.concatenate(self.between) if self.between else np.empty(0, np.int32)
        if k <= larger + len(inside):
            one = _among(inside, k - larger)
            return Found(one.value, larger + one.larger, one.equal)
        larger += len(inside)
        return Found(as_float(self.low), larger, at_low) if k <= larger + at_low else None

    def home(self, one: Found, count: int) -> tuple[int, int]:
        """Where the `count`-th of the entries that are equal to what was found is: in which piece, and which of those
        there.
        """
        bits = bits_of_value(one.value)
        if bits == self.high and any(self.at_high):
            equal = self.at_high
        elif bits == self.low and any(self.at_low):
            equal = self.at_low
        else:
            equal = [int(np.count_nonzero(kept == bits)) for kept in self.between]
        until = np.cumsum(equal)
        number = int(np.searchsorted(until, count))
        return number, count - int(until[number]) + equal[number]


class Evenly:
    """A sample of numbers that come in pieces, evenly spaced though nobody knows how many there will be.

    Steps are powers of three: powers of two would stay in a few columns of most matrices.
    """

    def __init__(self, most: int = 1 << 20) -> None:
        """`most`: between a third and all of so many are kept."""
        self.seen = 0
        self._most, self._step = most, 1
        self._kept: list[Bits] = []

    def places(self, count: int) -> slice:
        """Which of the next `count` numbers are wanted."""
        return slice(-self.seen % self._step, count, self._step)

    def add(self, wanted: Bits, count: int) -> None:
        """Those of the next `count` numbers."""
        self._kept.append(wanted)
        self.seen += count
        if self.seen // self._step > self._most:
            self._kept = [np.concatenate(self._kept)[::3].copy()]
            self._step *= 3

    def taken(self) -> Bits:
        """At most one in a hundred of what was seen where that is many: sorting more takes longer than it saves."""
        kept = np.concatenate(self._kept)
        return kept[:: stride(len(kept), max(SAMPLE, self.seen // 128))]


def _among(bits: Bits, k: int) -> Found:
    """The k-th largest of an array, by a band of its own as long as sorting would take longer."""
    if len(bits) > 4 * _FEW:
        band = _band(k, len(bits), np.sort(bits[:: stride(len(bits), _FEW)]))
        band.count(bits)
        one = band.found(k)
        if one is not None:
            return one
    ordered = np.sort(bits)
    value = ordered[len(bits) - k]
    first, behind = (int(np.searchsorted(ordered, value, side=side)) for side in ("left", "right"))
    return Found(as_float(value), len(bits) - behind, behind - first)


def sampled(piece: Tensor, size: int) -> Bits:
    """About `size` entries of a piece of magnitudes, evenly spaced."""
    return bits_of(piece.flatten()[:: stride(piece.numel(), size)].contiguous())


def sample_size(total: int) -> int:
    """How many of so many entries of a tensor to look at before all of it."""
    return min(SAMPLE, max(_FEW, total // _SHARE))


def stride(count: int, size: int) -> int:
    """The step that takes about `size` of `count` entries; odd, so as not to stay in a few columns of a matrix."""
    return max(1, count // size) | 1


def bits_of(numbers: Tensor) -> Bits:
    """Whole numbers in the order of the float32 `numbers`, which must be contiguous and on the CPU.

    Those of non-negative numbers are their own bits, in the same memory.
    """
    bits: Bits = numbers.view(-1).view(torch.int32).numpy()
    return bits


def signed_bits_of(numbers: Tensor) -> Bits:
    """The same where numbers may be negative; zeros of both signs are next to each other, and NaN is largest."""
    bits = bits_of(numbers)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def bits_of_value(value: float) -> int:
    """The whole number that stands for a number: what `as_float` takes."""
    whole = np.float32(value).view(np.int32)
    return int(whole ^ ((whole >> 31) & np.int32(0x7FFFFFFF)))


def as_float(bits: int | np.int32) -> float:
    """The number of such bits."""
    whole = np.int32(bits)
    return float((whole ^ ((whole >> 31) & np.int32(0x7FFFFFFF))).view(np.float32))
