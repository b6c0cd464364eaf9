"""Tree-structured Parzen estimators: Optuna's TPE over all parameters jointly, open trials counted as bad.

Settings that only some trials have are a group of their own.

Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; the joint (multivariate) form is used for
one objective, one parameter at a time for several.
"""

import warnings
from collections.abc import Mapping

import optuna
from optuna.exceptions import ExperimentalWarning

from optimizer.engines.protocol import Engine, Parameters
from optimizer.engines.sampler import SamplerEngine
from search_spaces.domain import Domain


def build(
    study: optuna.Study,
    distributions: Parameters,
    seed: int,
    workers: int,  # noqa: ARG001
    start: Mapping[str, float] | None,  # noqa: ARG001
) -> Engine:
    """TPE reads `start` and the parallel trials from the study."""
    joint = len(study.directions) == 1
    grouped = joint and isinstance(distributions, Domain) and bool(distributions.branches)
    return SamplerEngine(
        study,
        distributions,
        seed,
        "tpe",
        lambda one: _sampler(one, joint, grouped),
    )


def _sampler(seed: int, joint: bool, grouped: bool) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`, since version 2.8
        return optuna.samplers.TPESampler(seed=seed, multivariate=joint, group=grouped, constant_liar=True)
