"""What a trial is told beside its value: the attributes that reports and the dashboard read."""

from collections.abc import Sequence
from typing import Any

from evaluators.aggregate import Signal, standard_errors, task_means
from evaluators.protocol import Outcome, Task


def attributes_of(
    digest: str, outcomes: Sequence[Outcome], seconds: float, tasks: Sequence[Task], signal: Signal
) -> dict[str, Any]:
    """A scored trial's attributes. `seconds` is the worker time it took."""
    return {
        "digest": digest,
        "examples": len(outcomes),
        "seconds": round(seconds, 3),
        "tasks": task_means(outcomes, tasks),
        "standard_error": standard_errors(outcomes, tasks, signal),
    }
