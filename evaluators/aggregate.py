"""Make averages from outcomes: the one place where that happens."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from evaluators.protocol import EvaluatorError, Outcome, Task

Signal = Literal["metric", "smooth"]


class TaskMeans(TypedDict):
    """A task's means over its scored examples. `smooth` is None where the task has no smooth score."""

    metric: float
    smooth: float | None


def task_means(outcomes: Iterable[Outcome], tasks: Sequence[Task]) -> dict[str, TaskMeans]:
    """The mean metric and mean smooth score of every task, in the order of `tasks`.

    Raises `EvaluatorError` where a task has no outcome (not scored is not zero), an example occurs twice,
    or an outcome belongs to none of the tasks.
    """
    scored: dict[str, dict[str, Outcome]] = {task.name: {} for task in tasks}
    for outcome in outcomes:
        name = outcome.id.rpartition(":")[0]
        if name not in scored:
            raise EvaluatorError(f"outcome `{outcome.id}` belongs to none of the tasks: {', '.join(scored)}.")
        if outcome.id in scored[name]:
            raise EvaluatorError(f"example `{outcome.id}` has two outcomes; a mean counts each example once.")
        scored[name][outcome.id] = outcome
    return {name: _means(name, list(rows.values())) for name, rows in scored.items()}


def _means(task: str, rows: list[Outcome]) -> TaskMeans:
    if not rows:
        raise EvaluatorError(f"task `{task}` has no scored example, so it has no mean. Score some of its examples.")
    smooth = [row.smooth for row in rows if row.smooth is not None]
    if smooth and len(smooth) < len(rows):
        raise EvaluatorError(
            f"task `{task}` has a smooth score for {len(smooth)} of {len(rows)} examples, but it must "
            "be all or none. Score them the same way."
        )
    return TaskMeans(metric=_mean([row.metric for row in rows]), smooth=_mean(smooth) if smooth else None)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)  # fsum: the same mean whatever the order of the examples


def objectives(outcomes: Iterable[Outcome], tasks: Sequence[Task], signal: Signal = "metric") -> dict[str, float]:
    """Each objective's value, the weighted mean of its tasks' means, in the order the tasks name them.

    Larger is always better: the metric of a task where lower is better enters with its sign flipped. The
    smooth score is a probability of the right answer, so it is flipped only where the job is to forget that answer.
    Tasks that are only to keep a bound do not enter. Raises `EvaluatorError` as `task_means` does, and where `signal`
    is "smooth" but a task that enters has no smooth score.
    """
    means = task_means(outcomes, tasks)
    named = [(task.objective, task) for task in tasks if task.objective is not None]
    if signal == "smooth":
        without = [task.name for _, task in named if means[task.name]["smooth"] is None]
        if without:
            raise EvaluatorError(
                f"signal `smooth` needs a smooth score from every task, but {', '.join(without)} has none. "
                "Set `gold_likelihood: true` for tasks that generate text, or use signal `metric`."
            )
    values: dict[str, float] = {}
    for objective in dict.fromkeys(objective for objective, _ in named):
        own = [task for its, task in named if its == objective]
        total = math.fsum(task.weight for task in own)
        values[objective] = math.fsum(task.weight * _value(task, means[task.name], signal) for task in own) / total
    return values


def standard_errors(
    outcomes: Sequence[Outcome], tasks: Sequence[Task], signal: Signal = "metric"
) -> dict[str, float | None]:
    """The standard error of each objective, in its unit: how far its estimate is off by which examples were drawn.

    Examples are the sampling unit, tasks are fixed. None where a task has one example only.
    """
    scored: dict[str, list[float]] = {task.name: [] for task in tasks}
    for outcome in outcomes:
        value = outcome.smooth if signal == "smooth" else outcome.metric
        scored[outcome.id.rpartition(":")[0]].append(math.nan if value is None else value)
    found: dict[str, float | None] = {}
    for objective in dict.fromkeys(task.objective for task in tasks if task.objective is not None):
        own = [task for task in tasks if task.objective == objective]
        total = math.fsum(task.weight for task in own)
        terms = [(task.weight / total) ** 2 * _variance_of_mean(scored[task.name]) for task in own]
        whole = math.fsum(terms)
        found[objective] = math.sqrt(whole) if math.isfinite(whole) else None
    return found


def _variance_of_mean(values: list[float]) -> float:
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def _value(task: Task, means: TaskMeans, signal: Signal) -> float:
    if signal == "smooth":
        smooth = means["smooth"]
        assert smooth is not None  # `objectives` has refused tasks without one
        return -smooth if task.turned else smooth
    return means["metric"] if task.higher_is_better else -means["metric"]
