"""How well `auto` uses many workers: `python -m benchmarks.search.parallel --workers 64`.

The strategy runs on level L0's landscape; every ask is cut into shards as the conductor cuts it, and the shards are
handed to simulated workers whose speed differs from one unit to the next. Two shares are printed: of the finished work,
how much the strategy used, and of the workers' time, how much they were busy. `clock` is how long it took, in the time
of one scored example: a worker may also be busy with preparing.
"""

import argparse
import heapq
import json
import random
from collections.abc import Sequence

from benchmarks.search.ours import World
from benchmarks.search.synthetic import quadratic
from optimizer.auto.asks import Ask, Score, Slope
from optimizer.auto.shards import LEAST, LEAST_OF_GRADIENT, cut
from optimizer.auto.strategy import search
from optimizer.efe import DIFFERENTIATED, SCORED

PREPARE = 2.0  # what a unit costs before its first example, in examples: filling the model, reading prompts
SPREAD = 0.3  # of the logarithm of a unit's duration


class Workers:
    """Takes units one after the other, each by the worker that is free first; a round ends with its last unit."""

    def __init__(self, count: int, seed: int) -> None:
        self._rng, self._count = random.Random(seed), count
        self.clock = self.busy = 0.0
        self.finished = 0

    def round(self, sizes: Sequence[float]) -> None:
        """Run units of so many examples' worth of work, and wait for all."""
        free = [self.clock] * self._count
        for size in sorted(sizes, reverse=True):
            duration = (PREPARE + size) * self._rng.lognormvariate(0.0, SPREAD)
            heapq.heapreplace(free, free[0] + duration)
            self.busy += duration
            self.finished += 1
        self.clock = max(free)

    @property
    def busy_share(self) -> float:
        return self.busy / (self.clock * self._count)


def simulate(workers: int, budget: int, seed: int) -> dict[str, float]:
    """One search. `used` counts the finished units whose outcomes the strategy was answered with."""
    world, pool, used = World(quadratic(seed)), Workers(workers, seed), 0
    program = search(world.problem(budget, seed, workers))
    answers = None
    while True:
        try:
            asks: list[Ask] = program.send(answers)  # type: ignore[arg-type]
        except StopIteration:
            break
        scoring = [ask for ask in asks if isinstance(ask, Score | Slope)]
        sizes = [size for ask in scoring for size in _sizes(ask, workers // max(1, len(scoring)))]
        if sizes:
            pool.round(sizes)
        answers = [world.answer(ask) for ask in asks]
        used += len(sizes)
    return {
        "workers": workers,
        "efe": world.spent,
        "used": used / pool.finished,
        "busy": round(pool.busy_share, 3),
        "speed-up": round(pool.busy / pool.clock, 1),
        "clock": round(pool.clock),
    }


def _sizes(ask: Score | Slope, shards: int) -> list[float]:
    """The work in each part of an ask, in scored examples."""
    if isinstance(ask, Slope):
        return [float(DIFFERENTIATED * len(ids)) for ids in cut(ask.ids, shards, LEAST_OF_GRADIENT)]
    return [float(SCORED * len(ids)) for ids in cut(ask.ids, shards, LEAST)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--budget", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for workers in options.workers:
        print(json.dumps(simulate(workers, options.budget, options.seed)), flush=True)


if __name__ == "__main__":
    main()
