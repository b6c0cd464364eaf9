"""What a search space is: the only way from a trial's parameters to a recipe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from merging.recipe import Recipe

if TYPE_CHECKING:  # optuna takes a second to import, and the job file needs this module
    from optuna.distributions import FloatDistribution


class SearchSpace(Protocol):
    """A space over one model's groups, for one method's coefficients."""

    def distributions(self) -> dict[str, "FloatDistribution"]:
        """Every parameter with its range; the same for every trial, in the same order."""
        ...

    def recipe(self, parameters: Mapping[str, float]) -> Recipe:
        """The recipe these parameters stand for: a row for every group.

        Raises `SpaceError` where a parameter is missing, unknown, or outside its range.
        """
        ...

    def express(self, row: Sequence[float]) -> dict[str, float] | None:
        """The parameters whose recipe has this same row in every group, None where there is no such point.

        Raises `SpaceError` where the row has another length than the method has coefficients.
        """
        ...
