"""The winner's test scores as shares of the best parent's, task by task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.results import Results


@dataclass(frozen=True)
class Normalised:
    """A task on which the winner has `merged` and the best of the parents, `parent`, has `best`, both on test."""

    task: str
    merged: float
    parent: str
    best: float

    @property
    def share(self) -> float:
        """The merge's score as a share of the parent's: 1 is as good as the expert."""
        return self.merged / self.best


def normalised(results: Results) -> list[Normalised]:
    """One row for every task that counts towards an objective, has a score above zero and is better when higher.

    The best parent of a task is by its own mean on the test split; of equals the first. Empty before the test.
    """
    winner = next((one for one in results.test if one.kind == "winner"), None)
    parents = [one for one in results.test if one.kind == "parent"]
    found = []
    for task in results.tasks if winner is not None else ():
        able = [one for one in parents if task.name in one.tasks]
        if winner is None or task.name not in winner.tasks or not able:
            continue
        best = max(able, key=lambda one: one.tasks[task.name].mean)
        score = best.tasks[task.name].mean
        if task.higher_is_better and task.objective is not None and score > 0:
            found.append(Normalised(task.name, winner.tasks[task.name].mean, best.label, score))
    return found


def mean_share(rows: Sequence[Normalised]) -> float:
    """The plain mean over tasks of the shares. There must be one row or more."""
    return math.fsum(row.share for row in rows) / len(rows)
