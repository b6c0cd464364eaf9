"""How well `auto` uses many workers: `python -m benchmarks.search.parallel --workers 64`.

The strategy runs on level L0's landscape; every ask is cut into shards as the conductor cuts it, and the shards are
handed to simulated workers whose speed differs from one unit to the next. Two shares are printed: of the finished work,
how much the strategy used, and of the workers' time, how much they were busy. `clock` is how long it took, in the time
of one scored example: a worker may also be busy with preparing. `foreseen` is the share of it that takes what is asked
of merges that were asked about before: more could not be saved by having workers score ahead what will be asked, while
they wait for each other.
"""

import argparse
import heapq
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.search.ours import World
from benchmarks.search.synthetic import quadratic
from optimizer.auto.asks import Ask, Score, Slope
from optimizer.auto.shards import LEAST, LEAST_OF_GRADIENT, cut
from optimizer.auto.strategy import search
from optimizer.efe import DIFFERENTIATED, SCORED

PREPARE = 2.0  # what a unit costs before its first example, in examples: filling the model, reading prompts
SPREAD = 0.3  # of the logarithm of a unit's duration


@dataclass(frozen=True)
class Piece:
    """A part of an ask: how long it takes, and whether its merge was asked about in an earlier round."""

    duration: float
    foreseen: bool


class Workers:
    """Takes pieces one after the other, each by the worker that is free first; a round ends with its last piece."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.clock = self.busy = 0.0

    def round(self, durations: Sequence[float]) -> None:
        """Do all of these, and wait for the last."""
        free = [self.clock] * self._count
        for duration in sorted(durations, reverse=True):
            heapq.heapreplace(free, free[0] + duration)
            self.busy += duration
        self.clock = max(free)

    @property
    def busy_share(self) -> float:
        return self.busy / (self.clock * self._count)


def through(rounds: Iterable[Sequence[Piece]], count: int) -> Workers:
    """The workers after all rounds."""
    workers = Workers(count)
    for pieces in rounds:
        workers.round([piece.duration for piece in pieces])
    return workers


def simulate(workers: int, budget: int, seed: int) -> dict[str, float]:
    """One search. `used` counts the finished pieces whose outcomes the strategy was answered with."""
    world, rng = World(quadratic(seed)), random.Random(seed)
    program = search(world.problem(budget, seed, workers))
    rounds: list[list[Piece]] = []
    met: set[int] = set()  # candidates that were asked about
    used, answers = 0, None
    while True:
        try:
            asks: list[Ask] = program.send(answers)  # type: ignore[arg-type]
        except StopIteration:
            break
        scoring = [ask for ask in asks if isinstance(ask, Score | Slope)]
        rounds.append(
            [
                Piece((PREPARE + size) * rng.lognormvariate(0.0, SPREAD), _candidate(ask) in met)
                for ask in scoring
                for size in _sizes(ask, workers // max(1, len(scoring)))
            ]
        )
        met |= {ask.candidate.number for ask in scoring if isinstance(ask, Score)}
        answers = [world.answer(ask) for ask in asks]
        used += len(rounds[-1])
    found = through(rounds, workers)
    rest = through(([piece for piece in pieces if not piece.foreseen] for pieces in rounds), workers)
    return {
        "workers": workers,
        "efe": world.spent,
        "used": used / sum(map(len, rounds)),
        "busy": round(found.busy_share, 3),
        "speed-up": round(found.busy / found.clock, 1),
        "clock": round(found.clock),
        "foreseen": round(1 - rest.clock / found.clock, 3),
    }


def _candidate(ask: Score | Slope) -> int | None:
    """None for a gradient, which is never asked for twice."""
    return ask.candidate.number if isinstance(ask, Score) else None


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
