"""Random search: a uniform draw for every coefficient of every group."""

from collections.abc import Iterator

import numpy as np

from benchmarks.search.contestants.full_split import HIGH, LOW, FullSplit, shape
from benchmarks.search.landscape import Landscape, Step


def random_points(landscape: Landscape, budget: int, seed: int) -> Iterator[Step]:
    """See `Contestant`. Answers with the best observed on the whole search split."""
    rng, split = np.random.default_rng(seed), FullSplit(landscape, budget)
    while not split.over:
        split.score(rng.uniform(LOW, HIGH, shape(landscape)))
        yield split.step()
