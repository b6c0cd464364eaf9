"""A limit that a merge must keep on the mean of a task."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from evaluators.frozen import Frozen

Limit = Annotated[float, Field(strict=True)]  # `true` is not 1


class Bound(Frozen):
    """`at_most` and `at_least` limit a task's mean metric; at least one of them is given.

    `of` names a model of the job, `base` or an expert: the limits then hold for the merge's mean minus that model's on
    the same examples, so `{at_least: -0.02, of: base}` allows a loss of 0.02.
    """

    at_most: Limit | None = None
    at_least: Limit | None = None
    of: str | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.at_most is None and self.at_least is None:
            raise ValueError("must name at_most, at_least or both, but names neither")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least must not be above at_most, but {self.at_least:g} is above {self.at_most:g}")
        return self

    def violation(self, mean: float, reference: float = 0.0) -> float:
        """How far the mean is beyond the nearer limit, in the metric's unit: zero or less where the bound is kept.

        `reference` is the mean of the model that `of` names.
        """
        measured = mean - reference
        beyond = [] if self.at_most is None else [measured - self.at_most]
        beyond += [] if self.at_least is None else [self.at_least - measured]
        return max(beyond)

    def in_words(self) -> str:
        """`at most 0.05`, or `at least -0.02 from base`."""
        parts = [] if self.at_least is None else [f"at least {self.at_least:g}"]
        parts += [] if self.at_most is None else [f"at most {self.at_most:g}"]
        return " and ".join(parts) + (f" from {self.of}" if self.of else "")
