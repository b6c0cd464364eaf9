"""A sampler of Optuna in the space of every coefficient, on the whole search split."""

from collections.abc import Iterator

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler

from benchmarks.search.contestants.full_split import HIGH, LOW, FullSplit, shape
from benchmarks.search.landscape import Landscape, Step


def sampled(landscape: Landscape, budget: int, sampler: BaseSampler, trials: int | None = None) -> Iterator[Step]:
    """The best observed after each trial, until the budget or the number of trials is used up."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    groups, experts = shape(landscape)
    space = {f"{row}.{column}": FloatDistribution(LOW, HIGH) for row in range(groups) for column in range(experts)}
    split = FullSplit(landscape, budget)
    while not split.over and (trials is None or len(study.trials) < trials):
        trial = study.ask(space)  # type: ignore[arg-type]
        values = np.array([trial.params[name] for name in space])
        study.tell(trial, split.score(values.reshape(groups, experts)))
        yield split.step()
