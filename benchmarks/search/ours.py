"""The strategy `auto` as a contestant: driven by a plain loop, its every ask charged."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.search.landscape import Coefficients, Contestant, Landscape, Step, Widening
from evaluators.protocol import Split
from merging.recipe import Recipe, Source
from optimizer.auto.asks import (
    Answer,
    Array,
    Ask,
    Made,
    Recommend,
    Score,
    Scored,
    Slope,
    Sloped,
    Virtual,
)
from optimizer.auto.problem import WHOLE, Arm, Parts, Problem
from optimizer.auto.strategy import search
from optimizer.auto.values import Measure
from optimizer.auto.verdict import Verdict
from optimizer.efe import SCORED
from optimizer.virtual import STATISTICS
from optimizer.virtual import Virtual as Kind
from search_spaces.bound import BoundSpace
from search_spaces.grown import GrownSpace
from search_spaces.nested import frame_of
from search_spaces.spec import bind

SCALES = (0.2, 0.3, 0.4, 0.5, 0.6)


def auto(landscape: Landscape, budget: int, seed: int, parts: Parts = WHOLE) -> Iterator[Step]:
    """See `Contestant`. Test is not looked at; select is, and charged."""
    world = World(landscape)
    program = search(world.problem(budget, seed), parts)
    answers: list[Answer] | None = None
    while True:
        try:
            asks = program.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            verdict: Verdict = end.value
            break
        answers = [world.answer(ask) for ask in asks]
        for ask in asks:
            if isinstance(ask, Recommend):
                yield Step(world.spent, world.weights(ask.point))
    if verdict.winner is not None:
        yield Step(world.spent, world.weights(verdict.winner.place), verdict.claimed)


class World:
    """Answers asks from a landscape, and counts what they cost."""

    def __init__(self, landscape: Landscape) -> None:
        self.landscape, self.spent = landscape, 0
        self._virtual = landscape.widens if isinstance(landscape, Widening) else ()
        self._space = space_of(landscape, self._virtual)
        self._frame = frame_of(self._space, landscape.groups)

    def problem(self, budget: int, seed: int, workers: int = 1) -> Problem:
        landscape = self.landscape
        splits: tuple[Split, ...] = ("gradient", "search", "select")
        return Problem(
            frame=self._frame,
            examples={split: tuple(landscape.ids[split]) for split in splits},
            arms=_arms(landscape, self._space, self._frame.vector),
            budget=budget,
            seed=seed,
            workers=workers,
            measure=Measure(landscape.tasks),
            virtual=self._virtual,
            screened=tuple(kind for kind in self._virtual if kind not in STATISTICS),
            parents={expert: f"parent {expert}" for expert in landscape.experts},
        )

    def weights(self, point: Array) -> Coefficients:
        """The point as coefficients of the experts, and of the virtual ones where some have a say or may get one."""
        recipe = self._space.recipe(self._frame.parameters(point), whole=True)
        experts = list(recipe.experts)
        rows = np.array([recipe.coefficients[group.name] for group in self.landscape.groups])
        if len(experts) == len(self.landscape.experts):
            return rows
        wide = np.zeros((len(rows), len(self._frame.coefficients)))
        wide[:, [self._frame.coefficients.index(name) for name in experts]] = rows
        return wide

    def answer(self, ask: Ask) -> Answer:
        if isinstance(ask, Score):
            assert ask.split != "test"
            self.spent += SCORED * len(ask.ids)
            return Scored(self.landscape.score(self.weights(ask.candidate.place), ask.ids))
        if isinstance(ask, Slope):
            self.spent += ask.price
            found, losses = self.landscape.gradient(self.weights(ask.point), ask.ids, ask.scales)
            rows = {group.name: tuple(row) for group, row in zip(self.landscape.groups, found, strict=True)}
            return Sloped(self._frame.gradient(rows), losses)
        if isinstance(ask, Virtual):
            assert isinstance(self.landscape, Widening)
            self.spent += SCORED * sum(map(len, ask.examples.values()))
            self.landscape.widen(ask.name, ask.examples)
            made = {ask.name: Source(path=ask.name)}
            self._space = replace(self._space, virtual={**self._space.virtual, **made})
            return Made()
        return None


def space_of(landscape: Landscape, virtual: Sequence[Kind] = ()) -> BoundSpace:
    """The space that `auto` has where a job names none."""
    template = Recipe(
        method="task_arithmetic",
        base=Source(path="base"),
        experts={name: Source(path=name) for name in landscape.experts},
        coefficients={},
    )
    names = (*landscape.experts, *virtual)
    return bind(GrownSpace(granularity="grown"), template, landscape.groups, names, dict.fromkeys(virtual))


def _arms(landscape: Landscape, space: BoundSpace, vector: Callable[..., Array]) -> list[Arm]:
    count = len(landscape.experts)
    named = {"base": [0.0] * count}
    for position, expert in enumerate(landscape.experts):
        named[f"parent {expert}"] = [float(other == position) for other in range(count)]
    named["uniform average"] = [1 / count] * count
    named |= {f"task arithmetic {scale:g}": [scale] * count for scale in SCALES}
    beside = [0.0] * (len(space.coefficients) - count)
    found = []
    for label, row in named.items():
        parameters = space.express([*row, *beside])
        found.append(Arm(label, None if parameters is None else vector(parameters)))
    return found


CONTESTANTS: dict[str, Contestant] = {
    "auto": auto,
    "auto without gradient": partial(auto, parts=Parts(gradient=False)),
    "auto without race": partial(auto, parts=Parts(race=False)),
    "auto without growth": partial(auto, parts=Parts(growth=False)),
    "auto without virtual experts": partial(auto, parts=Parts(virtual=False)),
    "auto without gradient, virtual": partial(auto, parts=Parts(gradient=False, virtual=False)),
    "auto, best observed": partial(auto, parts=Parts(mean=False)),
}
