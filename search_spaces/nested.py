"""Nested subspaces of a search space: few dimensions first, the whole space last.

A coefficient is a function of depth and module before it is a number of its own: one scale per expert, then a slope
over depth (LiNeS, arXiv 2410.17146), then smooth shapes and a term per module, then everything. Each stage contains
the ones before, so a search that goes on in a larger one starts exactly where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from merging.groups import Group
from search_spaces.bound import BoundSpace
from search_spaces.modules import followed_module
from search_spaces.stencil import Stencil

Array = NDArray[np.float64]

STAGES = ("scales", "depth", "smooth", "full")
_INDEPENDENT = 1e-6  # of a column's length: what is left of it must be more than rounding


@dataclass(frozen=True)
class Stage:
    """A subspace through any point of the space: point + basis @ z.

    `basis` is float64 `[parameters, dimensions]`; a column's largest entry is 1, so that a step in `z` is a step of a
    coefficient.
    """

    name: str
    basis: Array

    @property
    def dimensions(self) -> int:
        return int(self.basis.shape[1])


@dataclass(frozen=True)
class Frame:
    """A space as vectors: `names` in the order of its parameters, their bounds, and the nested stages.

    `pull` is float64 `[parameters, groups * coefficients]`: the transposed map from parameters to a recipe's rows.
    """

    names: tuple[str, ...]
    low: Array
    high: Array
    stages: tuple[Stage, ...]
    groups: tuple[str, ...]
    coefficients: tuple[str, ...]
    pull: Array

    def only(self, coefficients: Sequence[str]) -> "Frame":
        """The same space, but its stages move nothing except these coefficients."""
        count = len(self.coefficients)
        free = np.array([name in coefficients for name in self.coefficients])
        stages = tuple(
            Stage(stage.name, stage.basis[:, np.tile(free, stage.dimensions // count)]) for stage in self.stages
        )
        return replace(self, stages=stages)

    def one_hot(self, coefficient: str) -> Array:
        """The point with 1 for this coefficient everywhere, 0 for all others."""
        chosen = [float(name == coefficient) for name in self.coefficients]
        return np.array(chosen * (len(self.names) // len(self.coefficients)))

    def vector(self, parameters: Mapping[str, float]) -> Array:
        """A point's parameters in order, float64 `[parameters]`."""
        return np.array([parameters[name] for name in self.names])

    def parameters(self, point: Array) -> dict[str, float]:
        """The parameters of a point of the space. Raises `ValueError` where it is outside of its bounds."""
        if not self.contains(point):
            worst = int(np.argmax(np.maximum(self.low - point, point - self.high)))
            raise ValueError(
                f"`{self.names[worst]}` must be in [{self.low[worst]:g}, {self.high[worst]:g}], but is {point[worst]!r}"
            )
        return {name: float(value) for name, value in zip(self.names, point, strict=True)}

    def contains(self, point: Array) -> bool:
        """Whether every parameter is within its bounds."""
        return bool(np.all((self.low <= point) & (point <= self.high)))

    def project(self, point: Array) -> Array:
        """The nearest point within the bounds: the projection of projected gradient descent."""
        nearest: Array = np.clip(point, self.low, self.high)
        return nearest

    def gradient(self, rows: Mapping[str, Sequence[float]]) -> Array:
        """The gradient by the parameters, `[parameters]`, from the one by each group's coefficients.

        Virtual experts that are not made, the last coefficients, have none: theirs is 0.
        """
        width = len(self.coefficients)
        padded = [[*rows[group], *[0.0] * (width - len(rows[group]))] for group in self.groups]
        flat = np.array(padded, dtype=np.float64).reshape(-1)
        pulled: Array = self.pull @ flat
        return pulled


def frame_of(space: BoundSpace, groups: Sequence[Group]) -> Frame:
    """The frame of a space bound to a model's `groups`. Stages that add no dimension are left out."""
    shares = shares_of(space)
    places = _places(space, groups, shares)
    count = len(space.coefficients)
    names, (low, high) = space.names(), space.bounds
    return Frame(
        names=tuple(names),
        low=np.full(len(names), low),
        high=np.full(len(names), high),
        stages=_stages(places, count),
        groups=tuple(group for group, _ in space.rows),
        coefficients=space.coefficients,
        pull=np.kron(shares.T, np.eye(count)).astype(np.float64),
    )


@dataclass(frozen=True)
class _Place:
    """Where a coordinate acts: its depth in [0, 1], and the share of each module among its groups."""

    depth: float
    modules: Mapping[str, float]


def shares_of(space: BoundSpace) -> Array:
    """How much of each coordinate each group's row takes, `[groups, coordinates]`; nothing where a row is held."""
    position = {name: index for index, name in enumerate(space.coordinates)}
    shares = np.zeros((len(space.rows), len(position)))
    for index, (_, row) in enumerate(space.rows):
        if isinstance(row, Stencil):
            shares[index, position[row.lower]] += 1.0 - row.share
            shares[index, position[row.upper]] += row.share
    return shares


def _places(space: BoundSpace, groups: Sequence[Group], shares: Array) -> list[_Place]:
    by_name = {group.name: group for group in groups}
    own = [by_name[name] for name, _ in space.rows]
    layers = sorted({group.layer for group in own if group.layer is not None})
    depths = np.array([_depth(group, layers) for group in own])
    found = []
    for column in shares.T:
        weights = column / column.sum()
        modules: dict[str, float] = {}
        for group, weight in zip(own, weights, strict=True):
            if weight:
                kind = _kind(group)
                modules[kind] = modules.get(kind, 0.0) + float(weight)
        found.append(_Place(float(weights @ depths), modules))
    return found


def _depth(group: Group, layers: list[int]) -> float:
    """0 at the input, 1 at the output; layers at equal distances between."""
    if group.layer is None:
        return 0.0 if followed_module(group) == "embeddings" else 1.0
    return (layers.index(group.layer) + 1) / (len(layers) + 1)


def _kind(group: Group) -> str:
    return followed_module(group) if group.layer is None else group.module


def _stages(places: Sequence[_Place], count: int) -> tuple[Stage, ...]:
    depth = np.array([place.depth for place in places])
    kinds = list(dict.fromkeys(kind for place in places for kind in place.modules))
    modules = [np.array([place.modules.get(kind, 0.0) for place in places]) for kind in kinds]
    added = {
        "scales": [np.ones(len(places))],
        "depth": [2 * depth - 1],
        "smooth": [
            *(column - column.mean() for column in modules),
            np.cos(2 * np.pi * depth),
            np.cos(3 * np.pi * depth),
        ],
        "full": list(np.eye(len(places))),
    }
    columns: list[Array] = []
    stages = []
    for name in STAGES:
        before = len(columns)
        for column in added[name]:
            _add(columns, column)
        if len(columns) > before:
            whole = np.stack([column / np.abs(column).max() for column in columns], axis=1)
            stages.append(Stage(name, np.kron(whole, np.eye(count))))
    return tuple(stages)


def _add(columns: list[Array], column: Array) -> None:
    """Append a column unless the ones before already say it."""
    if columns:
        known = np.stack(columns, axis=1)
        solution = np.linalg.lstsq(known, column, rcond=None)[0]
        if np.linalg.norm(column - known @ solution) <= _INDEPENDENT * max(1.0, float(np.linalg.norm(column))):
            return
    columns.append(column)
