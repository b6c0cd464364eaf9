"""Tell early that a candidate is worse than the incumbent, with a bound on how often that is wrong.

Both are scored on the same finite set of examples, the candidate on a random permutation of it, a block at a time.
What is watched is the wealth of bets against "the candidate is at least as good on the whole set": a nonnegative
supermartingale while that is true, so it ever reaches 1 / alpha with probability at most alpha (Ville 1939), whatever
the block sizes, and whenever one chooses to stop (Waudby-Smith and Ramdas 2020, arXiv 2010.09686, bets without
replacement). The permutation has to be drawn after the candidate is fixed; then it does not matter how the candidate
was found.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The share of what could be lost at most that each bet puts at stake; their mean needs no tuning to the gap.
_STAKES = np.geomspace(0.02, 0.98, 24)


def alpha_of(alpha: float, incumbent: int) -> float:
    """The error allowed against the `incumbent`-th one that a candidate meets, from 1; together they are `alpha`."""
    return 6 * alpha / (math.pi * incumbent) ** 2


def wealth(differences: Array, weights: Array, total: int, largest: float, tolerance: float = 0.0) -> float:
    """The largest wealth reached by betting that the candidate is worse than the incumbent by more than `tolerance`.

    `differences` are the candidate's score minus the incumbent's for the examples seen, in the order of the
    permutation, each in [-1, 1]; `weights` theirs (they add up to 1 over all examples), `total` the number of all
    examples, `largest` the largest weight of them all. Infinite where the examples that are left cannot make up for
    it. Give the candidate up where it is 1 / alpha or more.
    """
    seen = len(differences)
    if seen == 0:
        return 1.0
    values = total * weights * differences
    bound = total * largest
    before = np.concatenate([[0.0], np.cumsum(values)])
    # what the rest must average if the candidate is as good as claimed
    left = total - np.arange(seen + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        claimed = np.where(left > 0, (-tolerance * total - before) / np.maximum(left, 1), 0.0)
    owed = -tolerance * total - before[-1]
    if (left[-1] == 0 and owed > 1e-9 * total) or np.any(claimed > bound * (1 + 1e-12)):
        return math.inf
    claimed = claimed[:-1]
    sound = claimed > -bound  # below, the claim holds whatever comes: nothing to bet on any more
    sound &= claimed < bound  # at the bound, whatever comes is what was claimed
    room = np.where(sound, bound - claimed, 1.0)
    steps = np.where(sound, (values - claimed) / room, 0.0)
    growth = np.cumsum(np.log1p(-np.outer(steps, _STAKES).clip(max=0.98)), axis=0)
    reached = np.exp(growth).mean(axis=1)
    return float(max(1.0, reached.max()))


def hopeless(
    differences: Array, weights: Array, total: int, largest: float, alpha: float, tolerance: float = 0.0
) -> bool:
    """Whether the candidate can be given up: a candidate that is as good as the incumbent on all examples, less the
    tolerance, is given up with probability at most `alpha`."""
    return wealth(differences, weights, total, largest, tolerance) >= 1 / alpha
