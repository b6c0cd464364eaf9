"""How a task's examples are shared out: the weights of the splits, and how many each may have."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from evaluators.frozen import Frozen

PositiveWeight = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1, strict=True)]


class Splits(Frozen):
    """The weights by which a task's examples are dealt to the splits. They need not add up to 1.

    A task with validation and test documents of its own deals the validation documents to `gradient`, `search` and
    `select` (in the ratio of these weights) and keeps its test documents for `test`. Examples of `gradient` are what a
    search may take the gradient of its coefficients on, and nothing else; there are none unless it has a weight.
    """

    gradient: Annotated[float, Field(ge=0)] = 0.0
    search: PositiveWeight = 0.6
    select: PositiveWeight = 0.2
    test: PositiveWeight = 0.2


WITH_GRADIENT = Splits(gradient=0.25, search=0.45, select=0.1, test=0.2)
"""For searches that follow a gradient, where a job says nothing else."""


class Limits(Frozen):
    """At most so many examples of a task in each split; None leaves a split whole."""

    gradient: AtLeastOne | None = None
    search: AtLeastOne | None = None
    select: AtLeastOne | None = None
    test: AtLeastOne | None = None


def _number_or_mapping(value: Any) -> Any:
    plain = isinstance(value, int) and not isinstance(value, bool)
    return dict.fromkeys(("gradient", "search", "select", "test"), value) if plain else value


Limit = Annotated[Limits, BeforeValidator(_number_or_mapping)]
"""`Limits` that may be written as one number for every split. The examples whose ids come first are kept."""
