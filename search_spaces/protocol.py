"""What a search space is: the only way from a trial's parameters to a recipe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from merging.recipe import Recipe

if TYPE_CHECKING:  # optuna takes a second to import, and the job file needs this module
    from search_spaces.domain import Domain


class SearchSpace(Protocol):
    """A space over one model's groups, for one method's coefficients."""

    def distributions(self) -> "Domain":
        """Every parameter with its range, in the same order for every trial."""
        ...

    def recipe(self, parameters: Mapping[str, Any]) -> Recipe:
        """The recipe these parameters stand for: a row for every group.

        Raises `SpaceError` where a parameter is missing, unknown, or outside its range.
        """
        ...

    def express(self, row: Sequence[float], method: str | None = None) -> dict[str, Any] | None:
        """The parameters whose recipe has this same row in every group, None where there is no such point.

        Raises `SpaceError` where the row has another length than the method has coefficients.
        """
        ...
