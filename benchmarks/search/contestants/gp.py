"""Optuna's Gaussian process with log expected improvement, for a few trials: each asks for half a second and more."""

import warnings
from collections.abc import Iterator

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import GPSampler

from benchmarks.search.contestants.sampled import sampled
from benchmarks.search.landscape import Landscape, Step

TRIALS = 60


def gp(landscape: Landscape, budget: int, seed: int, *, scales: bool = False) -> Iterator[Step]:
    """See `Contestant`. Ends after `TRIALS` trials, whatever is left; `scales` as in `sampled`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = GPSampler(seed=seed, deterministic_objective=False)
    yield from sampled(landscape, budget, sampler, TRIALS, scales=scales)
