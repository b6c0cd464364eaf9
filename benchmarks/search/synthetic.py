"""Level L0: quadratic utilities and items that are right or wrong; exact, and quick enough for every commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.search.landscape import Coefficients
from evaluators.protocol import Outcome, Split, Task
from merging.groups import Group

SIZES: Mapping[Split, int] = {"gradient": 640, "search": 512, "select": 256, "test": 3_000}
EXPERTS, LAYERS = 4, 6

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Utility:
    """How good a merge is at one task: `top` less a quadratic around `best`.

    `curvature` (`[groups, experts]`) is of every coefficient, `shared` (`[experts]`) of each expert's mean over groups:
    most of what matters lies in a few directions, as in real merges.
    """

    best: Coefficients
    curvature: Array
    shared: Array
    top: float

    def __call__(self, coefficients: Coefficients) -> float:
        off = coefficients - self.best
        return float(self.top - (self.curvature * off**2).sum() / 2 - (self.shared * off.mean(axis=0) ** 2).sum() / 2)

    def slope(self, coefficients: Coefficients) -> Coefficients:
        off = coefficients - self.best
        found: Coefficients = -self.curvature * off - self.shared * off.mean(axis=0) / len(off)
        return found


@dataclass(frozen=True)
class Item:
    """Its probability of being right is sigmoid(slope × (utility − difficulty)); it is right where that is over
    `bar`."""

    task: str
    difficulty: float
    slope: float
    bar: float

    def probability(self, utility: float) -> float:
        return float(1 / (1 + np.exp(-self.slope * (utility - self.difficulty))))


class Quadratic:
    """A task for each expert, whose utility is best near that expert alone: the tasks are at odds.

    Along the depth each task's optimum is a line and a wave, with some noise for every group.
    """

    def __init__(
        self,
        name: str,
        groups: tuple[Group, ...],
        utilities: Mapping[str, Utility],
        items: Mapping[str, Item],
        ids: Mapping[Split, Sequence[str]],
    ) -> None:
        self.name, self.groups, self.ids = name, groups, ids
        self.experts = tuple(f"expert{task}" for task in range(len(utilities)))
        self.tasks = tuple(Task(task, "acc", True, 1.0, "score") for task in utilities)
        self._utilities, self._items = utilities, items

    def score(self, coefficients: Coefficients, ids: Sequence[str]) -> list[Outcome]:
        """See `Landscape.score`."""
        utilities = {task: utility(coefficients) for task, utility in self._utilities.items()}
        found = []
        for name in ids:
            item = self._items[name]
            chance = item.probability(utilities[item.task])
            found.append(Outcome(name, float(chance > item.bar), chance, float(np.log(max(chance, 1e-300)))))
        return found

    def gradient(
        self, coefficients: Coefficients, ids: Sequence[str], scales: Mapping[str, float]
    ) -> tuple[Coefficients, list[float]]:
        """See `Landscape.gradient`. The loss of an item is −log of its probability."""
        losses = [-float(one.loglikelihood or 0.0) for one in self.score(coefficients, ids)]
        found = np.zeros_like(coefficients)
        for task, scale in scales.items():
            own = [self._items[name] for name in dict.fromkeys(ids) if self._items[name].task == task]
            utility = self._utilities[task](coefficients)
            pulls = [-item.slope * (1 - item.probability(utility)) for item in own]
            if own:
                found += scale * float(np.mean(pulls)) * self._utilities[task].slope(coefficients)
        return found, losses


def quadratic(seed: int, sizes: Mapping[Split, int] = SIZES) -> Quadratic:
    """The landscape of that seed: 4 experts, 14 groups, `sizes` items in all of each split, alike for each task."""
    rng = np.random.default_rng(seed)
    layers = [Group(layer, module) for layer in range(LAYERS) for module in ("attention", "mlp")]
    groups = (*layers, Group(None, "embeddings"), Group(None, "head"))
    depth = np.array([-1.0, *np.linspace(-1, 1, LAYERS), 1.0])
    depth = np.array([*np.repeat(depth[1:-1], 2), depth[0], depth[-1]])
    utilities = {f"task{number}": _utility(number, depth, rng) for number in range(EXPERTS)}
    items: dict[str, Item] = {}
    ids: dict[Split, list[str]] = {split: [] for split in sizes}
    for task in utilities:
        number = 0
        for split, size in sizes.items():
            for _ in range(size // EXPERTS):
                name, number = f"{task}:{number}", number + 1
                items[name] = Item(task, float(rng.normal(0, 1.2)), float(rng.lognormal(0.4, 0.4)), float(rng.random()))
                ids[split].append(name)
    return Quadratic(f"quadratic-{seed}", groups, utilities, items, ids)


def _utility(task: int, depth: Array, rng: Generator) -> Utility:
    own = np.arange(EXPERTS) == task
    level = np.where(own, 0.75, rng.uniform(0.05, 0.25, EXPERTS))
    line = rng.normal(np.where(own, 0.15, 0.0), 0.1)
    wave = rng.normal(0, 0.08, EXPERTS) * np.sin(np.pi * depth)[:, None]
    best = level + line * depth[:, None] + wave + rng.normal(0, 0.08, (len(depth), EXPERTS))
    return Utility(
        best=best,
        curvature=rng.lognormal(-1.5, 1.0, best.shape) * np.where(own, 1.0, 0.5),
        shared=rng.lognormal(np.where(own, 1.9, 0.9), 0.3),
        top=2.9,
    )
