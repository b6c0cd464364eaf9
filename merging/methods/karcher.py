"""The mean of several models on a sphere, with the mean of their lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence

from merging.errors import MergeError
from merging.methods.method import At, Gram, Method, NoStructure, always
from merging.methods.weighted_sum import around_base, around_origin, cancelling, from_origin, shares

_STEPS = 200
_CLOSE = 1e-15
"""Squared length of a step, in radians, that ends the search: what float64 inner products can tell from zero."""
_COLINEAR = 1e-7


def karcher(gram: Gram, at: At[NoStructure]) -> Sequence[float]:
    """The point u of the unit sphere where sum w_i Log_u(u_i) = 0, times sum w_i |x_i|, as weights of the x_i.

    Karcher 1977; u_i are the unit vectors of the x_i, w_i their shares. u <- Exp_u(sum w_i Log_u(u_i)) runs on u's
    coefficients and the cosines of the u_i alone, so a tensor is read once, and ends at a step below 3e-8 radians.
    A vector of zeros has no direction: it has its share in the length alone. Two vectors of equal length give SLERP;
    those that point opposite ways, or whose weighted mean is zero, have no mean on the sphere and are averaged.

    Raises `MergeError` where 200 steps are not enough.
    """
    weights, lengths = shares(at.row), [math.sqrt(gram[k][k]) for k in range(len(gram))]
    there = [k for k, length in enumerate(lengths) if length > 0]
    total = sum(weights[k] for k in there)
    if not there or abs(total) < _COLINEAR:
        return weights
    own = [weights[k] / total for k in there]
    cosines = [[gram[j][k] / lengths[j] / lengths[k] for k in there] for j in there]
    point = _mean(own, cosines)
    if point is None:
        return weights
    length = sum(weight * one for weight, one in zip(weights, lengths, strict=True))
    found = dict(zip(there, point, strict=True))
    return [length * found[k] / lengths[k] if k in found else 0.0 for k in range(len(gram))]


def normalized_mean(gram: Gram, at: At[NoStructure]) -> Sequence[float]:
    """sum w_i u_i at unit length, times sum w_i |x_i|, as weights of the x_i.

    What mergekit's `multislerp` amounts to: it sums tangents at that mean, and their sum there is zero. The rest is as
    in `karcher`.
    """
    weights, lengths = shares(at.row), [math.sqrt(one[k]) for k, one in enumerate(gram)]
    own = [weight / length if length else 0.0 for weight, length in zip(weights, lengths, strict=True)]
    norm = math.sqrt(max(0.0, _product(own, gram, own)))
    if norm < _COLINEAR:
        return weights
    length = sum(weight * one for weight, one in zip(weights, lengths, strict=True))
    return [one * length / norm for one in own]


def _mean(weights: Sequence[float], cosines: Gram) -> list[float] | None:
    """Coefficients of the mean by the unit vectors with these cosines; None where there is none."""
    point = list(weights)
    norm = math.sqrt(max(0.0, _product(point, cosines, point)))
    if norm < _COLINEAR:
        return None
    point = [one / norm for one in point]
    for _ in range(_STEPS):
        step = [0.0] * len(point)
        for k, weight in enumerate(weights):
            cosine = max(-1.0, min(1.0, sum(row * one for row, one in zip(cosines[k], point, strict=True))))
            sine = math.sqrt((1 - cosine) * (1 + cosine))
            if sine < _COLINEAR:
                if cosine < 0:
                    return None
                stretch = 1.0
            else:
                stretch = math.acos(cosine) / sine
            step = [own - weight * stretch * cosine * one for own, one in zip(step, point, strict=True)]
            step[k] += weight * stretch
        squared = max(0.0, _product(step, cosines, step))
        angle = math.sqrt(squared)
        turn = math.sin(angle) / angle if angle > _COLINEAR else 1.0
        point = [math.cos(angle) * one + turn * own for one, own in zip(point, step, strict=True)]
        norm = math.sqrt(max(0.0, _product(point, cosines, point)))  # 1, but for rounding that must not add up
        if norm < 0.5:
            break
        point = [one / norm for one in point]
        if squared < _CLOSE:
            return point
    raise MergeError(
        f"the mean on the sphere with shares {list(weights)} must be found in {_STEPS} steps, but is not; the models "
        "point all ways there. Use other weights, or `linear`."
    )


def mixed(row: tuple[float, ...], structure: NoStructure) -> str | None:
    """Weights of both signs have no mean in general: there may be no point, or many, where the logarithms cancel."""
    if min(row) < 0 < max(row):
        return f"weights must not be of both signs, but are {list(row)}"
    return cancelling(row, structure)


def _product(one: Sequence[float], gram: Gram, other: Sequence[float]) -> float:
    return sum(a * g * b for a, row in zip(one, gram, strict=True) for g, b in zip(row, other, strict=True))


KARCHER = Method(
    name="karcher",
    summary="The weighted mean of models on the sphere, or of their task vectors where there is a base.",
    paper="Riemannian center of mass, Karcher 1977, doi 10.1002/cpa.3160300502; for models: arXiv 2603.04972",
    needs_base=False,
    linear=False,
    structure=NoStructure,
    directions=from_origin,
    combine=around_origin,
    elementwise=always,
    law=karcher,
    weighted_sum=around_base,
    row_error=mixed,
)

MULTISLERP = Method(
    name="multislerp",
    summary="The weighted mean of the directions of models, with the mean of their lengths, as mergekit has it.",
    paper="no paper (mergekit's Multi-SLERP); on a sphere see Buss and Fillmore 2001, doi 10.1145/502122.502124",
    needs_base=False,
    linear=False,
    structure=NoStructure,
    directions=from_origin,
    combine=around_origin,
    elementwise=always,
    law=normalized_mean,
    weighted_sum=around_base,
    row_error=cancelling,
)
