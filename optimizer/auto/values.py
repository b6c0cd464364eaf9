"""Examples as numbers: what each contributes to the objective, candidates compared on the same ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluators.aggregate import Signal
from evaluators.protocol import Outcome, Task

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """The job's one objective: the weighted mean of its tasks' means.

    Larger is better: the values of a task where lower is better have their sign turned.
    """

    tasks: Sequence[Task]
    signal: Signal = "metric"

    def taught(self, ids: Sequence[str]) -> list[str]:
        """Those of the examples whose loss is measured from a teacher."""
        own = [task.name for task in self.tasks if task.teacher is not None]
        return [name for name in ids if task_of(name) in own]

    def counted(self) -> dict[str, float]:
        """The weight of every task that enters the objective; they add up to 1."""
        own = {task.name: task.weight for task in self.tasks if task.objective is not None}
        whole = math.fsum(own.values())
        return {name: weight / whole for name, weight in own.items()}

    def values(self, outcomes: Sequence[Outcome], signal: Signal | None = None) -> Array:
        """Every outcome's value, float64 `[examples]`; NaN where a smooth score is wanted and there is none."""
        about = {task.name: task for task in self.tasks}
        return np.array([_value(about[task_of(one.id)], one, signal or self.signal) for one in outcomes])

    def weights(self, ids: Sequence[str]) -> Array:
        """Each example's weight in the mean over exactly these examples; 0 for tasks that do not enter."""
        counts: dict[str, int] = {}
        for name in ids:
            counts[task_of(name)] = counts.get(task_of(name), 0) + 1
        counted = self.counted()
        whole = math.fsum(counted.get(task, 0.0) for task in counts)
        return np.array([counted.get(task_of(name), 0.0) / whole / counts[task_of(name)] for name in ids])

    def mean(self, outcomes: Sequence[Outcome], signal: Signal | None = None) -> float:
        """The objective on these outcomes."""
        return float(self.weights([one.id for one in outcomes]) @ self.values(outcomes, signal))

    def standard_error(self, ids: Sequence[str], values: Array) -> float:
        """Of the weighted mean of `values`, by which examples were drawn; tasks are fixed. NaN if one is alone."""
        weights, total = self.weights(ids), 0.0
        tasks = np.array([task_of(name) for name in ids])
        for task in dict.fromkeys(tasks.tolist()):
            own = values[tasks == task]
            share = float(weights[tasks == task].sum())
            if share:
                total += share**2 * (float(own.var(ddof=1)) / len(own) if len(own) > 1 else math.nan)
        return math.sqrt(total) if total >= 0 else math.nan


def task_of(example: str) -> str:
    """The task in an example's id."""
    return example.rpartition(":")[0]


def _value(task: Task, outcome: Outcome, signal: Signal) -> float:
    if signal == "smooth":
        smooth = math.nan if outcome.smooth is None else outcome.smooth
        return -smooth if task.turned else smooth
    return outcome.metric if task.higher_is_better else -outcome.metric
