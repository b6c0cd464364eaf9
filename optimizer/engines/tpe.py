"""Tree-structured Parzen estimators: Optuna's TPE over all parameters jointly, open trials counted as bad.

Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; the joint (multivariate) form is used for
one objective, one parameter at a time for several.
"""

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
    """TPE reads `start` and the parallel trials from the study."""
    joint = len(study.directions) == 1
    return SamplerEngine(
        study,
        distributions,
        seed,
        "tpe",
        lambda one: optuna.samplers.TPESampler(seed=one, multivariate=joint, constant_liar=True),
    )
