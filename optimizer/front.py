"""The Pareto front of a search with several objectives: its trials, how much they cover, and its knee."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.results import Front, Objective, TrialRow, keeping

Array = NDArray[np.float64]

POINT = 0.01  # of a score between 0 and 1


def front_of(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> Front | None:
    """The front of the completed trials, None where there is one objective or no trial has a value for all of them.

    Trials that break a bound of the job are left out while any keeps them all. The reference point of the hypervolume
    is a point (0.01) worse than the base on every objective; where the base has no score, the worst of the baselines,
    and without baselines the worst of all trials.
    """
    names = [objective.name for objective in objectives]
    scored = [row for row in rows if row.state == "complete" and all(name in row.values for name in names)]
    if len(names) < 2 or not scored:
        return None
    signs = np.array([1.0 if objective.higher_is_better else -1.0 for objective in objectives])
    kept = undominated(keeping(scored), objectives)
    points = _values(kept, names) * signs
    reference = _reference(scored, names, signs)
    knee = knee_of(points)
    return Front(
        trials=tuple(row.number for row in kept),
        hypervolume=hypervolume(points, reference),
        reference=dict(zip(names, (reference * signs).tolist(), strict=True)),
        knee=None if knee is None else kept[knee].number,
    )


def undominated(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> list[TrialRow]:
    """The trials that no other trial matches on every objective and beats on one, in their order."""
    signs = np.array([1.0 if objective.higher_is_better else -1.0 for objective in objectives])
    values = _values(rows, [objective.name for objective in objectives]) * signs
    return [row for row, alone in zip(rows, _undominated(values), strict=True) if alone]


def hypervolume(points: Array, reference: Array) -> float:
    """The volume that points [n, m] dominate above a reference point [m], exact; larger is better in every column.

    The product of the objectives' units. Two objectives by a sweep, three by slices of that; more by the volume each
    point adds to those after it (While, Bradstreet and Barone 2012, A fast way of calculating exact hypervolumes).
    """
    above = points[(points > reference).all(axis=1)] - reference
    above = np.unique(above[_undominated(above)], axis=0)
    if len(above) == 0:
        return 0.0
    if above.shape[1] == 1:
        return float(above.max())
    return _area(above) if above.shape[1] == 2 else _slices(above) if above.shape[1] == 3 else _added(above[::-1])


def knee_of(points: Array) -> int | None:
    """Which of a front's points [n, m] lies farthest beyond the plane through its extremes; larger is better.

    Objectives are first scaled to the range they have on the front, so that their units do not matter. The extremes
    are the best points of each objective; where they lie in no plane that leans on every objective, the plane of all
    points whose scaled objectives add up to one is taken. None where no point lies beyond it. Of equals the first.
    Das 1999, On characterizing the knee of the Pareto curve based on normal-boundary intersection.
    """
    if len(points) < 3:
        return None
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(span > 0, span, 1.0)
    weights = _plane(scaled[scaled.argmax(axis=0)])
    beyond = (scaled @ weights - 1.0) / np.linalg.norm(weights)
    best = int(beyond.argmax())
    return best if beyond[best] > 1e-9 else None


def _plane(extremes: Array) -> Array:
    """The w with w x = 1 for every extreme [m, m]."""
    count = len(extremes)
    if np.linalg.matrix_rank(extremes) == count:
        weights = np.asarray(np.linalg.solve(extremes, np.ones(count)), np.float64)
        if (weights > 0).all():
            return weights
    return np.ones(count)


def _reference(scored: Sequence[TrialRow], names: Sequence[str], signs: Array) -> Array:
    base = [row for row in scored if row.origin == "baseline" and row.label == "base"]
    if base:
        found: Array = _values(base[:1], names)[0] * signs - POINT
        return found
    baselines = [row for row in scored if row.origin == "baseline"] or list(scored)
    worst: Array = (_values(baselines, names) * signs).min(axis=0)
    return worst


def _values(rows: Sequence[TrialRow], names: Sequence[str]) -> Array:
    return np.array([[row.values[name] for name in names] for row in rows], np.float64).reshape(len(rows), len(names))


def _undominated(points: Array) -> NDArray[np.bool_]:
    kept = np.ones(len(points), np.bool_)
    for index, point in enumerate(points):
        kept[index] = not ((points >= point).all(axis=1) & (points > point).any(axis=1)).any()
    return kept


def _area(points: Array) -> float:
    """Of points above zero, in two columns."""
    area = reached = 0.0
    for x, y in points[np.argsort(-points[:, 0], kind="stable")].tolist():
        area += x * max(0.0, y - reached)
        reached = max(reached, y)
    return area


def _slices(points: Array) -> float:
    """Of points above zero, in three columns: between two heights only the points above both count."""
    order = points[np.argsort(-points[:, 2], kind="stable")]
    heights: list[float] = [*order[:, 2].tolist(), 0.0]
    return math.fsum((heights[i] - heights[i + 1]) * _area(order[: i + 1, :2]) for i in range(len(order)))


def _added(points: Array) -> float:
    """Of points above zero, in any number of columns: what each has alone, beside those after it."""
    total = 0.0
    for index, point in enumerate(points):
        shared = np.minimum(points[index + 1 :], point)
        total += float(point.prod()) - (_added(shared[_undominated_once(shared)]) if len(shared) else 0.0)
    return total


def _undominated_once(points: Array) -> NDArray[np.bool_]:
    """As `_undominated`, and of equal points only the first."""
    kept = _undominated(points)
    _, first = np.unique(points, axis=0, return_index=True)
    once = np.zeros(len(points), np.bool_)
    once[first] = True
    return kept & once
