"""A search space bound to a model's groups: parameters in, recipe out, and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from merging.recipe import Recipe, Source
from search_spaces.domain import Domain, contains
from search_spaces.errors import SpaceError
from search_spaces.methods import METHOD, SearchedMethods
from search_spaces.path import BoundPath
from search_spaces.stencil import Stencil, joined

LONGEST_NAME = 512  # Optuna's column for parameter names; PostgreSQL refuses more with a misleading message


@dataclass(frozen=True)
class BoundSpace:
    """`rows` has every group's name with its stencil, or with the number it is held at, in recipe order.

    The last of `coefficients` may be those of `virtual` experts, which are made while the search goes on: None for one
    that is not made yet. A recipe names them only where they have a say, so merges without them stay the same.
    `methods` has trials differ in the method or its settings, which are the template's where it is None, `path` in
    their layers.
    """

    template: Recipe
    rows: tuple[tuple[str, Stencil | float], ...]
    coordinates: tuple[str, ...]
    coefficients: tuple[str, ...]
    bounds: tuple[float, float]
    virtual: Mapping[str, Source | None] = field(default_factory=dict)
    methods: SearchedMethods | None = None
    path: BoundPath | None = None

    def names(self) -> list[str]:
        """The name of every parameter that is a coefficient, coordinate by coordinate."""
        return [parameter_name(place, name) for place in self.coordinates for name in self.coefficients]

    def distributions(self) -> Domain:
        """Every parameter with its range, coefficients first, in the same order for every trial."""
        from optuna.distributions import FloatDistribution

        coefficients = {name: FloatDistribution(*self.bounds) for name in self.names()}
        parts = [part for part in (self.methods, self.path) if part is not None]
        always = {name: one for part in parts for name, one in part.always().items()}
        branches = {name: one for part in parts for name, one in part.branches().items()}
        return Domain({**coefficients, **always}, branches)

    def recipe(self, parameters: Mapping[str, Any], whole: bool = False) -> Recipe:
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
        changes: dict[str, Any] = {"coefficients": coefficients}
        if self.methods is not None:
            changes["method"], changes["structure"] = self.methods.chosen(parameters)
        if self.path is not None:
            changes["path"] = self.path.visits(parameters)
        return self.template.model_copy(update=changes)

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

    def usual(self, row: Sequence[float]) -> dict[str, dict[str, Any]]:
        """For each method that is searched, the point with this row in every group and its usual settings.

        None are there where the row is no point of the space.
        """
        coefficients = self._weights(row)
        if coefficients is None or self.methods is None:
            return {}
        return {one.name: {**coefficients, **self.methods.usual(one.name)} for one in self.methods.options}

    def corners(self) -> list[dict[str, Any]]:
        """A point for each method: coefficients at their upper end, settings at the first of what they may be."""
        from optuna.distributions import CategoricalDistribution

        low, high = self.bounds
        domain = self.distributions()
        # a middle of zero, say, is a point that `linear` cannot normalise
        coefficients: dict[str, Any] = dict.fromkeys(self.names(), high or low)
        found = []
        for method in [None] if self.methods is None else [one.name for one in self.methods.options]:
            point = {**coefficients, **({METHOD: method} if METHOD in domain else {})}
            point |= self.path.usual() if self.path is not None else {}
            for name, one in domain.whole(point).items():
                if name not in point:
                    point[name] = one.choices[0] if isinstance(one, CategoricalDistribution) else one.low  # type: ignore[attr-defined]
            found.append(point)
        return found

    def express(self, row: Sequence[float], method: str | None = None) -> dict[str, Any] | None:
        """The parameters whose recipe has this same row in every group, None where there is no such point.

        `method` is the one wanted, without settings of its own; the template's with its settings where it is None.

        Raises `SpaceError` where the row has another length than the method has coefficients.
        """
        coefficients = self._weights(row)
        beside = {} if self.methods is None else self.methods.point(method or self.template.method)
        if coefficients is None or beside is None:
            return None
        if self.methods is None and method not in (None, self.template.method):
            return None
        return {**coefficients, **beside}

    def _weights(self, row: Sequence[float]) -> dict[str, Any] | None:
        """The parameters that give this row to every group of the models' own layers, None where there are none."""
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
        path = {} if self.path is None else self.path.plain()
        if path is None:
            return None
        weights: dict[str, Any] = {
            parameter_name(place, name): float(value)
            for place in self.coordinates
            for name, value in zip(self.coefficients, row, strict=True)
        }
        return {**weights, **path}

    def _check(self, parameters: Mapping[str, Any]) -> None:
        names = self.names()
        settings = self._settings(parameters) if self.methods is not None or self.path is not None else {}
        expected = dict.fromkeys([*names, *settings])
        for name in parameters:
            if name not in expected:
                near = get_close_matches(name, list(expected), n=1)
                hint = f"; the nearest is {near[0]!r}" if near else ""
                raise SpaceError(f"the space has {len(expected)} parameters, but {name!r} is none of them{hint}")
        missing = [name for name in expected if name not in parameters]
        if missing:
            raise SpaceError(
                f"every parameter needs a value, but {len(missing)} of {len(expected)} have none, first {missing[0]!r}"
            )
        low, high = self.bounds
        for name in names:
            if not (math.isfinite(parameters[name]) and low <= parameters[name] <= high):
                raise SpaceError(f"`{name}` must be in [{low:g}, {high:g}], but is {parameters[name]!r}")
        for name, one in settings.items():
            if not contains(one, parameters[name]):
                raise SpaceError(f"`{name}` must be in {one}, but is {parameters[name]!r}")

    def _settings(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        domain, coefficients = self.distributions(), dict.fromkeys(self.names())
        return {name: one for name, one in domain.whole(parameters).items() if name not in coefficients}


def parameter_name(coordinate: str, coefficient: str) -> str:
    """`weight.layer.12.attention.<coefficient>`; the empty coordinate is the whole model."""
    return joined("weight", coordinate, coefficient)
