"""A race ends early for those who lose it, and hardly ever for those who do not."""

import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from quadratics import margin

from optimizer.auto.race import alpha_of, hopeless, wealth

Array = NDArray[np.float64]
Drawn = Callable[[np.random.Generator, int, float], Array]

ALPHA = 0.05
EXAMPLES = 256
REPETITIONS = 400
TASKS = ["small"] * 64 + ["large"] * 192  # their examples weigh 3:1 where the tasks weigh the same
UNEQUAL = np.array([0.5 / TASKS.count(task) for task in TASKS])
EQUAL = np.full(EXAMPLES, 1 / EXAMPLES)


def zero_or_one(rng: np.random.Generator, examples: int, discordance: float) -> Array:
    """As many examples won as lost, of 0/1 scores."""
    half = round(examples * discordance / 2)
    found = np.zeros(examples)
    found[: 2 * half] = np.repeat([1.0, -1.0], half)
    return rng.permutation(found)


def continuous(rng: np.random.Generator, examples: int, discordance: float) -> Array:
    """Differences of any size in [-1, 1] that add up to 0."""
    half = round(examples * discordance / 2)
    sizes = rng.uniform(0, 1, half)
    found = np.zeros(examples)
    found[: 2 * half] = np.concatenate([sizes, -sizes])
    return rng.permutation(found)


def lopsided(rng: np.random.Generator, examples: int, discordance: float) -> Array:
    """A few examples lost entirely, many won by little: their sum is 0."""
    lost = max(1, round(examples * discordance / 8))
    won = min(examples - lost, 7 * lost)
    found = np.zeros(examples)
    found[:lost] = -1.0
    found[lost : lost + won] = lost / won
    return rng.permutation(found)


def equal_in_every_task(rng: np.random.Generator, drawn: Drawn, discordance: float) -> Array:
    """Differences over `TASKS` whose weighted mean is 0, task by task."""
    return np.concatenate(
        [drawn(rng, TASKS.count("small"), discordance), drawn(rng, TASKS.count("large"), discordance)]
    )


def given_up_after(differences: Array, weights: Array, block: int, alpha: float = ALPHA) -> int | None:
    """How many examples a race takes to give the candidate up, None where it never does."""
    total = len(differences)
    looks: list[int] = [*range(block, total, block), total]
    for seen in looks:
        if hopeless(differences[:seen], weights[:seen], total, float(weights.max()), alpha):
            return seen
    return None


def given_up(rng: np.random.Generator, draw: Callable[[], Array], weights: Array, block: int, repetitions: int) -> int:
    """How many of so many candidates are given up, each on a permutation of its own."""
    count = 0
    for _ in range(repetitions):
        order = rng.permutation(len(weights))
        count += given_up_after(draw()[order], weights[order], block) is not None
    return count


@pytest.mark.parametrize("drawn", [zero_or_one, continuous, lopsided])
@pytest.mark.parametrize("discordance", [0.05, 0.15, 0.30])
@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL], ids=["equal weights", "unequal weights"])
def test_an_equal_candidate_is_given_up_in_at_most_one_race_of_twenty(
    drawn: Drawn, discordance: float, weights: Array
) -> None:
    rng = np.random.default_rng(1)
    wrong = given_up(rng, lambda: equal_in_every_task(rng, drawn, discordance), weights, 64, REPETITIONS)
    assert wrong <= margin(ALPHA, REPETITIONS)


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL], ids=["equal weights", "unequal weights"])
def test_looking_after_every_block_does_not_give_up_more(block: int, weights: Array) -> None:
    rng = np.random.default_rng(2)
    wrong = given_up(rng, lambda: equal_in_every_task(rng, zero_or_one, 0.3), weights, block, REPETITIONS)
    assert wrong <= margin(ALPHA, REPETITIONS)


def test_a_candidate_that_loses_one_task_and_wins_as_much_by_another_is_equal() -> None:
    """Examples of the small task weigh three times as much, so three won in the large one make up for one lost."""
    rng = np.random.default_rng(3)
    differences = np.concatenate([-np.ones(20), np.zeros(44), np.ones(60), np.zeros(132)])
    assert UNEQUAL @ differences == pytest.approx(0, abs=1e-12)
    wrong = given_up(rng, lambda: differences, UNEQUAL, 64, REPETITIONS)
    assert wrong <= margin(ALPHA, REPETITIONS)


@pytest.mark.parametrize("discordance", [0.05, 0.15, 0.30])
def test_a_better_candidate_is_given_up_even_less_often(discordance: float) -> None:
    rng = np.random.default_rng(4)

    def better() -> Array:
        found = zero_or_one(rng, EXAMPLES, discordance)
        found[rng.choice(np.flatnonzero(found == 0), 13, replace=False)] = 1.0  # 5 points
        return found

    assert given_up(rng, better, EQUAL, 16, REPETITIONS) <= margin(0.01, REPETITIONS)


def test_a_candidate_worse_by_no_more_than_the_tolerance_is_kept_as_an_equal_one_is() -> None:
    rng = np.random.default_rng(5)
    lost = round(0.04 * EXAMPLES)
    wrong = 0
    for _ in range(REPETITIONS):
        found = zero_or_one(rng, EXAMPLES, 0.2)
        found[rng.choice(np.flatnonzero(found == 0), lost, replace=False)] = -1.0
        tolerance = lost / EXAMPLES
        wrong += hopeless(rng.permutation(found), EQUAL, EXAMPLES, 1 / EXAMPLES, ALPHA, tolerance)
    assert wrong <= margin(ALPHA, REPETITIONS)


@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL], ids=["equal weights", "unequal weights"])
def test_a_clearly_worse_candidate_is_given_up_before_half_of_the_examples(weights: Array) -> None:
    rng = np.random.default_rng(6)
    found = []
    for _ in range(100):
        order = rng.permutation(EXAMPLES)
        won = rng.random(EXAMPLES)
        differences = np.where(won < 0.35, -1.0, np.where(won > 0.95, 1.0, 0.0))  # 30 points worse
        found.append(given_up_after(differences[order], weights[order], 16) or EXAMPLES)
    assert np.median(found) <= EXAMPLES / 2
    assert np.mean(np.array(found) < EXAMPLES) > 0.95


def test_a_worse_candidate_is_given_up_the_later_the_smaller_the_gap() -> None:
    rng = np.random.default_rng(7)
    medians = []
    for gap in (0.4, 0.2, 0.1):
        seen = []
        for _ in range(60):
            won = rng.random(EXAMPLES)
            differences = np.where(won < 0.1 + gap, -1.0, np.where(won > 0.9, 1.0, 0.0))
            seen.append(given_up_after(differences, EQUAL, 16) or EXAMPLES)
        medians.append(float(np.median(seen)))
    assert medians[0] < medians[1] < medians[2]


@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL], ids=["equal weights", "unequal weights"])
def test_at_the_end_worse_is_certain_and_equal_is_not(weights: Array) -> None:
    order = np.random.default_rng(8).permutation(EXAMPLES)
    largest = float(weights.max())
    differences = equal_in_every_task(np.random.default_rng(9), zero_or_one, 0.1)
    kept = wealth(differences[order], weights[order], EXAMPLES, largest)
    assert np.isfinite(kept)
    differences[np.flatnonzero(differences == 0)[-1]] = -0.01  # as little worse as that
    assert wealth(differences[order], weights[order], EXAMPLES, largest) == np.inf
    assert hopeless(differences[order], weights[order], EXAMPLES, largest, 1e-300)


def test_what_the_rest_cannot_make_up_for_is_certain_before_the_end() -> None:
    lost = -np.ones(6)
    weights = np.full(10, 0.1)
    assert wealth(lost, weights[:6], 10, 0.1) == np.inf
    assert np.isfinite(wealth(lost[:5], weights[:5], 10, 0.1)), "the other five may all be won"


def test_a_bet_that_was_won_stays_won_whatever_comes_after() -> None:
    """Also where a candidate could only be equal if it won every example that was left, and does."""
    differences = np.concatenate([-np.ones(20), np.ones(20)])
    weights = np.full(40, 1 / 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reached = [wealth(differences[:seen], weights[:seen], 40, 1 / 40) for seen in range(41)]
    assert all(before <= after for before, after in pairwise(reached))


def test_nothing_seen_is_nothing_known() -> None:
    assert wealth(np.array([]), np.array([]), 10, 0.1) == 1.0
    assert not hopeless(np.array([]), np.array([]), 10, 0.1, ALPHA)


def test_all_the_incumbents_a_candidate_meets_share_one_alpha() -> None:
    allowed = [alpha_of(ALPHA, incumbent) for incumbent in range(1, 20001)]
    assert all(one > other for one, other in pairwise(allowed))
    assert sum(allowed) <= ALPHA
    assert sum(allowed) == pytest.approx(ALPHA, rel=1e-4)
