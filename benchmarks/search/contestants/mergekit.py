"""A search in the style of mergekit-evolve, the tool most used for this.

As that tool does for task arithmetic with layers and modules told apart: CMA-ES without bounds from 1 / K with a step
of 1/6, the default population, the absolute value of what was drawn as the weight, every candidate on the whole split,
and the best observed as the answer. It stops after 100 candidates by default; here it goes on to the end of the budget.
"""

from collections.abc import Iterator

import numpy as np
from cmaes import CMA

from benchmarks.search.contestants.cma_es import generations
from benchmarks.search.contestants.full_split import FullSplit, uniform
from benchmarks.search.landscape import Landscape, Step

SIGMA = 1 / 6


def mergekit_evolve(landscape: Landscape, budget: int, seed: int) -> Iterator[Step]:
    """See `Contestant`."""
    start = uniform(landscape)
    optimizer = CMA(mean=start.ravel(), sigma=SIGMA, seed=seed)
    yield from generations(optimizer, FullSplit(landscape, budget), lambda drawn: np.abs(drawn).reshape(start.shape))
