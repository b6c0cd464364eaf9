"""Merges that anyone would try first, as coefficients for every group and expert.

They need no search and next to no computation; a search starts from the best of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from merging.groups import Group
from optimizer.plan import Baseline, Plan
from optimizer.spec import JobFile
from search_spaces.bound import BoundSpace, parameter_name
from search_spaces.errors import SpaceError
from search_spaces.modules import followed_module
from search_spaces.nested import shares_of
from search_spaces.stencil import Stencil

Rows = Mapping[str, tuple[float, ...]]
"""A group's name to one coefficient per expert, in the experts' order."""
Kind = Literal["base", "parent", "uniform", "scale", "depth", "norms", "virtual"]

SCALES = (0.2, 0.3, 0.4, 0.5, 0.6)
SLOPES = ((0.3, 0.4), (0.5, 0.5))
"""alpha and beta of LiNeS: shallow layers stay near the base, the last one has about the experts' own strength."""
_EXACT = 1e-9


@dataclass(frozen=True)
class Start:
    """A merge to begin with: a row for every group."""

    label: str
    kind: Kind
    rows: Rows


def base_alone(groups: Sequence[Group], experts: Sequence[str]) -> Start:
    """No task vector at all."""
    return Start("base", "base", _everywhere(groups, (0.0,) * len(experts)))


def parent(groups: Sequence[Group], experts: Sequence[str], expert: str) -> Start:
    """One expert at 1, all others at 0."""
    return Start(f"parent {expert}", "parent", _everywhere(groups, _one_hot(experts, expert)))


def virtual(groups: Sequence[Group], experts: Sequence[str], expert: str) -> Start:
    """A closed-form merge at scale 1, where it takes part as an expert (see `optimizer.virtual`)."""
    return Start(expert, "virtual", _everywhere(groups, _one_hot(experts, expert)))


def uniform(groups: Sequence[Group], experts: Sequence[str], real: Sequence[str]) -> Start:
    """1/K for each of the K `real` experts, 0 for others."""
    return Start("uniform average", "uniform", _everywhere(groups, _each(experts, real, 1 / len(real))))


def scaled(groups: Sequence[Group], experts: Sequence[str], real: Sequence[str], scale: float) -> Start:
    """Task arithmetic: the same coefficient for each of the `real` experts, 0 for others."""
    return Start(f"task arithmetic {scale:g}", "scale", _everywhere(groups, _each(experts, real, scale)))


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
    return Start(f"LiNeS {alpha:g} + {beta:g}", "depth", rows)


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
    return Start("MetaGPT", "norms", _everywhere(groups, row))


def usual_starts(
    groups: Sequence[Group],
    experts: Sequence[str],
    virtual_experts: Sequence[str] = (),
    squared: Mapping[str, Mapping[str, float]] | None = None,
    scales: Iterable[float] = SCALES,
) -> list[Start]:
    """All of them, each set of rows once: the first label stays. `experts` are all of the space, virtual ones too.

    MetaGPT is there where `squared` norms are given.
    """
    real = [expert for expert in experts if expert not in virtual_experts]
    found = [
        base_alone(groups, experts),
        *(parent(groups, experts, expert) for expert in real),
        uniform(groups, experts, real),
        *(scaled(groups, experts, real, scale) for scale in scales),
        *(sloped(groups, experts, real, alpha, beta) for alpha, beta in SLOPES),
        *([by_norms(groups, experts, squared)] if squared is not None else []),
        *(virtual(groups, experts, expert) for expert in virtual_experts),
    ]
    different: dict[tuple[tuple[float, ...], ...], Start] = {}
    for start in found:
        different.setdefault(tuple(start.rows[group.name] for group in groups), start)
    return list(different.values())


def further_baselines(
    job: JobFile, plan: Plan, groups: Sequence[Group], squared: Mapping[str, Mapping[str, float]]
) -> list[Baseline]:
    """LiNeS and MetaGPT as baselines, as far as they are points of the job's space and none of its other baselines.

    Raises `ValueError` as `by_norms` does.
    """
    space, real = plan.space(job), list(plan.template.experts)
    if job.method.name != "task_arithmetic":
        return []
    known = [one.parameters for one in plan.baselines]
    found = []
    for start in (sloped(groups, space.coefficients, real, *SLOPES[0]), by_norms(groups, space.coefficients, squared)):
        parameters = expressed(space, start.rows)
        if parameters is not None and parameters not in known:
            recipe = space.recipe(parameters)
            found.append(Baseline(label=start.label, kind="baseline", recipe=recipe, parameters=parameters))
    return found


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


def _everywhere(groups: Sequence[Group], row: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    return {group.name: row for group in groups}


def _one_hot(experts: Sequence[str], expert: str) -> tuple[float, ...]:
    if expert not in experts:
        raise ValueError(f"`{expert}` must be one of {', '.join(experts)}.")
    return _each(experts, [expert], 1.0)


def _each(experts: Sequence[str], real: Sequence[str], value: float) -> tuple[float, ...]:
    return tuple(value if expert in real else 0.0 for expert in experts)
