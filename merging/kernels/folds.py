"""What loops do with one entry of any number of models at once: tuples are unfolded when a loop is compiled.

So an entry's numbers stay in registers, however many models there are, and are added from left to right.
"""

from typing import Any

import numpy as np
from numba.extending import overload

from merging.kernels.compiled import wide


def weighed(models: Any, weights: Any, place: Any) -> Any:
    """m_1 w_1 + m_2 w_2 + ..."""
    raise NotImplementedError  # only compiled


@overload(weighed)
def _weighed(models: Any, weights: Any, place: Any) -> Any:  # noqa: ARG001
    def first(models: Any, weights: Any, place: Any) -> Any:
        return wide(models[0][place]) * weights[0]

    def more(models: Any, weights: Any, place: Any) -> Any:
        return weighed(models[:-1], weights[:-1], place) + wide(models[-1][place]) * weights[-1]

    return first if len(models) == 1 else more


def weighed_onto(start: Any, models: Any, weights: Any, place: Any) -> Any:
    """start + m_1 w_1 + m_2 w_2 + ..."""
    raise NotImplementedError  # only compiled


@overload(weighed_onto)
def _weighed_onto(start: Any, models: Any, weights: Any, place: Any) -> Any:  # noqa: ARG001
    def first(start: Any, models: Any, weights: Any, place: Any) -> Any:
        return start + wide(models[0][place]) * weights[0]

    def more(start: Any, models: Any, weights: Any, place: Any) -> Any:
        return weighed_onto(start, models[:-1], weights[:-1], place) + wide(models[-1][place]) * weights[-1]

    return first if len(models) == 1 else more


def differences(base: Any, models: Any, weights: Any, place: Any) -> Any:
    """(m_1 - base) w_1 + (m_2 - base) w_2 + ..., for a number `base`."""
    raise NotImplementedError  # only compiled


@overload(differences)
def _differences(base: Any, models: Any, weights: Any, place: Any) -> Any:  # noqa: ARG001
    def first(base: Any, models: Any, weights: Any, place: Any) -> Any:
        return (wide(models[0][place]) - base) * weights[0]

    def more(base: Any, models: Any, weights: Any, place: Any) -> Any:
        return differences(base, models[:-1], weights[:-1], place) + (wide(models[-1][place]) - base) * weights[-1]

    return first if len(models) == 1 else more


def differences_onto(base: Any, models: Any, weights: Any, place: Any) -> Any:
    """base + (m_1 - base) w_1 + (m_2 - base) w_2 + ..."""
    raise NotImplementedError  # only compiled


@overload(differences_onto)
def _differences_onto(base: Any, models: Any, weights: Any, place: Any) -> Any:  # noqa: ARG001
    def first(base: Any, models: Any, weights: Any, place: Any) -> Any:
        return base + (wide(models[0][place]) - base) * weights[0]

    def more(base: Any, models: Any, weights: Any, place: Any) -> Any:
        before = differences_onto(base, models[:-1], weights[:-1], place)
        return before + (wide(models[-1][place]) - base) * weights[-1]

    return first if len(models) == 1 else more


def agreeing(directions: Any, weights: Any, sign: Any, place: Any) -> Any:
    """The sum of the d_i w_i that have the sign, as magnitudes."""
    raise NotImplementedError  # only compiled


@overload(agreeing)
def _agreeing(directions: Any, weights: Any, sign: Any, place: Any) -> Any:  # noqa: ARG001
    def first(directions: Any, weights: Any, sign: Any, place: Any) -> Any:
        entry = (directions[0][place] * weights[0]) * sign
        return np.float32(0) if entry <= np.float32(0) else entry

    def more(directions: Any, weights: Any, sign: Any, place: Any) -> Any:
        entry = (directions[-1][place] * weights[-1]) * sign
        before = agreeing(directions[:-1], weights[:-1], sign, place)
        return before + (np.float32(0) if entry <= np.float32(0) else entry)

    return first if len(directions) == 1 else more


def shared(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:
    """The sum of the shares of those whose d_i w_i has the sign."""
    raise NotImplementedError  # only compiled


@overload(shared)
def _shared(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:  # noqa: ARG001
    def first(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:
        return shares[0] if (directions[0][place] * weights[0]) * sign > np.float32(0) else np.float32(0)

    def more(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:
        share = shares[-1] if (directions[-1][place] * weights[-1]) * sign > np.float32(0) else np.float32(0)
        return shared(directions[:-1], weights[:-1], shares[:-1], sign, place) + share

    return first if len(directions) == 1 else more


def share_weighed(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:
    """The sum of d_i w_i times their shares, of those that have the sign."""
    raise NotImplementedError  # only compiled


@overload(share_weighed)
def _share_weighed(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:  # noqa: ARG001
    def first(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:
        entry = directions[0][place] * weights[0]
        return entry * (shares[0] if entry * sign > np.float32(0) else np.float32(0)) + np.float32(0)

    def more(directions: Any, weights: Any, shares: Any, sign: Any, place: Any) -> Any:
        entry = directions[-1][place] * weights[-1]
        share = shares[-1] if entry * sign > np.float32(0) else np.float32(0)
        return share_weighed(directions[:-1], weights[:-1], shares[:-1], sign, place) + entry * share

    return first if len(directions) == 1 else more
