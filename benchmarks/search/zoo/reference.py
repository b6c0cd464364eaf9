"""What is known about a zoo before any search: the numbers that say how hard it is to merge."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.search.landscape import Coefficients, Landscape
from evaluators.aggregate import objectives

GRID = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0)
STEPS, LOOKS, BATCH, RATE = 160, 8, 32, 0.03


@dataclass(frozen=True)
class Reference:
    """One merge, and its mean metric: over all tasks of the test split, and for each of them."""

    label: str
    test: float
    by_task: dict[str, float]


def references(landscape: Landscape) -> Iterator[Reference]:
    """Base, parents, uniform average, best single scale, and gradient on scales per expert and on every coefficient.

    The scale is chosen on `search`; gradients come from `gradient`, how long to follow them is chosen on `search` and
    `select`. Test is read for the chosen ones only.
    """
    shape = len(landscape.groups), len(landscape.experts)
    yield _measured(landscape, "base", np.zeros(shape))
    for number, expert in enumerate(landscape.experts):
        alone = np.zeros(shape)
        alone[:, number] = 1.0
        yield _measured(landscape, f"parent {expert}", alone)
    yield _measured(landscape, "uniform average", np.full(shape, 1 / shape[1]))
    held_out = list(landscape.ids["search"])
    scale = max(GRID, key=lambda one: mean(landscape, np.full(shape, one), held_out))
    best = np.full(shape, scale)
    yield _measured(landscape, f"best single scale, {scale:g}", best)
    yield _measured(landscape, "gradient, a scale per expert", descended(landscape, best, per_group=False))
    yield _measured(landscape, "gradient, every coefficient", descended(landscape, best, per_group=True))


def descended(landscape: Landscape, start: Coefficients, per_group: bool, seed: int = 0) -> Coefficients:
    """The best average of Adam's iterates from `start`, as `search` and `select` see it.

    Batches are balanced over the tasks. Without `per_group` all groups move as one. `start` itself may be best.
    """
    held_out = [*landscape.ids["search"], *landscape.ids["select"]]
    scales = {task.name: 1 / len(landscape.tasks) for task in landscape.tasks}
    batches = _batches(landscape, random.Random(seed))
    at, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    seen = [start]
    total, count = np.zeros_like(start), 0
    for step in range(1, STEPS + 1):
        slope, _ = landscape.gradient(at, next(batches), scales)
        if not per_group:
            slope = np.broadcast_to(slope.sum(axis=0), slope.shape)
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope**2
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        at = at - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        total, count = total + at, count + 1
        if step % (STEPS // LOOKS) == 0:
            seen.append(total / count)
            total, count = np.zeros_like(start), 0
    return max(seen, key=lambda one: mean(landscape, one, held_out))


def mean(landscape: Landscape, coefficients: Coefficients, ids: list[str]) -> float:
    """The tasks' mean metric over the examples, weighted as the tasks say."""
    return next(iter(objectives(landscape.score(coefficients, ids), landscape.tasks).values()))


def _measured(landscape: Landscape, label: str, coefficients: Coefficients) -> Reference:
    outcomes = landscape.score(coefficients, landscape.ids["test"])
    by_task = {
        task.name: float(np.mean([one.metric for one in outcomes if one.id.partition(":")[0] == task.name]))
        for task in landscape.tasks
    }
    return Reference(label, next(iter(objectives(outcomes, landscape.tasks).values())), by_task)


def _batches(landscape: Landscape, rng: random.Random) -> Iterator[list[str]]:
    """Balanced batches of the gradient split, each task's examples in new orders without end."""
    waiting: dict[str, list[str]] = {task.name: [] for task in landscape.tasks}
    while True:
        batch = []
        for task, left in waiting.items():
            for _ in range(BATCH // len(waiting)):
                if not left:
                    own = [one for one in landscape.ids["gradient"] if one.partition(":")[0] == task]  # type: ignore[index]
                    left.extend(rng.sample(own, len(own)))
                batch.append(left.pop())
        yield batch
