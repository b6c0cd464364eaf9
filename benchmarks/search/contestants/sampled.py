"""A sampler of Optuna in the space of every coefficient or of one scale per expert, on the whole search split."""

from collections.abc import Iterator

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler

from benchmarks.search.contestants.full_split import HIGH, LOW, FullSplit, shape
from benchmarks.search.landscape import Landscape, Step


def sampled(
    landscape: Landscape, budget: int, sampler: BaseSampler, trials: int | None = None, *, scales: bool = False
) -> Iterator[Step]:
    """The best observed after each trial, until the budget or the number of trials is used up.

    With `scales` one coefficient per expert is searched, from the uniform average.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    groups, experts = shape(landscape)
    rows = 1 if scales else groups
    space = {f"{row}.{column}": FloatDistribution(LOW, HIGH) for row in range(rows) for column in range(experts)}
    if scales:
        study.enqueue_trial(dict.fromkeys(space, 1 / experts))
    split = FullSplit(landscape, budget)
    told = 0
    while not split.over and (trials is None or told < trials):
        trial = study.ask(space)  # type: ignore[arg-type]
        values = np.array([trial.params[name] for name in space]).reshape(rows, experts)
        study.tell(trial, split.score(np.tile(values, (groups // rows, 1))))
        told += 1
        yield split.step()
