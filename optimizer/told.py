"""What a trial is told beside its value: the attributes that reports and the dashboard read.

The dashboard shows any attribute, but plots numbers only. So what people want to plot stands twice: in a dict that
reports read whole, and as a number under a name a person understands.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.aggregate import Signal, TaskMeans, standard_errors, task_means
from evaluators.protocol import Outcome, Task
from optimizer.bounds import total

PLOTTED = 64  # tasks that get attributes of their own; a suite of hundreds would bury all others


def attributes_of(
    digest: str, outcomes: Sequence[Outcome], seconds: float, tasks: Sequence[Task], signal: Signal
) -> dict[str, Any]:
    """A scored trial's attributes. `seconds` is the worker time it took."""
    means, errors = task_means(outcomes, tasks), standard_errors(outcomes, tasks, signal)
    return {
        "digest": digest,
        "examples": len(outcomes),
        "seconds": round(seconds, 3),
        "tasks": means,
        "standard_error": errors,
        **_plotted(means, tasks),
        **{f"standard error of {name}": error for name, error in errors.items() if error is not None},
    }


def bound_attributes(beyond: Mapping[str, float]) -> dict[str, Any]:
    """Whether a trial keeps the job's bounds, and by how much it does not; nothing where there are none.

    The dashboard knows nothing of the constraints that Optuna 5 keeps, so they are said in its words too.
    """
    if not beyond:
        return {}
    return {"feasible": total(beyond) == 0, **{f"beyond {task}": value for task, value in beyond.items()}}


def _plotted(means: Mapping[str, TaskMeans], tasks: Sequence[Task]) -> dict[str, float]:
    found: dict[str, float] = {}
    for task in tasks[:PLOTTED]:
        found[f"{task.name}: {task.metric}"] = means[task.name]["metric"]
        smooth = means[task.name]["smooth"]
        if smooth is not None:
            found[f"{task.name}: smooth"] = smooth
    return found
