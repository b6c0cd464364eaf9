"""What the tools have in common that score every candidate on the whole search split."""

from collections.abc import Sequence

import numpy as np

from benchmarks.search.landscape import Coefficients, Landscape, Step
from evaluators.aggregate import Signal, objectives
from optimizer.efe import SCORED

LOW, HIGH = -0.25, 1.5


class FullSplit:
    """Scores candidates on the same examples each and keeps the best that was observed; of equals the earlier."""

    def __init__(self, landscape: Landscape, budget: int, ids: Sequence[str] | None = None) -> None:
        self._landscape, self._budget = landscape, budget
        self._ids = list(landscape.ids["search"] if ids is None else ids)
        self.spent = 0
        self._best: tuple[float, Coefficients] | None = None

    @property
    def over(self) -> bool:
        """Whether the budget has no room for another candidate."""
        return self.spent + SCORED * len(self._ids) > self._budget

    def score(self, coefficients: Coefficients) -> float:
        """A candidate's objective; larger is better."""
        value = objective(self._landscape, coefficients, self._ids)
        self.spent += SCORED * len(self._ids)
        if self._best is None or value > self._best[0]:
            self._best = value, coefficients.copy()
        return value

    def step(self) -> Step:
        """The best observed, and its score as the claim."""
        assert self._best is not None
        return Step(self.spent, self._best[1], self._best[0])


def objective(landscape: Landscape, coefficients: Coefficients, ids: Sequence[str], signal: Signal = "metric") -> float:
    """The tasks' weighted mean on the examples."""
    return next(iter(objectives(landscape.score(coefficients, ids), landscape.tasks, signal).values()))


def shape(landscape: Landscape) -> tuple[int, int]:
    """Groups, experts."""
    return len(landscape.groups), len(landscape.experts)


def uniform(landscape: Landscape) -> Coefficients:
    """Every coefficient 1 / K."""
    return np.full(shape(landscape), 1 / len(landscape.experts))
