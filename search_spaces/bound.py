"""A search space bound to a model's groups: parameters in, recipe out, and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from merging.recipe import Recipe, Source
from search_spaces.errors import SpaceError
from search_spaces.stencil import Stencil, joined

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

LONGEST_NAME = 512  # Optuna's column for parameter names; PostgreSQL refuses more with a misleading message


@dataclass(frozen=True)
class BoundSpace:
    """`rows` has every group's name with its stencil, or with the number it is held at, in recipe order.

    The last of `coefficients` may be those of `virtual` experts, which are made while the search goes on: None for one
    that is not made yet. A recipe names them only where they have a say, so merges without them stay the same.
    """

    template: Recipe
    rows: tuple[tuple[str, Stencil | float], ...]
    coordinates: tuple[str, ...]
    coefficients: tuple[str, ...]
    bounds: tuple[float, float]
    virtual: Mapping[str, Source | None] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every parameter's name, coordinate by coordinate."""
        return [parameter_name(place, name) for place in self.coordinates for name in self.coefficients]

    def distributions(self) -> dict[str, "FloatDistribution"]:
        """Every parameter with its range; the same for every trial, in the same order."""
        from optuna.distributions import FloatDistribution

        return {name: FloatDistribution(*self.bounds) for name in self.names()}

    def recipe(self, parameters: Mapping[str, float], whole: bool = False) -> Recipe:
        """The recipe these parameters stand for: a row for every group.

        `whole` has it name every virtual expert that is made, also those whose coefficients are all 0. Raises
        `SpaceError` where a parameter is missing, unknown, or outside its range, and where a virtual expert has a say
        that is not made.
        """
        self._check(parameters)
        columns = [
            {place: float(parameters[parameter_name(place, name)]) for place in self.coordinates}
            for name in self.coefficients
        ]
        coefficients = {
            group: tuple(row.value(column) if isinstance(row, Stencil) else row for column in columns)
            for group, row in self.rows
        }
        if self.virtual:
            return self._with_virtual(coefficients, whole)
        return self.template.model_copy(update={"coefficients": coefficients})

    def _with_virtual(self, coefficients: Mapping[str, tuple[float, ...]], whole: bool) -> Recipe:
        real = len(self.coefficients) - len(self.virtual)
        kept, experts = list(range(real)), dict(self.template.experts)
        for column, (name, source) in enumerate(self.virtual.items(), start=real):
            has_a_say = any(row[column] != 0 for row in coefficients.values())
            if has_a_say and source is None:
                raise SpaceError(f"the virtual expert `{name}` is not made yet, so its coefficients must be 0")
            if source is not None and (whole or has_a_say):
                kept.append(column)
                experts[name] = source
        rows = {group: tuple(row[column] for column in kept) for group, row in coefficients.items()}
        return self.template.model_copy(update={"coefficients": rows, "experts": experts})

    def express(self, row: Sequence[float]) -> dict[str, float] | None:
        """The parameters whose recipe has this same row in every group, None where there is no such point.

        Raises `SpaceError` where the row has another length than the method has coefficients.
        """
        if len(row) != len(self.coefficients):
            raise SpaceError(
                f"a row must have one number for each of {', '.join(self.coefficients)}, but has {len(row)}"
            )
        low, high = self.bounds
        if not all(low <= value <= high for value in row):
            return None
        held = dict.fromkeys(fixed for _, fixed in self.rows if not isinstance(fixed, Stencil))
        if any(value != fixed for fixed in held for value in row):
            return None
        return {
            parameter_name(place, name): float(value)
            for place in self.coordinates
            for name, value in zip(self.coefficients, row, strict=True)
        }

    def _check(self, parameters: Mapping[str, float]) -> None:
        names = self.names()
        expected = dict.fromkeys(names)
        for name in parameters:
            if name not in expected:
                near = get_close_matches(name, names, n=1)
                hint = f"; the nearest is {near[0]!r}" if near else ""
                raise SpaceError(f"the space has {len(names)} parameters, but {name!r} is none of them{hint}")
        missing = [name for name in names if name not in parameters]
        if missing:
            raise SpaceError(
                f"every parameter needs a value, but {len(missing)} of {len(names)} have none, first {missing[0]!r}"
            )
        low, high = self.bounds
        for name in names:
            if not (math.isfinite(parameters[name]) and low <= parameters[name] <= high):
                raise SpaceError(f"`{name}` must be in [{low:g}, {high:g}], but is {parameters[name]!r}")


def parameter_name(coordinate: str, coefficient: str) -> str:
    """`weight.layer.12.attention.<coefficient>`; the empty coordinate is the whole model."""
    return joined("weight", coordinate, coefficient)
