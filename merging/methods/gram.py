"""The inner products of directions, over a whole tensor."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from merging.methods.method import Gram
from merging.pieces import pieces


def gram(directions: Sequence[Tensor]) -> Gram:
    """G[i][j] = <d_i, d_j>: products and sums in float64, piece by piece. `directions` have one shape."""
    if not directions[0].numel():
        return [[0.0] * len(directions) for _ in directions]
    return gram_of(zip(*(pieces(direction) for direction in directions), strict=True))


def gram_of(parts: Iterable[Sequence[Tensor]]) -> Gram:
    """As `gram`, of directions that are made piece by piece: the same bits for the same pieces.

    float64 all through costs no more than products in float32 would: a piece is in the cache.
    """
    found: Gram = []
    for part in parts:
        wide = [direction.double() for direction in part]
        found = found or [[0.0] * len(wide) for _ in wide]
        for row, one in enumerate(wide):
            for column, other in enumerate(wide[: row + 1]):
                found[row][column] += float(one @ other)
    for row in range(len(found)):
        for column in range(row):
            found[column][row] = found[row][column]
    return found
