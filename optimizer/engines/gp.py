"""A Gaussian process that weighs each trial by its standard error, for few coefficients.

It proposes by noisy expected improvement with open trials counted in; see `optimizer.engines.gaussian_process`. Each
trial is a generation of its own: with `search.batch`, fresh examples make the errors of two trials independent, which
the process takes them to be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from optimizer.engines.protocol import Distributions, Engine
from optimizer.engines.seeds import seed_for
from optimizer.study import known, open_point, points

if TYPE_CHECKING:  # BoTorch takes half a second beyond torch to import, and other engines need neither
    from optimizer.engines.gaussian_process import Observed

Array = NDArray[np.float64]

BEGINNING = 10  # points at most before the process is asked; two for each dimension where that is fewer
SHRUNK = 16.0  # examples' worth of the pooled variance in each trial's own: 20 right of 20 are not free of error


def build(
    study: optuna.Study,
    distributions: Distributions,
    seed: int,
    workers: int,  # noqa: ARG001
    start: Mapping[str, float] | None,  # noqa: ARG001
) -> Engine:
    """The Gaussian process reads the baselines, `start` among them, and the parallel trials from the study."""
    return GaussianProcess(study, distributions, seed)


@dataclass(frozen=True)
class GaussianProcess:
    """Fits anew for every trial, from what the study says of told, open and failed ones.

    A proposal's randomness belongs to the job's seed and the trial's number. A point of its own that failed counts as
    open for ever: it is never told, and not proposed again.
    """

    study: optuna.Study
    distributions: Distributions
    seed: int
    recommends: bool = True

    def ask(self) -> FrozenTrial:
        """Open a running trial; there is always one."""
        from optimizer.engines.gaussian_process import proposal, sobol

        dimensions, observed, pending = len(self.distributions), self._observed(), self._pending()
        own = sum("generation" in trial.user_attrs for trial in points(self.study, self.distributions, _ANY))
        if observed is None or len(observed.points) + len(pending) < beginning(dimensions):
            unit = sobol(dimensions, own, seed_for(self.seed, "gp", "sobol"))
        else:
            unit = proposal(observed, pending, self._seed())
        attributes = {"origin": "search", "generation": own}
        return open_point(self.study, self._parameters(unit), self.distributions, attributes)

    def begin_at(self, start: Mapping[str, float]) -> None:
        """Nothing: what was told is all it begins with."""

    def recommend(self) -> dict[str, float] | None:
        """Where the process expects most, None before the first trial was told."""
        from optimizer.engines.gaussian_process import best_in_cube, best_observed

        observed = self._observed()
        if observed is None:
            return None
        best = best_observed if observed.beyond.shape[1] else best_in_cube
        return self._parameters(best(observed, self._seed()))

    def _seed(self) -> int:
        return seed_for(self.seed, "gp", len(known(self.study)))

    def _observed(self) -> "Observed | None":
        from optimizer.engines.gaussian_process import Observed

        told = points(self.study, self.distributions, (TrialState.COMPLETE,))
        if not told:
            return None
        bounds = list(told[0].constraints)
        return Observed(
            points=np.array([self._unit(trial) for trial in told]),
            values=np.array([trial.values[0] for trial in told]),
            variances=_variances_of(told),
            beyond=np.array([[trial.constraints[name] for name in bounds] for trial in told]).reshape(len(told), -1),
        )

    def _pending(self) -> Array:
        open_or_failed = points(self.study, self.distributions, (TrialState.RUNNING, TrialState.FAIL))
        found = [
            self._unit(trial)
            for trial in open_or_failed
            if not trial.state.is_finished() or "generation" in trial.user_attrs
        ]
        return np.array(found).reshape(-1, len(self.distributions))

    def _unit(self, trial: FrozenTrial) -> list[float]:
        return [(trial.params[name] - one.low) / (one.high - one.low) for name, one in self.distributions.items()]

    def _parameters(self, unit: Array) -> dict[str, float]:
        # The minimum and maximum only undo rounding: the point is in the cube.
        return {
            name: min(max(float(one.low + (one.high - one.low) * value), one.low), one.high)
            for (name, one), value in zip(self.distributions.items(), unit, strict=True)
        }


_ANY = (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)


def beginning(dimensions: int) -> int:
    """How many points, baselines and Sobol's, are told or open before the process proposes."""
    return min(2 * dimensions, BEGINNING)


def _variances_of(told: Sequence[FrozenTrial]) -> Array | None:
    """None where a trial has no standard error: one variance for all is inferred then."""
    errors = [error for trial in told for error in trial.user_attrs.get("standard_error", {}).values()]
    if None in errors or len(errors) < len(told):
        return None
    return variances(errors, [trial.user_attrs["examples"] for trial in told])


def variances(errors: Sequence[float], examples: Sequence[int]) -> Array:
    """The variances `[n]` of n values from their standard errors and numbers of examples, shrunk towards each other.

    A trial's variance per example is averaged with that of all trials, which counts as `SHRUNK` examples: where all
    examples of a small batch are right the standard error is zero, and the process would believe it without reserve.
    """
    counts = np.array(examples, dtype=np.float64)
    own = np.square(np.array(errors, dtype=np.float64)) * counts
    found: Array = (counts * own + SHRUNK * own.mean()) / (counts + SHRUNK) / counts
    return found
