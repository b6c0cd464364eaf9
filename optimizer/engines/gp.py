"""A Gaussian process with expected improvement, aware of the trials still running."""

from collections.abc import Mapping

import optuna

from optimizer.engines.protocol import Distributions, Engine
from optimizer.engines.sampler import SamplerEngine


def build(
    study: optuna.Study,
    distributions: Distributions,
    seed: int,
    workers: int,  # noqa: ARG001
    start: Mapping[str, float] | None,  # noqa: ARG001
) -> Engine:
    """The Gaussian process reads `start` and the parallel trials from the study."""
    return SamplerEngine(
        study,
        distributions,
        seed,
        "gp",
        lambda one: optuna.samplers.GPSampler(seed=one, warn_independent_sampling=False),
    )
