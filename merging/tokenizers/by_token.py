"""Rearrange rows of embeddings and heads by token, and fill in those that a model lacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Read = Callable[[], Tensor]
Row = tuple[int, int]
"""A model by its position, and one of its rows."""


@dataclass(frozen=True)
class RowPlan:
    """How tensors with a row for each token are made from those of several models.

    `tokens` rows belong to tokens, those up to `rows` are padding: the mean of the others. `own[m]` has, for each
    token's row, the row it has in model m, -1 where it has none. `fills` has for rows that some model lacks, or that
    are given to all, the rows whose mean they are; none for zeros. `given` are the rows that all take from `fills`.
    """

    tokens: int
    rows: int
    own: tuple[tuple[int, ...], ...]
    fills: Mapping[int, tuple[Row, ...]]
    given: frozenset[int]

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor that is stored in this one."""
        return (self.rows, *stored[1:])

    def rearranged(self, reads: Sequence[Read]) -> list[Read]:
        """Readers of each model's tensor with the rows of the result: new tensors, in the widest dtype of them all."""
        return [_reader(self, reads, position) for position in range(len(reads))]


def _reader(plan: RowPlan, reads: Sequence[Read], position: int) -> Read:
    def read() -> Tensor:
        tensors = [one() for one in reads]  # mapped: no bytes are read yet
        stored = tensors[position]
        dtype = stored.dtype
        for other in tensors:
            dtype = torch.promote_types(dtype, other.dtype)
        made = torch.zeros(plan.shape(tuple(stored.shape)), dtype=dtype)
        own = torch.tensor(plan.own[position], dtype=torch.long)
        here = (own >= 0).nonzero().flatten()
        made[here] = stored[own[here]].to(dtype)
        for row, sources in plan.fills.items():
            if own[row] < 0 or row in plan.given:
                made[row] = _mean([tensors[model][index] for model, index in sources], made[row])
        if plan.rows > plan.tokens:
            made[plan.tokens :] = made[: plan.tokens].float().mean(0).to(dtype)
        return made

    return read


def _mean(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    if not rows:
        return torch.zeros_like(like)
    total = rows[0].float().clone()
    for row in rows[1:]:
        total.add_(row.float())
    return total.div_(len(rows)).to(like.dtype)
