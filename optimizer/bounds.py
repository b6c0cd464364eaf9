"""How far a merge is from keeping the bounds a job sets on its tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluators.aggregate import task_means
from evaluators.protocol import Outcome, Task
from optimizer.errors import JobFailed

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Reference = Callable[[str], Sequence[Outcome] | None]
"""The outcomes of a baseline, by its label, on the split in question; None where it has none."""


def label_of_model(name: str) -> str:
    """What the trial of the model is called that `bound.of` names."""
    return "base" if name == "base" else f"parent {name}"


def references(tasks: Sequence[Task]) -> list[str]:
    """The labels of the baselines that bounds are measured from: they have to be scored before anything else."""
    named = [task.bound.of for task in tasks if task.bound is not None and task.bound.of is not None]
    return list(dict.fromkeys(label_of_model(name) for name in named))


def violations(outcomes: Sequence[Outcome], tasks: Sequence[Task], reference: Reference) -> dict[str, float]:
    """For each bounded task how far its mean is beyond its limit, zero or less where it is kept.

    Bounds measured from a model use its mean on the same examples. Raises `JobFailed` where that model has no score.
    """
    bounded = [task for task in tasks if task.bound is not None]
    if not bounded:
        return {}
    means = task_means(outcomes, tasks)
    found = {}
    for task in bounded:
        assert task.bound is not None
        of = 0.0
        if task.bound.of is not None:
            of = _mean_of(task, label_of_model(task.bound.of), outcomes, reference)
        found[task.name] = task.bound.violation(means[task.name]["metric"], of)
    return found


def _mean_of(task: Task, label: str, outcomes: Sequence[Outcome], reference: Reference) -> float:
    known = reference(label)
    if known is None:
        raise JobFailed(
            f"the bound on `{task.name}` is measured from {label}, but {label} has no score; `mergeopt show` says why"
        )
    asked = {outcome.id for outcome in outcomes}
    return task_means([outcome for outcome in known if outcome.id in asked and _is_of(outcome, task)], [task])[
        task.name
    ]["metric"]


def _is_of(outcome: Outcome, task: Task) -> bool:
    return outcome.id.rpartition(":")[0] == task.name


def total(found: Mapping[str, float]) -> float:
    """The sum of what is beyond the limits, 0 where all bounds are kept (Deb 2000, constraint violation)."""
    return sum(max(0.0, value) for value in found.values())


def broken(trial: "FrozenTrial") -> float:
    """`total` of a told trial; by it infeasible trials rank behind feasible ones, and among each other."""
    return total(trial.constraints)
