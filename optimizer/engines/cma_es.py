"""CMA-ES: a normal distribution that moves towards what scored well, one generation at a time.

Hansen 2016, The CMA Evolution Strategy: A Tutorial (arXiv:1604.00772); package `cmaes`. Its own sampler in
Optuna is not used: with parallel workers it throws away what finishes after the first population, and it
unpickles its state from the database. Not handled: restarts; a search of a few hundred trials does not
reach one.
"""

import math
from collections.abc import Mapping

import numpy as np
import optuna
from cmaes import CMA
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from optimizer.bounds import broken
from optimizer.engines.protocol import Distributions, Engine
from optimizer.engines.seeds import seed_for
from optimizer.errors import InputError
from optimizer.study import known, open_point
from optimizer.trials import fits_in

SETTINGS = "cma-es"
# Of a coefficient's range. On noisy quadratics (30 dimensions, 250 trials, start 10 points below the peak, noise 0 to 4
# points) 0.17 to 0.25 end within half a point of each other; 0.1 loses 1 to 2 points under noise, 0.05 up to 5. The
# learning rate adaptation of `cmaes` gained a point at noise 4, nothing clear at 2, lost up to 1 below: it is off.
SIGMA = 0.2


def build(
    study: optuna.Study,
    distributions: Distributions,
    seed: int,
    workers: int,
    start: Mapping[str, float] | None,
) -> Engine:
    """CMA-ES from `start`, or from the middle of the space where it is None.

    Start and population are kept in the study's user attribute `cma-es` and read from there by every later
    build: a job resumed with other workers goes on with the population it has.
    """
    kept = study.user_attrs.get(SETTINGS)
    if kept is None:
        kept = {"population": population(len(distributions), workers), "start": _start(distributions, start)}
        study.set_user_attr(SETTINGS, kept)
    return CmaEs(study, distributions, seed, kept["population"], kept["start"])


def population(dimensions: int, workers: int = 1) -> int:
    """Hansen's default 4 + 3 ln d, not less than the workers, in whole rounds so that no worker waits."""
    default = 4 + math.floor(3 * math.log(dimensions))
    return math.ceil(max(default, workers) / workers) * workers


class CmaEs:
    """State is rebuilt by telling the study's finished generations in order, members in order within each.

    A member's draw depends on the seed, its generation and its number alone, so it does not matter how many were
    drawn before a restart. A generation in which every member failed teaches nothing and is passed over.
    """

    recommends = True

    def __init__(
        self,
        study: optuna.Study,
        distributions: Distributions,
        seed: int,
        members: int,
        start: Mapping[str, float],
    ) -> None:
        self._study = study
        self._distributions = distributions
        self._seed = seed
        self._low = np.array([one.low for one in distributions.values()])
        self._range = np.array([one.high - one.low for one in distributions.values()])
        self._generation = 0
        self._learned = False
        self._fits = fits_in(distributions)
        self._place = 0  # in the study's news
        self._opened: dict[int, dict[int, FrozenTrial]] = {}  # of generations that have not finished
        self._members = members
        self._cma = self._at(start)

    def _at(self, start: Mapping[str, float]) -> CMA:
        return CMA(
            mean=self._unit(start),
            sigma=SIGMA,
            bounds=np.tile([0.0, 1.0], (len(self._distributions), 1)),
            population_size=self._members,
            seed=0,  # reseeded for every member
        )

    def begin_at(self, start: Mapping[str, float]) -> None:
        """Move the start, unless a member was drawn already: a resumed search keeps the one it has."""
        if self._catch_up() or self._generation:
            return
        chosen = _start(self._distributions, start)
        self._study.set_user_attr(SETTINGS, {"population": self._members, "start": chosen})
        self._cma = self._at(chosen)

    def ask(self) -> FrozenTrial | None:
        """Open the next member of the generation, None where all are open and some are not told."""
        opened = self._catch_up()
        unopened = (member for member in range(self._cma.population_size) if member not in opened)
        member = next(unopened, None)
        if member is None:
            return None
        self._cma.reseed_rng(seed_for(self._seed, "cma-es", self._generation, member))
        attributes = {"origin": "search", "generation": self._generation, "member": member}
        return open_point(self._study, self._parameters(self._cma.ask()), self._distributions, attributes)

    def recommend(self) -> dict[str, float] | None:
        """The distribution's mean, None before the first generation was told."""
        self._catch_up()
        return self._parameters(self._cma.mean) if self._learned else None

    def _catch_up(self) -> dict[int, FrozenTrial]:
        """Tell every generation that has finished; the members of the one that has not."""
        news, self._place = known(self._study).news(self._place)
        for trial in news:
            if "generation" in trial.user_attrs and self._fits(trial):
                members = self._opened.setdefault(trial.user_attrs["generation"], {})
                members[trial.user_attrs["member"]] = trial
        while True:
            current = self._opened.get(self._generation, {})
            finished = [trial for trial in current.values() if trial.state.is_finished()]
            if len(finished) < self._cma.population_size:
                return current
            self._tell([current[member] for member in sorted(current)])
            del self._opened[self._generation]
            self._generation += 1

    def _tell(self, members: list[FrozenTrial]) -> None:
        if all(trial.values is None for trial in members):
            return
        costs = _costs(members)
        points_told = [self._unit(trial.params) for trial in members]
        self._cma.tell(list(zip(points_told, costs, strict=True)))
        self._learned = True

    def _unit(self, parameters: Mapping[str, float]) -> NDArray[np.float64]:
        """Parameters as a point of the unit cube."""
        values = np.array([parameters[name] for name in self._distributions])
        unit: NDArray[np.float64] = (values - self._low) / self._range
        return unit

    def _parameters(self, unit: NDArray[np.float64]) -> dict[str, float]:
        values = self._low + unit * self._range
        # The minimum and maximum only undo rounding: `cmaes` keeps its points inside the cube.
        return {
            name: min(max(float(value), one.low), one.high)
            for (name, one), value in zip(self._distributions.items(), values, strict=True)
        }


def _costs(members: list[FrozenTrial]) -> list[float]:
    """What `cmaes` minimises: it looks at the order alone.

    A member that breaks a bound ranks behind every one that keeps them all, by how far it is beyond (Deb 2000, An
    efficient constraint handling method for genetic algorithms). A failed member ranks behind every told one, in
    member order among its like.
    """
    told = [trial for trial in members if trial.values is not None]
    worst = max((-trial.values[0] for trial in told if broken(trial) == 0), default=0.0)

    def cost(trial: FrozenTrial) -> float:
        if trial.values is None:
            return math.inf
        return worst + broken(trial) if broken(trial) > 0 else -trial.values[0]

    return [cost(trial) for trial in members]


def _start(distributions: Distributions, start: Mapping[str, float] | None) -> dict[str, float]:
    if start is None:
        return {name: (one.low + one.high) / 2 for name, one in distributions.items()}
    for name, one in distributions.items():
        if name not in start or not one.low <= start[name] <= one.high:
            raise InputError(
                f"the search must start inside its space, but `{name}` starts at {start.get(name)}, "
                f"not in [{one.low:g}, {one.high:g}]; widen `bounds` or start elsewhere."
            )
    return {name: float(start[name]) for name in distributions}
