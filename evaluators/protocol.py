"""What an evaluator is: examples with stable ids, and one outcome for each one scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from evaluators.bounds import Bound

if TYPE_CHECKING:  # reports and the CLI read outcomes; they must not wait for torch
    from torch import nn

    from evaluators.meter import Meter
    from evaluators.splits import Counts

Split = Literal["gradient", "search", "select", "test"]
SPLITS: tuple[Split, ...] = ("gradient", "search", "select", "test")
NEEDED: tuple[Split, ...] = ("search", "select", "test")  # of every task; gradient examples are for who follows one


@dataclass(frozen=True)
class Example:
    """One benchmark item. `id` is `task:hash of its content`, so it survives reordering of the data file."""

    id: str
    task: str
    split: Split


@dataclass(frozen=True)
class Outcome:
    """One example's score for one model: evidence, with its id.

    `metric` is the task's metric for this example. `smooth` is its differentiable twin in [0, 1]: the
    probability of the gold choice among the choices, or of the gold answer; None where the task has none or
    it was not asked for. `loglikelihood` is the gold answer's, in nats, where there is one.
    """

    id: str
    metric: float
    smooth: float | None = None
    loglikelihood: float | None = None


@dataclass(frozen=True)
class Task:
    """What the aggregate needs to know about a task: its metric, which way is better, how much it counts.

    `objective` is None where the task only has to keep its `bound`. `turned` says that the job aims the other way than
    the metric does, to forget something: the smooth score, a probability of the right answer, is then to fall as well.
    `teacher` names the expert whose next tokens the task's loss is measured from, in place of its gold answers.
    """

    name: str
    metric: str
    higher_is_better: bool
    weight: float
    objective: str | None
    bound: Bound | None = None
    turned: bool = False
    teacher: str | None = None


class Evaluator(Protocol):
    """Scores any subset of its examples on a resident model."""

    def tasks(self) -> Sequence[Task]: ...

    def examples(self) -> Sequence[Example]: ...

    def counts(self) -> Mapping[str, Counts]:
        """For each task, how many documents each split got and how many were left out."""
        ...

    def check_model(self, model: nn.Module) -> None:
        """Raise `EvaluatorError` where such a model cannot be asked. It may be on `meta`: its weights are not read."""
        ...

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """One outcome per id, in the order of `ids`; seconds and tokens are added to `meter`.

        Raises `ScoringError` where a log-likelihood or logit is not finite, naming the example.
        """
        ...


class ScoringError(RuntimeError):
    """A model could not be scored; the message names the example and what was met."""


class EvaluatorError(ValueError):
    """What was asked cannot be evaluated; the message says the rule, the value met and what to do next."""
