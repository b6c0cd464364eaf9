"""The parameters of a search's trials: those that every trial has, and those that follow from a choice."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # optuna takes a second to import
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True, eq=False)
class Domain(Mapping[str, "BaseDistribution"]):
    """Maps every parameter that all trials have to its range.

    `branches[parameter][value]` are the further parameters of trials in which `parameter`, one of `always`, has this
    value: the density of TIES exists where the method is TIES.
    """

    always: Mapping[str, "BaseDistribution"]
    branches: Mapping[str, Mapping[Any, Mapping[str, "BaseDistribution"]]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> "BaseDistribution":
        return self.always[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.always)

    def __len__(self) -> int:
        return len(self.always)

    def further(self, parameters: Mapping[str, Any]) -> dict[str, "BaseDistribution"]:
        """What a trial with these parameters has beside them."""
        return {
            name: one
            for parameter, values in self.branches.items()
            for name, one in values.get(parameters.get(parameter), {}).items()
        }

    def whole(self, parameters: Mapping[str, Any]) -> dict[str, "BaseDistribution"]:
        """Every parameter that a trial with these has."""
        return {**self.always, **self.further(parameters)}

    def count(self) -> int:
        """How many parameters there are in all."""
        return len(self.always) + sum(len(one) for values in self.branches.values() for one in values.values())


def whole_of(distributions: Mapping[str, "BaseDistribution"], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter with its range that a trial with these parameters has, of a `Domain` or of a plain mapping."""
    return distributions.whole(parameters) if isinstance(distributions, Domain) else dict(distributions)


def contains(distribution: "BaseDistribution", value: Any) -> bool:
    """Whether a parameter with this range may have this value; Optuna's own check raises for values of other kinds."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and distribution._contains(distribution.to_internal_repr(value))
