"""Several evaluators as one: every example goes to the evaluator its task belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evaluators.protocol import Evaluator, EvaluatorError, Example, Outcome, Task
from evaluators.twins import Taught, differentiate, factors, twins_of

if TYPE_CHECKING:
    from torch import nn

    from evaluators.meter import Meter
    from evaluators.splits import Counts


class Several:
    """The tasks of all evaluators, in order. Raises `EvaluatorError` where two of them name a task alike."""

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self._evaluators = tuple(evaluators)
        self._owner: dict[str, int] = {}
        for number, evaluator in enumerate(self._evaluators):
            for task in evaluator.tasks():
                if task.name in self._owner:
                    raise EvaluatorError(
                        f"a task's name stands for one task, but `{task.name}` is one of two evaluators; "
                        "give one of them another `name`."
                    )
                self._owner[task.name] = number

    def tasks(self) -> list[Task]:
        return [task for evaluator in self._evaluators for task in evaluator.tasks()]

    def examples(self) -> list[Example]:
        return [example for evaluator in self._evaluators for example in evaluator.examples()]

    def counts(self) -> Mapping[str, Counts]:
        return {name: counts for evaluator in self._evaluators for name, counts in evaluator.counts().items()}

    def check_model(self, model: nn.Module) -> None:
        """See `Evaluator.check_model`."""
        for evaluator in self._evaluators:
            evaluator.check_model(model)

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """See `Evaluator.score`."""
        asked = self._asked(ids)
        found: dict[str, Outcome] = {}
        for number, evaluator in enumerate(self._evaluators):
            for outcome in evaluator.score(model, asked[number], meter) if number in asked else ():
                found[outcome.id] = outcome
        return [found[name] for name in ids]

    def twins(self) -> dict[str, str | None]:
        """See `Differentiable.twins`; an evaluator without twins gives a reason for each of its tasks."""
        return {name: reason for evaluator in self._evaluators for name, reason in twins_of(evaluator).items()}

    def backward(
        self, model: nn.Module, ids: Sequence[str], scales: Mapping[str, float], meter: Meter | None = None
    ) -> list[float]:
        """See `Differentiable.backward`."""
        asked = self._asked(ids)
        factors(ids, scales, self.twins())  # refuses before any evaluator has begun
        found: dict[str, float] = {}
        for number, evaluator in enumerate(self._evaluators):
            own = asked.get(number, [])
            found |= zip(own, differentiate(evaluator, model, own, scales, meter) if own else [], strict=True)
        return [found[name] for name in ids]

    def recall(self, model: nn.Module, ids: Sequence[str], key: str) -> list[str]:
        """See `Taught.recall`."""
        found: list[str] = []
        for number, own in self._asked(ids).items():
            evaluator = self._evaluators[number]
            if isinstance(evaluator, Taught):
                found += evaluator.recall(model, own, key)
        return found

    def learn(self, model: nn.Module, ids: Sequence[str], key: str, meter: Meter | None = None) -> None:
        """See `Taught.learn`."""
        for number, own in self._asked(ids).items():
            evaluator = self._evaluators[number]
            if isinstance(evaluator, Taught):
                evaluator.learn(model, own, key, meter)

    def _asked(self, ids: Sequence[str]) -> dict[int, list[str]]:
        """The ids of every evaluator that has any. Raises `EvaluatorError` for an id of no task."""
        asked: dict[int, list[str]] = {}
        for name in ids:
            task = name.rpartition(":")[0]
            if task not in self._owner:
                raise EvaluatorError(f"`{name}` belongs to none of the tasks: {', '.join(self._owner)}.")
            asked.setdefault(self._owner[task], []).append(name)
        return asked
