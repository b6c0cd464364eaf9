"""Descent on coefficients finds the minimum that the bounds allow, along directions that reach every coefficient."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from quadratics import GROUPS, space_of

from optimizer.auto.descend import directions
from optimizer.auto.descent import Descent
from search_spaces.nested import frame_of
from search_spaces.spec import SpaceSpec

Array = NDArray[np.float64]

LOW, HIGH = np.full(4, -0.25), np.full(4, 1.5)
CURVES = np.array([1.0, 3.0, 0.3, 10.0])


def descended(
    target: Array,
    steps: int = 400,
    basis: Array | None = None,
    noise: float = 0.0,
    low: Array = LOW,
    high: Array = HIGH,
) -> Descent:
    rng = np.random.default_rng(0)
    descent = Descent(np.full(4, 0.3), np.eye(4) if basis is None else basis, low, high)
    for step in range(steps):
        if step == steps // 2:
            descent.restart_average()
        gradient = 2 * CURVES * (descent.point - target) + rng.normal(0, noise, 4)
        descent.step(gradient, 0.03 * max(0.1, 1 - step / steps))
        assert np.all((low <= descent.point) & (descent.point <= high))
    return descent


def test_the_minimum_of_a_quadratic_is_found() -> None:
    target = np.array([0.1, 0.9, 0.5, 1.2])
    assert descended(target).point == pytest.approx(target, abs=0.01)


def test_a_minimum_outside_the_bounds_is_found_on_them() -> None:
    found = descended(np.array([-2.0, 0.9, 3.0, 0.2])).point
    assert found == pytest.approx([-0.25, 0.9, 1.5, 0.2], abs=0.01)
    assert (found[0], found[2]) == (-0.25, 1.5)


@pytest.mark.parametrize("bounds", [(-0.25, 1.5), (-0.1, 1.1), (0.1, 0.7), (-0.3, 1.3)])
def test_the_average_is_within_the_bounds_to_the_last_bit(bounds: tuple[float, float]) -> None:
    """It becomes the parameters of a trial, which are refused outside."""
    low, high = (np.full(4, bound) for bound in bounds)
    for steps in range(20, 60):
        average = descended(np.array([-9.0, 9.0, -9.0, 9.0]), steps, low=low, high=high).average
        assert np.all((low <= average) & (average <= high))


def test_with_noisy_gradients_the_average_is_nearer_than_the_last_iterate() -> None:
    target = np.array([0.4, 0.9, 0.5, 1.2])
    descent = Descent(target.copy(), np.eye(4), LOW, HIGH)
    rng = np.random.default_rng(1)
    distances: list[float] = []
    for _ in range(1500):
        descent.step(2 * (descent.point - target) + rng.normal(0, 2, 4), 0.03)
        distances.append(float(np.linalg.norm(descent.point - target)))
    assert np.linalg.norm(descent.average - target) < 0.5 * np.mean(distances)


def test_the_average_forgets_what_was_on_the_way() -> None:
    descent = Descent(np.zeros(4), np.eye(4), LOW, HIGH)
    assert descent.average == pytest.approx(np.zeros(4))
    descent.step(-np.ones(4), 0.5)
    descent.restart_average()
    assert descent.average == pytest.approx(descent.point)
    points = []
    for _ in range(3):
        descent.step(-np.ones(4), 0.1)
        points.append(descent.point)
    assert descent.average == pytest.approx(np.mean(points, axis=0))


def test_a_descent_leaves_its_subspace_only_at_the_bounds() -> None:
    basis = np.array([[1.0], [1.0], [1.0], [1.0]])
    found = descended(np.array([0.1, 0.9, 0.5, 0.7]), basis=basis).point
    assert found == pytest.approx(np.full(4, found[0]))
    assert found[0] == pytest.approx(CURVES @ [0.1, 0.9, 0.5, 0.7] / CURVES.sum(), abs=0.01)


def test_a_gradient_of_zero_moves_nothing() -> None:
    descent = Descent(np.full(4, 0.3), np.eye(4), LOW, HIGH)
    descent.step(np.zeros(4), 0.1)
    assert descent.point.tolist() == [0.3] * 4


SPACES: list[dict[str, object]] = [
    {"granularity": "grown"},
    {"granularity": "global"},
    {"granularity": "global", "modules": ["attention", "mlp", "embeddings", "head"]},
    {"granularity": "layerwise"},
    {"granularity": "layerwise", "modules": ["attention", "mlp", "embeddings", "head"]},
    {"granularity": "smooth", "anchors": 2},
]


@pytest.mark.parametrize("growth", [True, False])
@pytest.mark.parametrize("spec", SPACES)
def test_the_directions_of_a_descent_reach_every_point_of_the_space(spec: dict[str, object], growth: bool) -> None:
    parsed: SpaceSpec = TypeAdapter(SpaceSpec).validate_python(spec)
    frame = frame_of(space_of(parsed), GROUPS)
    found = directions(frame, growth)
    assert np.linalg.matrix_rank(found) == len(frame.names)
