"""Uniform draws from the space: the engine that every other one must beat."""

from collections.abc import Mapping

import optuna

from optimizer.engines.protocol import Engine, Parameters
from optimizer.engines.sampler import SamplerEngine


def build(
    study: optuna.Study,
    distributions: Parameters,
    seed: int,
    workers: int,  # noqa: ARG001
    start: Mapping[str, float] | None,  # noqa: ARG001
) -> Engine:
    """Uniform draws depend on the seed and the trial's number alone."""
    return SamplerEngine(study, distributions, seed, "random", _sampler, learns=False)


def _sampler(seed: int) -> optuna.samplers.RandomSampler:
    return optuna.samplers.RandomSampler(seed=seed)
