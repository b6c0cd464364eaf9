"""What every task in a job file may say about how its score counts."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from evaluators.bounds import Bound
from evaluators.frozen import Frozen
from evaluators.protocol import Task
from evaluators.shares import PositiveWeight

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Counted(Frozen):
    """A task's part in what is searched for.

    `objective` names what the task's mean counts towards, with `weight`. `bound` makes the mean something to be kept
    within limits; a task with a bound counts towards an objective only where it names one. `direction` turns the aim
    of the metric around, or says it where the metric has none: `minimize` to forget what a task asks.
    """

    weight: PositiveWeight = 1.0
    objective: Annotated[str, Field(min_length=1)] | None = None
    bound: Bound | None = None
    direction: Literal["maximize", "minimize"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _counts_towards_the_score_unless_bounded(cls, value: Any) -> Any:
        if isinstance(value, dict) and "objective" not in value and value.get("bound") is None:
            return {**value, "objective": "score"}
        return value

    @model_validator(mode="after")
    def _counts_for_something(self) -> "Counted":
        if self.objective is None and self.bound is None:
            raise ValueError("must count towards an `objective` or have a `bound`, but has neither")
        return self

    def as_task(self, name: str, metric: str, higher_is_better: bool, shared: int = 1) -> Task:
        """The task as the aggregate needs it; `shared` tasks divide the weight among them."""
        upwards = higher_is_better if self.direction is None else self.direction == "maximize"
        turned = upwards != higher_is_better
        return Task(name, metric, upwards, self.weight / shared, self.objective, self.bound, turned)
