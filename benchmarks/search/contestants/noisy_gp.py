"""Our Gaussian process on one scale per expert: each trial weighed by its standard error (`engine: gp`)."""

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.search.contestants.full_split import HIGH, LOW, shape
from benchmarks.search.landscape import Coefficients, Landscape, Step
from evaluators.aggregate import objectives, standard_errors
from optimizer.batches import batches_of
from optimizer.efe import SCORED
from optimizer.engines.gaussian_process import Observed, best_in_cube, best_observed, proposal, sobol
from optimizer.engines.gp import beginning, variances
from optimizer.engines.seeds import seed_for

TRIALS = 150
OFTEN, SELDOM = 16, 4  # an answer after each of the first trials, then after each fourth: it takes a fit


def noisy_gp(
    landscape: Landscape, budget: int, seed: int, *, batch: int | None = None, told: bool = False
) -> Iterator[Step]:
    """See `Contestant`. Begins with the uniform average and Sobol points; ends after `TRIALS` trials, whatever is left.

    Every trial is scored on the whole search split, or on `batch` fresh examples of it. Answers with the highest
    posterior mean in the cube, or with `told` among the observed points, and claims no score for it.
    """
    groups, experts = shape(landscape)
    search = list(landscape.ids["search"])
    size = min(batch or len(search), len(search) // 2)
    batches = batches_of([(name.rpartition(":")[0], name) for name in search], size, seed)
    each = SCORED * (len(search) if batch is None else size)
    trials = min(TRIALS, budget // each)
    points, values, errors = [np.full(experts, (1 / experts - LOW) / (HIGH - LOW))], [], []
    for number in range(trials):
        ids = search if batch is None else batches.batch(number)
        value, error = _scored(landscape, _rows(points[-1], groups), ids)
        values.append(value)
        errors.append(error)
        noise = variances(errors, [len(ids)] * len(errors))
        observed = Observed(np.array(points), np.array(values), noise, np.zeros((len(points), 0)))
        its = seed_for(seed, "gp", number)
        if number < OFTEN or number % SELDOM == 0 or number == trials - 1:
            answer = (best_observed if told or number < beginning(experts) else best_in_cube)(observed, its)
            yield Step(each * (number + 1), _rows(answer, groups))
        if number < beginning(experts):
            points.append(sobol(experts, number, seed))
        else:
            points.append(proposal(observed, np.zeros((0, experts)), its))


def _rows(unit: Coefficients, groups: int) -> Coefficients:
    return np.tile(LOW + (HIGH - LOW) * unit, (groups, 1))


def _scored(landscape: Landscape, coefficients: Coefficients, ids: Sequence[str]) -> tuple[float, float]:
    """The objective and its standard error."""
    outcomes = landscape.score(coefficients, ids)
    value = next(iter(objectives(outcomes, landscape.tasks).values()))
    error = next(iter(standard_errors(outcomes, landscape.tasks).values()))
    assert error is not None
    return value, error
