"""What a loop adds up for one entry over any number of models: tuples are unfolded when a loop is compiled.

So an entry's numbers stay in registers, however many models there are, and are added from left to right.
"""

from typing import Any

import numpy as np
from numba.extending import overload

from merging.kernels.compiled import compiled, wide

NOTHING = np.float32(-0.0)
"""What can be added to any number and leaves it as it is; 0.0 would turn -0.0 around."""


def onto(start: Any, term: Any, models: Any, weights: Any, given: Any, place: Any) -> Any:
    """In a loop: ((start + term(m_1, w_1, given, place)) + term(m_2, w_2, given, place)) + ..."""
    raise NotImplementedError  # only compiled


@overload(onto)
def _onto(start: Any, term: Any, models: Any, weights: Any, given: Any, place: Any) -> Any:  # noqa: ARG001
    half = len(models) // 2  # types are inferred as deep as halves go: a chain would be as deep as there are models

    def one(start: Any, term: Any, models: Any, weights: Any, given: Any, place: Any) -> Any:
        return start + term(models[0], weights[0], given, place)

    def more(start: Any, term: Any, models: Any, weights: Any, given: Any, place: Any) -> Any:
        before = onto(start, term, models[:half], weights[:half], given, place)
        return onto(before, term, models[half:], weights[half:], given, place)

    return one if len(models) == 1 else more


@compiled
def weighed(model: Any, weight: Any, nothing: Any, place: Any) -> Any:  # noqa: ARG001
    """m w"""
    return wide(model[place]) * weight


@compiled
def difference(model: Any, weight: Any, base: Any, place: Any) -> Any:
    """(m - base) w, for a number `base`."""
    return (wide(model[place]) - base) * weight


@compiled
def agreeing(direction: Any, weight: Any, sign: Any, place: Any) -> Any:
    """The magnitude of d w where it has the sign; weights are pairs, of which this is the first."""
    entry = (direction[place] * weight[0]) * sign
    return np.float32(0) if entry <= np.float32(0) else entry


@compiled
def share(direction: Any, weight: Any, sign: Any, place: Any) -> Any:
    """The pair's second where d w has the sign."""
    return weight[1] if (direction[place] * weight[0]) * sign > np.float32(0) else np.float32(0)


@compiled
def shared(direction: Any, weight: Any, sign: Any, place: Any) -> Any:
    """d w times the pair's second where it has the sign."""
    entry = direction[place] * weight[0]
    return entry * (weight[1] if entry * sign > np.float32(0) else np.float32(0))


@compiled
def vote(direction: Any, weight: Any, nothing: Any, place: Any) -> Any:  # noqa: ARG001
    """d w"""
    return direction[place] * weight[0]
