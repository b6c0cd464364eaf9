"""What the strategy is given: a space, warm starts, examples, and a budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluators.protocol import Split
from optimizer.auto.asks import Array
from optimizer.auto.values import Measure
from optimizer.virtual import Virtual
from search_spaces.nested import Frame

FINALISTS = 4  # where the job names no number


@dataclass(frozen=True, eq=False)
class Arm:
    """A merge to start from. `point` is None where it is no point of the space: it is compared, not started from."""

    label: str
    point: Array | None


def never() -> bool:
    """For budgets that do not count minutes."""
    return False


@dataclass(frozen=True, eq=False)
class Problem:
    """One search.

    `examples` are the ids of the splits gradient, search and select. `budget` is in example-forward-equivalents
    (EFE: 1 for a scored example, 3 for one in a gradient batch) and covers everything up to the choice of the winner.
    `virtual` names the closed-form merges that may join, the last coefficients of the space; those that are `screened`
    are warm starts, and join where they are the best of them. `parents` gives the arm's label for every expert.
    `no_gradient` says why there is no gradient, None where there is one. `workers` answer at once; at most `finalists`
    are scored on select; `time_is_up` is asked between steps.
    """

    frame: Frame
    examples: Mapping[Split, Sequence[str]]
    arms: Sequence[Arm]
    budget: int
    seed: int
    measure: Measure
    no_gradient: str | None = None
    virtual: Sequence[Virtual] = ()
    screened: Sequence[Virtual] = ()
    parents: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    finalists: int = FINALISTS
    time_is_up: Callable[[], bool] = never


@dataclass(frozen=True)
class Parts:
    """Which parts of the strategy are used; each can be switched off, to see what it is worth."""

    gradient: bool = True
    race: bool = True
    growth: bool = True
    virtual: bool = True
    mean: bool = True
    """The answer of a distribution is its mean; else the best member that was observed."""


WHOLE = Parts()
