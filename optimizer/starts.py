"""Merges worth a look that differ between groups or go by norms, as coefficients for every group and expert.

They need no search and next to no computation. What is the same everywhere is in `plan.baselines`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from merging.groups import Group
from optimizer.plan import USUAL_SCALES, Baseline, Plan
from optimizer.spec import JobFile
from search_spaces.bound import BoundSpace, parameter_name
from search_spaces.errors import SpaceError
from search_spaces.modules import followed_module
from search_spaces.nested import shares_of
from search_spaces.stencil import Stencil

Rows = Mapping[str, tuple[float, ...]]
"""A group's name to one coefficient per expert, in the experts' order."""

SLOPE = (0.3, 0.4)
"""alpha and beta of LiNeS: shallow layers stay near the base, the last one has about the experts' own strength."""
_EXACT = 1e-9


@dataclass(frozen=True)
class Start:
    """A merge to begin with: a row for every group."""

    label: str
    rows: Rows


def sloped(groups: Sequence[Group], experts: Sequence[str], real: Sequence[str], alpha: float, beta: float) -> Start:
    """LiNeS: alpha + beta (l - 1) / (L - 1) in the l-th of L layers (arXiv 2410.17146).

    Embeddings have alpha, what follows the head (norms outside the layers too) alpha + beta. A single layer counts as
    the first.
    """
    layers = sorted({group.layer for group in groups if group.layer is not None})

    def share(group: Group) -> float:
        if group.layer is None:
            return 0.0 if followed_module(group) == "embeddings" else 1.0
        return layers.index(group.layer) / max(1, len(layers) - 1)

    rows = {group.name: _each(experts, real, alpha + beta * share(group)) for group in groups}
    return Start(f"LiNeS {alpha:g} + {beta:g}", rows)


def by_norms(groups: Sequence[Group], experts: Sequence[str], squared: Mapping[str, Mapping[str, float]]) -> Start:
    """MetaGPT: lambda_k = |tau_k|^2 / sum_j |tau_j|^2, norms of the whole model (arXiv 2406.11385).

    `squared[expert][group]` is |tau|^2 (see `merging.norms.squared_norms`), of the real experts alone; others get 0.
    Raises `ValueError` where every task vector is zero.
    """
    whole = {expert: sum(by_group.values()) for expert, by_group in squared.items()}
    total = sum(whole.values())
    if not total > 0:
        raise ValueError(f"some task vector must differ from zero, but those of {', '.join(whole)} do not.")
    row = tuple(whole.get(expert, 0.0) / total for expert in experts)
    return Start("MetaGPT", {group.name: row for group in groups})


def further_baselines(
    job: JobFile, plan: Plan, groups: Sequence[Group], squared: Mapping[str, Mapping[str, float]]
) -> list[Baseline]:
    """LiNeS and MetaGPT as baselines, as far as they are points of the job's space and none of its other baselines.

    Where the job merges by another method, that method at its usual scales. Raises `ValueError` as `by_norms` does.
    """
    space = plan.space(job)
    known = [one.parameters for one in plan.baselines]
    found = []
    for start in _further(job, plan, groups, squared):
        parameters = expressed(space, start.rows)
        if parameters is not None and parameters not in known:
            recipe = space.recipe(parameters)
            found.append(Baseline(label=start.label, kind="baseline", recipe=recipe, parameters=parameters))
    return found


def _further(
    job: JobFile, plan: Plan, groups: Sequence[Group], squared: Mapping[str, Mapping[str, float]]
) -> list[Start]:
    from merging.methods import METHODS

    names, real = plan.space(job).coefficients, list(plan.template.experts)
    method = job.first_method()[0]
    if method == "task_arithmetic":
        return [sloped(groups, names, real, *SLOPE), by_norms(groups, names, squared)]
    if list(names) != real or not METHODS[method].needs_base:  # no weights of task vectors
        return []
    return [
        Start(f"{method} {scale:g}", {group.name: (scale,) * len(real) for group in groups}) for scale in USUAL_SCALES
    ]


def expressed(space: BoundSpace, rows: Rows) -> dict[str, float] | None:
    """The parameters whose recipe has these rows, None where no point of the space has them.

    Where a group stands on a coordinate, its row is the coordinate's value, bit by bit; coordinates that groups only
    stand between (the smooth space) are found by least squares, and one that rounding alone puts beyond a bound is the
    bound. What comes back is a point of the space whose recipe is the rows within 1e-9. Raises `SpaceError` where the
    rows are not one for every group of the space.
    """
    _check(space, rows)
    given = np.array([rows[group] for group, _ in space.rows], dtype=np.float64)
    values = _solved(space, given)
    low, high = space.bounds
    if not bool(np.all((low - _EXACT <= values) & (values <= high + _EXACT))):
        return None
    values = np.clip(values, low, high)
    parameters = {
        parameter_name(coordinate, name): float(values[place, column])
        for place, coordinate in enumerate(space.coordinates)
        for column, name in enumerate(space.coefficients)
    }
    made = space.recipe(parameters)
    got = np.array([made.coefficients[group] for group, _ in space.rows])
    if space.virtual:  # those without a say are not in the recipe
        given = given[:, [space.coefficients.index(name) for name in made.experts]]
    return parameters if bool(np.all(np.abs(got - given) <= _EXACT)) else None


def _solved(space: BoundSpace, given: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value of every coordinate for every coefficient, `[coordinates, coefficients]`, nearest to the rows."""
    position = {name: place for place, name in enumerate(space.coordinates)}
    shares = shares_of(space)
    free = [index for index, (_, row) in enumerate(space.rows) if isinstance(row, Stencil)]
    values = np.asarray(np.linalg.lstsq(shares[free], given[free], rcond=None)[0], dtype=np.float64)
    for index, (_, row) in enumerate(space.rows):
        if isinstance(row, Stencil) and row.used() == (row.lower,):
            values[position[row.lower]] = given[index]
    return values


def _check(space: BoundSpace, rows: Rows) -> None:
    names = [group for group, _ in space.rows]
    missing = [group for group in names if group not in rows]
    strangers = [group for group in rows if group not in names]
    if missing or strangers:
        raise SpaceError(
            f"there must be a row for each of {len(names)} groups, but "
            + (f"{len(missing)} have none, first {missing[0]!r}" if missing else f"{strangers[0]!r} is none of them")
        )
    for group, row in rows.items():
        if len(row) != len(space.coefficients):
            raise SpaceError(
                f"a row must have one number for each of {', '.join(space.coefficients)}, but that of {group!r} has "
                f"{len(row)}"
            )


def _each(experts: Sequence[str], real: Sequence[str], value: float) -> tuple[float, ...]:
    return tuple(value if expert in real else 0.0 for expert in experts)
