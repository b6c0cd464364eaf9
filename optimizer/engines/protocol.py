"""What an engine is: it proposes trials, and reads their results from the study itself."""

from collections.abc import Mapping
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial

Distributions = Mapping[str, FloatDistribution]
"""Coefficients with their ranges."""
Parameters = Mapping[str, BaseDistribution]
"""Coefficients and settings of any kind; a `search_spaces.domain.Domain` where trials have further ones beside them."""


class Engine(Protocol):
    """A function of the job's seed and the told trials: restarted, it proposes what it would have proposed."""

    @property
    def recommends(self) -> bool:
        """Whether `recommend` has an answer of its own once the search is under way."""
        ...

    def ask(self) -> FrozenTrial | None:
        """Open a running trial, or None where a generation must finish first.

        The trial's user attribute `origin` is `search`.
        """
        ...

    def begin_at(self, start: Mapping[str, Any]) -> None:
        """Begin the search at this point, told before the first `ask` of a search; engines that begin nowhere pass."""
        ...

    def recommend(self) -> Mapping[str, Any] | None:
        """The engine's own answer where it is not one of its trials (a distribution's mean), else None."""
        ...


class Build(Protocol):
    """Makes an engine over a study.

    `seed` is the job's, `workers` how many trials are open at once. `start` is where the search begins, for
    engines that begin somewhere; the others learn from the trials told so far, baselines included.
    """

    def __call__(
        self,
        study: optuna.Study,
        distributions: Parameters,
        seed: int,
        workers: int,
        start: Mapping[str, Any] | None,
    ) -> Engine: ...
