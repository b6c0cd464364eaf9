"""NSGA-III: a population spread along the Pareto front by reference points, for four objectives and more.

Deb and Jain 2014, An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated
Sorting Approach, part I.
"""

from collections.abc import Mapping

import optuna
from optuna.samplers import NSGAIIISampler

from optimizer.engines.protocol import Distributions, Engine
from optimizer.engines.sampler import SamplerEngine

POPULATION = 24


def build(
    study: optuna.Study,
    distributions: Distributions,
    seed: int,
    workers: int,  # noqa: ARG001
    start: Mapping[str, float] | None,  # noqa: ARG001
) -> Engine:
    """NSGA-III takes the baselines into its first population; it needs no other start."""
    return SamplerEngine(
        study,
        distributions,
        seed,
        "nsga3",
        lambda one: NSGAIIISampler(seed=one, population_size=POPULATION),
        generation_key=NSGAIIISampler._get_generation_key(),
    )
