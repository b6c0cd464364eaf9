"""The inner products of directions, over a whole tensor."""

from collections.abc import Sequence

from torch import Tensor

from merging.methods.method import Gram
from merging.pieces import pieces


def gram(directions: Sequence[Tensor]) -> Gram:
    """G[i][j] = <d_i, d_j>: products and sums in float64, piece by piece. `directions` have one shape."""
    size = len(directions)
    found = [[0.0] * size for _ in range(size)]
    for parts in zip(*(pieces(direction) for direction in directions), strict=True):
        doubles = [part.double() for part in parts]
        for row in range(size):
            for column in range(row + 1):
                found[row][column] += float(doubles[row] @ doubles[column])
    for row in range(size):
        for column in range(row):
            found[column][row] = found[row][column]
    return found
