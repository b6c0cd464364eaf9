"""A landscape that is known in full: every example is a quadratic in the coefficients, and a threshold."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from evaluators.protocol import Outcome, Split, Task
from merging.groups import Group, groups_of
from merging.recipe import Recipe, Source
from optimizer.auto.asks import Answer, Ask, Close, Note, Recommend, Score, Scored, Slope, Sloped
from optimizer.auto.problem import Arm, Parts, Problem
from optimizer.auto.strategy import search
from optimizer.auto.values import Measure
from optimizer.auto.verdict import Verdict
from search_spaces.bound import BoundSpace
from search_spaces.grown import GrownSpace
from search_spaces.nested import Frame, frame_of
from search_spaces.spec import SpaceSpec, bind

Array = NDArray[np.float64]

EXPERTS = ("one", "two")
GROUPS: list[Group] = groups_of(
    ["model.embed_tokens.weight", "lm_head.weight"]
    + [f"model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in ("self_attn.q_proj", "mlp.up_proj")]
)
SIZES: dict[Split, int] = {"gradient": 160, "search": 240, "select": 60, "test": 2000}
STEEP = 0.06  # how far beyond its threshold an example has to be to be nearly sure


def tasks_of(count: int) -> list[Task]:
    """`count` tasks of one objective, the later the heavier."""
    return [Task(f"t{number}", "acc", True, 1.0 + number, "score") for number in range(count)]


def space_of(spec: SpaceSpec | None = None) -> BoundSpace:
    """The space of a merge of two experts over `GROUPS`."""
    template = Recipe(
        method="task_arithmetic",
        base=Source(path="base"),
        experts={name: Source(path=name) for name in EXPERTS},
        coefficients={},
    )
    space = bind(spec or GrownSpace(granularity="grown"), template, GROUPS, EXPERTS)
    assert isinstance(space, BoundSpace)
    return space


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Example i is right where its quality, 1 - c |point - its optimum|^2, is above its threshold.

    `optima` `[examples, parameters]` and `thresholds` `[examples]` are fixed; the smooth score is a logistic function
    of the same margin, the loss its negative logarithm.
    """

    tasks: Sequence[Task]
    ids: Mapping[Split, tuple[str, ...]]
    optima: Array
    thresholds: Array
    place: Mapping[str, int]
    curvature: float

    def margins(self, point: Array, ids: Sequence[str]) -> Array:
        """How far each example is beyond its threshold, in units of `STEEP`."""
        rows = [self.place[name] for name in ids]
        away = ((point - self.optima[rows]) ** 2).sum(axis=1)
        margins: Array = (1.0 - self.curvature * away - self.thresholds[rows]) / STEEP
        return margins

    def score(self, point: Array, ids: Sequence[str]) -> list[Outcome]:
        margins = self.margins(point, ids)
        smooth = 1 / (1 + np.exp(-margins))
        return [
            Outcome(name, float(margin > 0), float(share))
            for name, margin, share in zip(ids, margins, smooth, strict=True)
        ]

    def gradient(self, point: Array, ids: Sequence[str], scales: Mapping[str, float]) -> tuple[Array, list[float]]:
        """Of the sum over tasks of scale times mean loss, `[parameters]`, and every loss."""
        rows = [self.place[name] for name in ids]
        margins = self.margins(point, ids)
        names = [name.rpartition(":")[0] for name in ids]
        weights = np.array([scales[task] / names.count(task) for task in names])
        by_margin = -1 / (1 + np.exp(margins))
        by_point = -2 * self.curvature * (point - self.optima[rows]) / STEEP
        losses = np.log1p(np.exp(-margins))
        return (weights * by_margin) @ by_point, losses.tolist()

    def quality(self, point: Array) -> float:
        """The objective on the test split, which is large: as good as the truth."""
        ids = self.ids["test"]
        return Measure(self.tasks).mean(self.score(point, ids))


@cache
def landscape(tasks: int = 2, seed: int = 0) -> Quadratics:
    """Optima around (0.7, 0.35) for the two experts, other in every group; arms with one coefficient do worse."""
    rng = np.random.default_rng(seed)
    about = tasks_of(tasks)
    parameters = len(space_of().names())
    centre = np.tile([0.7, 0.35], parameters // 2) + rng.normal(0, 0.2, parameters)
    ids: dict[Split, tuple[str, ...]] = {}
    optima: list[Array] = []
    thresholds: list[float] = []
    place: dict[str, int] = {}
    for split, size in SIZES.items():
        ids[split] = tuple(f"t{number % tasks}:{split}{number}" for number in range(size))
        for name in ids[split]:
            place[name] = len(place)
            optima.append(centre + rng.normal(0, 0.12, parameters))
            thresholds.append(rng.uniform(0.2, 1.0))
    return Quadratics(about, ids, np.array(optima), np.array(thresholds), place, 0.45)


def arms_of(space: BoundSpace, frame: Frame) -> list[Arm]:
    """Base, parents, the average and two scales."""
    rows = {"base": (0.0, 0.0), "parent one": (1.0, 0.0), "parent two": (0.0, 1.0), "uniform average": (0.5, 0.5)}
    rows |= {"task arithmetic 0.3": (0.3, 0.3), "task arithmetic 0.6": (0.6, 0.6)}
    found = []
    for label, row in rows.items():
        parameters = space.express(row)
        found.append(Arm(label, None if parameters is None else frame.vector(parameters)))
    return found


def problem_of(known: Quadratics, budget: int = 6000, seed: int = 1) -> Problem:
    """The search that `auto` would make of it."""
    space = space_of()
    frame = frame_of(space, GROUPS)
    return Problem(
        frame=frame,
        examples={split: known.ids[split] for split in ("gradient", "search", "select")},
        arms=arms_of(space, frame),
        budget=budget,
        seed=seed,
        measure=Measure(known.tasks),
    )


@dataclass
class Log:
    """Everything that was asked and answered, in order, and how it ended."""

    rounds: list[tuple[list[Ask], list[Answer]]] = field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def asks(self) -> list[Ask]:
        return [ask for asks, _ in self.rounds for ask in asks]

    @property
    def scores(self) -> list[Score]:
        return [ask for ask in self.asks if isinstance(ask, Score)]

    @property
    def slopes(self) -> list[Slope]:
        return [ask for ask in self.asks if isinstance(ask, Slope)]

    @property
    def closed(self) -> list[Close]:
        return [ask for ask in self.asks if isinstance(ask, Close)]

    @property
    def notes(self) -> list[str]:
        return [ask.text for ask in self.asks if isinstance(ask, Note)]

    @property
    def spent(self) -> int:
        """In EFE, as told from the asks alone."""
        return sum(len(ask.ids) for ask in self.scores) + sum(3 * len(ask.ids) + ask.taught for ask in self.slopes)

    @property
    def answer(self) -> Array:
        """The winner's point."""
        assert self.verdict is not None
        assert self.verdict.winner is not None
        return self.verdict.winner.place


Answering = Callable[[Ask], Answer]


def answering(known: Quadratics) -> Answering:
    """Answers every ask as the landscape has it."""

    def answer(ask: Ask) -> Answer:
        if isinstance(ask, Score):
            return Scored(known.score(ask.candidate.place, ask.ids))
        if isinstance(ask, Slope):
            return Sloped(*known.gradient(ask.point, ask.ids, ask.scales))
        assert isinstance(ask, Close | Recommend | Note), f"{ask} is not for this landscape"
        return None

    return answer


EVERYTHING = Parts()


def drive(problem: Problem, answer: Answering, parts: Parts = EVERYTHING) -> Log:
    """The strategy with a plain loop in place of trials and workers."""
    log, program, answers = Log(), search(problem, parts), None
    while True:
        try:
            asks: list[Ask] = program.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            log.verdict = end.value
            return log
        answers = [answer(ask) for ask in asks]
        log.rounds.append((asks, answers))


def told(asks: Sequence[Ask]) -> Iterator[tuple[object, ...]]:
    """What can be compared of asks: everything, as plain values."""
    for ask in asks:
        if isinstance(ask, Score):
            one = ask.candidate
            point = None if one.point is None else one.point.tobytes()
            yield "score", one.number, point, one.origin, one.label, tuple(one.about.items()), ask.ids, ask.split
        elif isinstance(ask, Slope):
            yield "slope", ask.point.tobytes(), ask.ids, tuple(ask.scales.items())
        elif isinstance(ask, Close):
            yield "close", ask.candidate.number, ask.value, ask.standard_error, ask.examples
        elif isinstance(ask, Recommend):
            yield "recommend", ask.point.tobytes()
        elif isinstance(ask, Note):
            yield "note", ask.text
        else:
            raise NotImplementedError(f"{ask} is not for this landscape")


def margin(rate: float, repetitions: int) -> int:
    """How many of so many repetitions may show what happens at most at this rate: three standard deviations above."""
    return math.floor(rate * repetitions + 3 * math.sqrt(repetitions * rate * (1 - rate)))
