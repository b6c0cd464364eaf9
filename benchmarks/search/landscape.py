"""What is searched in this benchmark: coefficients in, outcomes out, and every example charged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evaluators.protocol import Outcome, Split, Task
from merging.groups import Group
from optimizer.virtual import Virtual

Coefficients = NDArray[np.float64]
"""One coefficient for each group and expert, `[groups, experts]`."""


@runtime_checkable
class Widening(Protocol):
    """A landscape that closed-form merges can join as further experts: those that `widens` names."""

    @property
    def widens(self) -> tuple[Virtual, ...]: ...

    def widen(self, name: str, examples: Mapping[str, Sequence[str]]) -> None:
        """Make a virtual expert, calibrated on these examples of every expert.

        From then on coefficients may have a column more for each that `widens` names, in its order; what is not made
        has zeros there.
        """
        ...


class Landscape(Protocol):
    """A base, its experts and some tasks; deterministic, and the same for every contestant.

    `ids` gives the examples of each split, `task:name` each, in a fixed order. Nothing is charged here: `Meter` does.
    """

    @property
    def name(self) -> str: ...

    @property
    def experts(self) -> tuple[str, ...]: ...

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    @property
    def ids(self) -> Mapping[Split, Sequence[str]]: ...

    def score(self, coefficients: Coefficients, ids: Sequence[str]) -> list[Outcome]:
        """One outcome per id, in order; `metric` and `smooth` both in [0, 1]."""
        ...

    def gradient(
        self, coefficients: Coefficients, ids: Sequence[str], scales: Mapping[str, float]
    ) -> tuple[Coefficients, list[float]]:
        """The gradient of the sum over tasks of `scales[task]` times the task's mean loss, and every example's loss.

        The loss is the tasks' differentiable twin: negative log-likelihood of the gold answer, or cross-entropy over
        the choices.
        """
        ...


@dataclass(frozen=True)
class Step:
    """What a contestant would answer after it has spent `efe`, and the search score it would claim for it.

    `claimed` is None where it claims none.
    """

    efe: int
    recommended: Coefficients
    claimed: float | None = None


class Contestant(Protocol):
    """A way to search: a generator of steps, in order of `efe`, at most `budget` in all.

    It may look at the splits `gradient`, `search` and `select`, never at `test`. The last step is its final answer.
    """

    def __call__(self, landscape: Landscape, budget: int, seed: int) -> Iterator[Step]: ...
