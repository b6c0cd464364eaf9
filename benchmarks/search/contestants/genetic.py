"""A genetic algorithm in the style of mergenetic (Mencattini et al. 2025, arXiv:2502.10436).

As in its experiments: 25 recipes, 7 generations with the first, every coefficient one of 0, 0.1, ..., 1, and 20 random
examples for the fitness, the same throughout. The operators are those that its library, pymoo, has by default: binary
tournaments, simulated binary crossover (Deb & Agrawal 1995), polynomial mutation (Deb & Goyal 1996), rounded to the
levels, no recipe twice, the best of parents and children survive. Not imitated: SLERP of two models, and fitness
predicted by item response theory from downloaded parameters.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.contestants.full_split import FullSplit, shape
from benchmarks.search.landscape import Landscape, Step

POPULATION, GENERATIONS, ITEMS = 25, 7, 20
LEVELS = 10  # steps from 0 to 1
CROSSED, CROSSED_EACH, CROSSOVER_ETA = 0.9, 0.5, 15.0
MUTATED, MUTATION_ETA = 0.9, 20.0

Array = NDArray[np.float64]


def genetic(landscape: Landscape, budget: int, seed: int, *, items: int | None = ITEMS) -> Iterator[Step]:
    """See `Contestant`. `items` None is the whole search split. Ends after its generations, whatever is left.

    Answers with the best observed.
    """
    rng = np.random.default_rng(seed)
    split = FullSplit(landscape, budget, None if items is None else _drawn(landscape, items, rng))
    wide = shape(landscape)
    genes = rng.integers(0, LEVELS + 1, (POPULATION, wide[0] * wide[1])).astype(float)
    kept, fitness = np.empty((0, genes.shape[1])), np.empty(0)
    for _ in range(GENERATIONS):
        values = []
        for gene in genes:
            if split.over:
                return
            values.append(split.score(gene.reshape(wide) / LEVELS))
            yield split.step()
        kept, fitness = np.vstack([kept, genes]), np.append(fitness, values)
        best = np.argsort(-fitness, kind="stable")[:POPULATION]
        kept, fitness = kept[best], fitness[best]
        genes = _children(rng, kept, fitness)


def _drawn(landscape: Landscape, items: int, rng: np.random.Generator) -> list[str]:
    """Random examples, the same number of every task: with none of a task there would be no mean."""
    found = []
    for task in landscape.tasks:
        own = [name for name in landscape.ids["search"] if name.rpartition(":")[0] == task.name]
        found += rng.choice(own, max(1, items // len(landscape.tasks)), replace=False).tolist()
    return found


def _children(rng: np.random.Generator, parents: Array, fitness: Array) -> Array:
    seen = {gene.tobytes() for gene in parents}
    found: list[Array] = []
    for _ in range(100 * POPULATION):
        for child in _crossed(rng, *(parents[_tournament(rng, fitness)] for _ in range(2))):
            mutated = np.round(_mutated(rng, child))
            if mutated.tobytes() not in seen and len(found) < POPULATION:
                seen.add(mutated.tobytes())
                found.append(mutated)
        if len(found) == POPULATION:
            break
    return np.array(found).reshape(-1, parents.shape[1])


def _tournament(rng: np.random.Generator, fitness: Array) -> int:
    one, other = rng.choice(len(fitness), 2, replace=False)
    return int(one if fitness[one] >= fitness[other] else other)


def _crossed(rng: np.random.Generator, one: Array, other: Array) -> tuple[Array, Array]:
    """Simulated binary crossover, in the form that keeps within [0, LEVELS]."""
    first, second = one.copy(), other.copy()
    at = (rng.random(len(one)) < CROSSED_EACH) & (one != other)
    if rng.random() >= CROSSED or not at.any():
        return first, second
    low, high = np.minimum(one, other)[at], np.maximum(one, other)[at]
    share, gap = rng.random(len(low)), high - low

    def spread(room: Array) -> Array:
        alpha = 2 - (1 + 2 * room / gap) ** -(CROSSOVER_ETA + 1)
        inside = share <= 1 / alpha
        base = np.where(inside, share * alpha, 1 / (2 - np.where(inside, 0.0, share * alpha)))
        found: Array = base ** (1 / (CROSSOVER_ETA + 1))
        return found

    below = (low + high - spread(low) * gap) / 2
    above = (low + high + spread(LEVELS - high) * gap) / 2
    swapped = rng.random(len(low)) < 0.5
    first[at], second[at] = np.where(swapped, above, below), np.where(swapped, below, above)
    return np.clip(first, 0, LEVELS), np.clip(second, 0, LEVELS)  # undoes rounding alone


def _mutated(rng: np.random.Generator, gene: Array) -> Array:
    """Polynomial mutation, in the form that keeps within [0, LEVELS]; one gene in d on average."""
    found = gene.copy()
    at = rng.random(len(gene)) < 1 / len(gene)
    if rng.random() >= MUTATED or not at.any():
        return found
    share, place, power = rng.random(int(at.sum())), gene[at] / LEVELS, MUTATION_ETA + 1
    down = (2 * share + (1 - 2 * share) * (1 - place) ** power) ** (1 / power) - 1
    up = 1 - (2 * (1 - share) + 2 * (share - 0.5) * place**power) ** (1 / power)
    found[at] = np.clip(gene[at] + LEVELS * np.where(share <= 0.5, down, up), 0, LEVELS)
    return found
