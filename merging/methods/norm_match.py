"""Bring what a mask leaves of a task vector back to the sum of magnitudes it had, as mergekit does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from merging.methods.arithmetic import present
from merging.methods.magnitudes import magnitudes
from merging.methods.method import At
from merging.pieces import CHUNK

if TYPE_CHECKING:
    from torch import Tensor

_TOO_SMALL = 1e-7  # sums below this are left alone, as by mergekit


def norm_matches(
    base: Tensor | None,
    tuned: Sequence[Tensor],
    at: At[Any],
    masked: Callable[[int, Tensor, At[Any]], Tensor],
    size: int = CHUNK,
) -> list[float]:
    """For each expert the sum of |tau| over that of what is left of it, over the whole tensor.

    `masked(expert, magnitudes, at)` gives what is left of a slice of |tau| that begins at `at.start`; slices have
    `size` entries but for the last.
    """
    factors = []
    for expert, model in enumerate(tuned):
        before = after = 0.0
        start = 0
        for piece in magnitudes(present(base), model, size):
            before += float(piece.sum())
            after += float(masked(expert, piece, replace(at, start=start)).sum())
            start += piece.numel()
        factors.append(before / after if before >= _TOO_SMALL and after >= _TOO_SMALL else 1.0)
    return factors


def factor_of(at: At[Any], expert: int, chance: float, matches: Sequence[float] | None) -> float:
    """What kept entries of one expert are multiplied by, the setting `scale` included."""
    if matches is not None:
        return matches[expert] * float(at.structure.scale)
    return float(at.structure.scale) / (chance if at.structure.rescale == "inverse" else 1.0)
