"""Differentiable twins: losses that fall as a task's metric rises, for evaluators that have them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from evaluators.protocol import Evaluator, EvaluatorError, ScoringError, Task

if TYPE_CHECKING:
    from torch import nn

    from evaluators.meter import Meter


@runtime_checkable
class Differentiable(Protocol):
    """What an evaluator may have besides the methods of `Evaluator`."""

    def twins(self) -> Mapping[str, str | None]:
        """For every task, None where it has a differentiable twin, else the reason why not."""
        ...

    def backward(
        self, model: nn.Module, ids: Sequence[str], scales: Mapping[str, float], meter: Meter | None = None
    ) -> list[float]:
        """The gradient of the sum over tasks of `scales[task]` times the mean of these examples' losses.

        Returns each example's loss in nats, unscaled, in the order of `ids`. Gradients are added to `.grad` of the
        model's parameters that require them, by several backward passes, each over as many examples as memory holds.
        The model is in eval mode meanwhile; its modes are put back. An id that comes twice counts twice.

        Raises `EvaluatorError` for an id that is no example, or whose task has no twin or no scale, before any pass;
        `ScoringError` where a loss is not finite, naming the example: what has been added by then is no gradient.
        """
        ...


@runtime_checkable
class Taught(Protocol):
    """What an evaluator has some of whose tasks have a `teacher`: their losses are measured from what it says."""

    def recall(self, model: nn.Module, ids: Sequence[str], key: str) -> list[str]:
        """Find again what teachers say on these examples; those of them on which it is still to be asked.

        `key` names the teacher's weights and how they are run. Examples of tasks without a teacher are left out.
        """
        ...

    def learn(self, model: nn.Module, ids: Sequence[str], key: str, meter: Meter | None = None) -> None:
        """Ask the model, which is the teacher now, and keep what it says for this process and others."""
        ...


def twins_of(evaluator: Evaluator) -> dict[str, str | None]:
    """What `Differentiable.twins` says, also for evaluators without it."""
    if isinstance(evaluator, Differentiable):
        return dict(evaluator.twins())
    return {task.name: f"`{task.name}` is scored in a way that has no gradient" for task in evaluator.tasks()}


def differentiate(
    evaluator: Evaluator, model: nn.Module, ids: Sequence[str], scales: Mapping[str, float], meter: Meter | None = None
) -> list[float]:
    """`Differentiable.backward` of any evaluator: one without twins is refused with its reasons."""
    factors(ids, scales, twins_of(evaluator))
    return evaluator.backward(model, ids, scales, meter) if isinstance(evaluator, Differentiable) else []


def turned_away(task: Task) -> str | None:
    """The reason why a loss of right answers does not serve a task that aims at wrong ones; None where it does not."""
    if not task.turned:
        return None
    return f"`{task.name}` is turned around: the loss of an answer that is to be forgotten grows without end"


def factors(ids: Sequence[str], scales: Mapping[str, float], twins: Mapping[str, str | None]) -> dict[str, float]:
    """How much each example's loss counts: its task's scale over how many of `ids` are the task's.

    Raises `EvaluatorError` for a task that `twins` does not know, or that has no twin, or no finite scale.
    """
    counts = Counter(name.rpartition(":")[0] for name in ids)
    for task in counts:
        if task not in twins:
            raise EvaluatorError(f"`{task}` is none of the tasks: {', '.join(twins)}.")
        if twins[task] is not None:
            raise EvaluatorError(f"a gradient needs tasks with a differentiable twin, but {twins[task]}.")
        if not math.isfinite(scales.get(task, math.nan)):
            raise EvaluatorError(
                f"every task of a gradient must have a finite scale, but `{task}` has {scales.get(task)}; "
                f"there is: {', '.join(scales) or 'none'}."
            )
    shares = {task: scales[task] / count for task, count in counts.items()}
    return {name: times * shares[name.rpartition(":")[0]] for name, times in Counter(ids).items()}


def check_finite(name: str, loss: float) -> float:
    """The loss itself. Raises `ScoringError` where it is not finite, naming the example."""
    if not math.isfinite(loss):
        raise ScoringError(f"the loss of example `{name}` is {loss}; the weights are broken.")
    return loss
