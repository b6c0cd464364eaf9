"""Optuna's genetic algorithms for several objectives as engines."""

from collections.abc import Mapping

import optuna
from optuna.samplers import NSGAIIISampler, NSGAIISampler

from optimizer.engines.protocol import Build, Engine, Parameters
from optimizer.engines.sampler import SamplerEngine

# Optuna's 50 would spend a budget of 200 trials on four generations; 24 leaves eight.
POPULATION = 24


def genetic(name: str, sampler: type[NSGAIISampler | NSGAIIISampler]) -> Build:
    """The engine's `build`. Baselines are taken into the first population; no other start is needed."""

    def build(
        study: optuna.Study,
        distributions: Parameters,
        seed: int,
        workers: int,  # noqa: ARG001
        start: Mapping[str, float] | None,  # noqa: ARG001
    ) -> Engine:
        return SamplerEngine(
            study,
            distributions,
            seed,
            name,
            lambda one: sampler(seed=one, population_size=POPULATION),
            generation_key=sampler._get_generation_key(),
        )

    return build
