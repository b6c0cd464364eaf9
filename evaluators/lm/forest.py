"""Lay token sequences out in rows in which every shared beginning stands once.

A row is a tree of tokens in depth-first order. A token sees itself and the tokens on its way to the root, so each
sequence reads in the tree as it would alone. In depth-first order the tokens below one are those that follow it up to
its `end`: token j sees token i if and only if i <= j < end[i].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from evaluators.lm.requests import Tokens


@dataclass
class Row:
    """Tokens in depth-first order, how deep each stands (its position), and the end of what is below each.

    `paths` maps a sequence's index to where its tokens stand in the row.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)
    _last: Tokens = ()
    _path: list[int] = field(default_factory=list)

    def shared(self, sequence: Tokens) -> int:
        """How many tokens the sequence has in common with the last one added."""
        for length, ours, theirs in zip(count(), self._last, sequence, strict=False):
            if ours != theirs:
                return length
        return min(len(self._last), len(sequence))

    def add(self, index: int, sequence: Tokens, shared: int) -> None:
        """Add a sequence that follows the last one in sorted order, from its first new token on."""
        start = len(self.tokens)
        for closed in self._path[shared:]:
            self.ends[closed] = start
        fresh = len(sequence) - shared
        self.tokens += sequence[shared:]
        self.depths += range(shared, len(sequence))
        self.ends += [0] * fresh
        self._path = self._path[:shared] + list(range(start, start + fresh))
        self._last = sequence
        self.paths[index] = self._path

    def close(self) -> "Row":
        """End what is still open: no sequence follows."""
        for open_token in self._path:
            self.ends[open_token] = len(self.tokens)
        return self


def plant(sequences: Sequence[Tokens], crossover: float, limit: int) -> list[Row]:
    """Rows that hold every sequence, in sorted order, with as little to compute as this order allows.

    A row of n tokens costs n + n^2 / `crossover`: `crossover` is the length at which attention costs as much as all
    matrix products, 0 where the model cannot branch and a row may only be a chain. A sequence joins the row before it
    where that costs less than a row of its own and the row stays within `limit` tokens.
    """
    rows: list[Row] = []
    for index in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence = sequences[index]
        shared = rows[-1].shared(sequence) if rows else 0
        if not rows or not _joins(len(rows[-1].tokens), len(sequence), shared, crossover, limit):
            rows.append(Row())
            shared = 0
        rows[-1].add(index, sequence, shared)
    return [row.close() for row in rows]


def _joins(row: int, sequence: int, shared: int, crossover: float, limit: int) -> bool:
    fresh = sequence - shared
    if fresh == 0:
        return True
    if row + fresh > limit or shared == 0:
        return False
    if crossover == 0:
        return shared == row  # the row goes on as one chain
    return fresh + fresh * (2 * row + fresh) / crossover <= sequence + sequence**2 / crossover
