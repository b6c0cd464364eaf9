"""CMA-ES on every coefficient, each candidate on the whole search split (Hansen 2016, arXiv:1604.00772).

With bounds [0, 1] and a start in their middle this is how Akiba et al. 2025 (Evolutionary optimization of model
merging recipes) search, with Optuna's sampler and its step of a sixth of the range.
"""

from collections.abc import Callable, Iterator

import numpy as np
from cmaes import CMA

from benchmarks.search.contestants.full_split import HIGH, LOW, FullSplit, shape
from benchmarks.search.landscape import Coefficients, Landscape, Step


def cma_es(
    landscape: Landscape,
    budget: int,
    seed: int,
    *,
    bounds: tuple[float, float] = (LOW, HIGH),
    start: float | None = None,
    mean: bool = False,
) -> Iterator[Step]:
    """See `Contestant`. Starts at `start` in every coefficient, 1 / K where None, with a sixth of the range as step.

    Answers with the best observed; or, with `mean`, with the distribution's mean after each generation, and claims no
    score for it.
    """
    low, high = bounds
    wide = shape(landscape)
    size = wide[0] * wide[1]
    optimizer = CMA(
        mean=np.full(size, 1 / wide[1] if start is None else start),
        sigma=(high - low) / 6,
        bounds=np.tile([low, high], (size, 1)),
        seed=seed,
    )
    yield from generations(optimizer, FullSplit(landscape, budget), lambda point: point.reshape(wide), mean=mean)


def generations(
    optimizer: CMA, split: FullSplit, weights: Callable[[Coefficients], Coefficients], *, mean: bool = False
) -> Iterator[Step]:
    """Steps of one generation after the other, while the budget lasts; `weights` makes coefficients of a draw."""
    while not split.over:
        told = []
        for _ in range(optimizer.population_size):
            if split.over:
                return
            drawn = optimizer.ask()
            told.append((drawn, -split.score(weights(drawn))))
            if not mean:
                yield split.step()
        optimizer.tell(told)
        if mean:
            yield Step(split.spent, weights(optimizer.mean).copy())
