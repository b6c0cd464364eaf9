"""The strongest search without gradient that is easy to write: CMA-ES on one scale per expert, on fresh minibatches."""

from collections.abc import Iterator

import numpy as np
from cmaes import CMA

from benchmarks.search.contestants.full_split import HIGH, LOW, objective, shape
from benchmarks.search.landscape import Coefficients, Landscape, Step
from optimizer.batches import batches_of
from optimizer.efe import SCORED

BATCH, SIGMA = 64, 0.2


def minibatch(landscape: Landscape, budget: int, seed: int, *, smooth: bool = False) -> Iterator[Step]:
    """See `Contestant`. From the uniform average; answers with the distribution's mean and claims no score for it.

    All members of a generation are scored on the same fresh examples of the search split, every task by its share.
    They are ranked by the metric, or with `smooth` by the smooth score.
    """
    groups, experts = shape(landscape)
    optimizer = CMA(
        mean=np.full(experts, 1 / experts),
        sigma=SIGMA,
        bounds=np.tile([LOW, HIGH], (experts, 1)),
        seed=seed,
    )
    search = landscape.ids["search"]
    batches = batches_of([(name.rpartition(":")[0], name) for name in search], min(BATCH, len(search) // 2), seed)

    def rows(scales: Coefficients) -> Coefficients:
        return np.tile(scales, (groups, 1))

    cost = SCORED * batches.size * optimizer.population_size
    while cost * (optimizer.generation + 1) <= budget:
        ids = batches.batch(optimizer.generation)
        points = [optimizer.ask() for _ in range(optimizer.population_size)]
        signal = "smooth" if smooth else "metric"
        optimizer.tell([(point, -objective(landscape, rows(point), ids, signal)) for point in points])  # type: ignore[arg-type]
        yield Step(cost * optimizer.generation, rows(optimizer.mean))
