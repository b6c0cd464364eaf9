"""The evolution strategy: seeded, within the bounds, and better with every few generations."""

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.auto.evolution import Evolution
from optimizer.engines.cma_es import population

Array = NDArray[np.float64]


def evolution(
    start: Array, seed: int = 0, low: float = -0.25, high: float = 1.5, sigma: float = 0.15, basis: Array | None = None
) -> Evolution:
    size = len(start)
    basis = np.eye(size) if basis is None else basis
    members = population(basis.shape[1])
    bounds = np.full(size, low), np.full(size, high)
    return Evolution(start, basis, *bounds, sigma=sigma, members=members, seed=seed)


def run(one: Evolution, target: Array, generations: int, noise: float = 0.0) -> list[Array]:
    rng = np.random.default_rng(5)
    asked = []
    for _ in range(generations):
        members = one.ask()
        asked += members
        one.tell([-float(((point - target) ** 2).sum()) + rng.normal(0, noise) for point in members])
    return asked


def test_the_same_seed_asks_for_the_same_members_and_another_for_others() -> None:
    start, target = np.full(5, 0.4), np.linspace(0, 1, 5)
    first, again, other = (run(evolution(start, seed), target, 5) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], other[0])


def test_a_member_depends_on_its_place_alone_not_on_how_many_were_drawn_before() -> None:
    start = np.full(3, 0.4)
    one, other = evolution(start), evolution(start)
    other.ask()
    assert np.array_equal(one.ask(), other.ask())


@pytest.mark.parametrize("place", [0.4, -0.25, 1.5])
def test_every_member_is_within_the_bounds_wherever_the_search_begins(place: float) -> None:
    start = np.full(12, place)
    one = evolution(start, sigma=0.5)
    asked = run(one, np.full(12, 9.0), 15)  # the better, the further outside
    assert all(np.all((point >= -0.25) & (point <= 1.5)) for point in asked)
    assert np.all((one.mean >= -0.25) & (one.mean <= 1.5))


def test_a_search_that_begins_in_a_corner_of_the_bounds_has_members_that_differ() -> None:
    """The base, a parent: in a space with bounds [0, 1] they are corners."""
    one = evolution(np.zeros(20), low=0.0, high=1.0)
    members = one.ask()
    assert len({point.tobytes() for point in members}) == len(members)
    assert float(np.std(members, axis=0).max()) > 0.01


def test_a_noisy_quadratic_is_improved_and_the_mean_is_better_than_its_members() -> None:
    start, target = np.full(6, 0.2), np.array([0.9, 0.1, 0.6, 0.4, 0.8, 0.3])
    one = evolution(start)
    asked = run(one, target, 30, noise=0.05)
    assert np.sum((one.mean - target) ** 2) < 0.2 * np.sum((start - target) ** 2)
    last = asked[-population(6) :]
    assert np.sum((one.mean - target) ** 2) < np.mean([np.sum((point - target) ** 2) for point in last])


def test_the_mean_begins_at_the_start_and_moves_in_the_subspace_only() -> None:
    start = np.full(4, 0.4)
    basis = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    one = evolution(start, basis=basis)
    assert np.array_equal(one.mean, start)
    asked = run(one, np.array([0.9, 0.9, 0.1, 0.1]), 10)
    assert all(point[0] == point[1] and point[2] == point[3] for point in asked)
    assert one.mean[0] > 0.5 > 0.3 > one.mean[2]


def test_members_that_failed_are_moved_away_from() -> None:
    one = evolution(np.full(3, 0.4))
    for _ in range(10):
        one.tell([float(point[0]) if point[0] > 0.3 else -np.inf for point in one.ask()])
    assert one.mean[0] > 0.5
    assert np.all(np.isfinite(one.mean))
    assert np.isfinite(one.spread)


def test_the_spread_shrinks_where_there_is_nothing_to_find_but_the_middle() -> None:
    one = evolution(np.full(3, 0.5))
    before = one.spread
    run(one, np.full(3, 0.5), 40)
    assert before == pytest.approx(0.15)
    assert one.spread < 0.3 * before


def test_generations_are_counted_and_one_dimension_is_enough() -> None:
    one = evolution(np.array([0.2]))
    run(one, np.array([0.8]), 12)
    assert one.generation == 12
    assert one.mean[0] == pytest.approx(0.8, abs=0.1)


def test_a_generation_grows_slowly_with_the_dimensions() -> None:
    assert [population(dimensions) for dimensions in (1, 2, 4, 12, 56)] == [4, 6, 8, 11, 16]
