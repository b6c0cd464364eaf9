"""Put rows of similar length together, by a budget of tokens."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluators.lm.forest import Row

_ENOUGH = 512  # tokens: more of them are no faster each on a CPU core
_ALIKE = 0.9


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length: `tokens`, `depths` and `ends` are int64 [rows, length].

    A padding token sees itself only and nobody sees it. `used` counts the tokens that are not padding.
    """

    rows: Sequence[Row]
    tokens: Tensor
    depths: Tensor
    ends: Tensor
    used: int

    @property
    def length(self) -> int:
        return int(self.tokens.shape[1])

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        if self.tokens.device == device:
            return self
        return Batch(self.rows, self.tokens.to(device), self.depths.to(device), self.ends.to(device), self.used)


def gather(
    rows: Iterable[Row], budget: int, multiple: int = 1, reads: Callable[[Row], int] = lambda _: 0, most_reads: int = 0
) -> list[Batch]:
    """Batches of at most `budget` tokens with padding, longest rows first; lengths are multiples of `multiple`.

    A row longer than the budget is a batch of its own. Where `most_reads` is set, a batch also ends before the sum of
    `reads` over its rows exceeds it. A row much shorter than the batch's first begins another once the batch is large
    enough to keep a processor busy: padding costs as much as tokens do.
    """
    batches: list[list[Row]] = []
    width = taken = 0
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        wanted = reads(row)
        full = not batches or (len(batches[-1]) + 1) * width > budget
        full = full or (len(batches[-1]) * width >= _ENOUGH and len(row.tokens) < _ALIKE * width)
        if full or (most_reads and taken + wanted > most_reads):
            batches.append([])
            width, taken = _rounded(len(row.tokens), multiple), 0
        batches[-1].append(row)
        taken += wanted
    return [_padded(batch, multiple) for batch in batches]


def _rounded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _padded(rows: list[Row], multiple: int) -> Batch:
    length = _rounded(max(len(row.tokens) for row in rows), multiple)
    itself = list(range(1, length + 1))  # what a padding token sees
    return Batch(
        rows=rows,
        tokens=torch.tensor([row.tokens + [0] * (length - len(row.tokens)) for row in rows]),
        depths=torch.tensor([row.depths + [0] * (length - len(row.depths)) for row in rows]),
        ends=torch.tensor([row.ends + itself[len(row.ends) :] for row in rows]),
        used=sum(len(row.tokens) for row in rows),
    )
