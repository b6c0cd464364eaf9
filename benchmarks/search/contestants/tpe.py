"""TPE as Optuna sets it up: multivariate where there is one objective (Bergstra et al. 2011; Falkner et al. 2018)."""

from collections.abc import Iterator

from optuna.samplers import TPESampler

from benchmarks.search.contestants.sampled import sampled
from benchmarks.search.landscape import Landscape, Step


def tpe(landscape: Landscape, budget: int, seed: int) -> Iterator[Step]:
    """See `Contestant`."""
    yield from sampled(landscape, budget, TPESampler(seed=seed))
