"""NSGA-II: a population that spreads along the Pareto front of several objectives.

Deb et al. 2002, A Fast and Elitist Multiobjective Genetic Algorithm.
"""

from collections.abc import Mapping

import optuna
from optuna.samplers import NSGAIISampler

from optimizer.engines.protocol import Distributions, Engine
from optimizer.engines.sampler import SamplerEngine

# Optuna's 50 would spend a budget of 200 trials on four generations; 24 leaves eight.
POPULATION = 24


def build(
    study: optuna.Study,
    distributions: Distributions,
    seed: int,
    workers: int,  # noqa: ARG001
    start: Mapping[str, float] | None,  # noqa: ARG001
) -> Engine:
    """NSGA-II takes the baselines into its first population; it needs no other start."""
    return SamplerEngine(
        study,
        distributions,
        seed,
        "nsga2",
        lambda one: NSGAIISampler(seed=one, population_size=POPULATION),
        generation_key=NSGAIISampler._get_generation_key(),
    )
