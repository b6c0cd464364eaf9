"""The strategy `auto` as a contestant: driven by a plain loop, its every ask charged."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.search.landscape import Coefficients, Landscape, Step
from merging.recipe import Recipe, Source
from optimizer.auto.asks import Answer, Array, Ask, Candidate, Recommend, Score, Scored, Slope, Sloped
from optimizer.auto.problem import Arm, Parts, Problem
from optimizer.auto.state import DIFFERENTIATED, SCORED
from optimizer.auto.strategy import search
from optimizer.auto.values import Measure
from search_spaces.bound import BoundSpace
from search_spaces.grown import GrownSpace
from search_spaces.nested import frame_of
from search_spaces.spec import bind

SCALES = (0.2, 0.3, 0.4, 0.5, 0.6)


def auto(landscape: Landscape, budget: int, seed: int, parts: Parts = Parts()) -> Iterator[Step]:
    """See `Contestant`. Test is not looked at; select is, and charged."""
    space = space_of(landscape)
    frame = frame_of(space, landscape.groups)

    def rows(point: Array) -> Coefficients:
        recipe = space.recipe(frame.parameters(point))
        return np.array([recipe.coefficients[group.name] for group in landscape.groups])

    problem = Problem(
        frame=frame,
        tasks=landscape.tasks,
        examples={split: tuple(landscape.ids[split]) for split in ("gradient", "search", "select")},
        arms=_arms(landscape, space, frame.vector),
        budget=budget,
        seed=seed,
        measure=Measure(landscape.tasks),
    )
    program = search(problem, parts)
    spent, answers = 0, None
    try:
        while True:
            asks: list[Ask] = program.send(answers)  # type: ignore[arg-type]
            answers = []
            for ask in asks:
                found, cost = _answer(landscape, rows, frame.gradient, ask)
                spent += cost
                answers.append(found)
                if isinstance(ask, Recommend):
                    yield Step(spent, rows(ask.point))
    except StopIteration as end:
        winner: Candidate | None = end.value.winner
        if winner is not None and winner.point is not None:
            yield Step(spent, rows(winner.point), end.value.claimed)


def _answer(
    landscape: Landscape, rows: Callable[[Array], Coefficients], pull: Callable[..., Array], ask: Ask
) -> tuple[Answer, int]:
    if isinstance(ask, Score):
        assert ask.split != "test" and ask.candidate.point is not None
        return Scored(landscape.score(rows(ask.candidate.point), ask.ids)), SCORED * len(ask.ids)
    if isinstance(ask, Slope):
        found, losses = landscape.gradient(rows(ask.point), ask.ids, ask.scales)
        by_group = {group.name: row for group, row in zip(landscape.groups, found, strict=True)}
        return Sloped(pull(by_group), losses), DIFFERENTIATED * len(ask.ids)
    return None, 0


def space_of(landscape: Landscape) -> BoundSpace:
    """The space that `auto` has where a job names none."""
    template = Recipe(
        method="task_arithmetic",
        base=Source(path="base"),
        experts={name: Source(path=name) for name in landscape.experts},
        coefficients={},
    )
    return bind(GrownSpace(granularity="grown"), template, landscape.groups, landscape.experts)


def _arms(landscape: Landscape, space: BoundSpace, vector: Callable[..., Array]) -> list[Arm]:
    count = len(landscape.experts)
    named = {"base": [0.0] * count}
    for position, expert in enumerate(landscape.experts):
        named[f"parent {expert}"] = [float(other == position) for other in range(count)]
    named["uniform average"] = [1 / count] * count
    named |= {f"task arithmetic {scale:g}": [scale] * count for scale in SCALES}
    found = []
    for label, row in named.items():
        parameters = space.express(row)
        found.append(Arm(label, None if parameters is None else vector(parameters)))
    return found


CONTESTANTS = {
    "auto": auto,
    "auto without gradient": partial(auto, parts=Parts(gradient=False)),
    "auto without race": partial(auto, parts=Parts(race=False)),
    "auto without growth": partial(auto, parts=Parts(growth=False)),
    "auto, best observed": partial(auto, parts=Parts(mean=False)),
}
