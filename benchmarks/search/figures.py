"""What runs say: how many examples to reach a score, how good at a cost, how honest, how long.

**Target.** On each landscape, the median over seeds of the incumbent's test score at the end of its budget.
**Reached.** A run reaches a score at the first cost (EFE) at which what it recommends then has that test score or more,
whatever it recommends later; infinity where it never does. A contestant's cost is the median over its seeds; it is
infinite where half of the seeds or more never reach it.
**Ratio.** The cost of the other over that of this one, to the same score. Where the other never reaches it, its budget
stands for its cost and the ratio is a lower bound (`at_least`); where this one never does, the ratio is 0. The interval
holds 95 % of 2,000 bootstrap repeats in which the seeds of incumbent, other and this one are drawn again, each with
replacement on their own, and the target is taken anew from the incumbent's.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.search.judge import CHECKPOINTS, Run

OFFSETS = (-0.02, 0.0, 0.01)  # of the target, in parts of 1
REPEATS = 2000


@dataclass(frozen=True)
class Ratio:
    """How many times as much the other needs; `low` and `high` are the ends of the interval, None for one seed."""

    value: float
    at_least: bool
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Figures:
    """One contestant on one landscape, medians over its seeds.

    `reached`, `incumbent_over` and `strong_over` are for the target plus each of `OFFSETS`; `at` is the test score at
    each of `CHECKPOINTS` within the incumbent's budget, None where a seed had nothing to recommend yet; a run that has
    ended keeps its answer. `optimism` is what the last answer claims minus what it has on test, None where it claims
    nothing.
    """

    landscape: str
    contestant: str
    seeds: int
    target: float
    final: float
    reached: tuple[float, ...]
    incumbent_over: tuple[Ratio, ...]
    strong_over: tuple[Ratio, ...]
    at: tuple[float | None, ...]
    optimism: float | None
    seconds: float
    processor_seconds: float


def reach(run: Run, score: float) -> float:
    """The first cost at which the run recommends something with this test score or more; infinity for never."""
    return next((float(point.efe) for point in run.points if point.test >= score - 1e-12), math.inf)


def figures(runs: Iterable[Run], incumbent: str, strong: str) -> list[Figures]:
    """Of every contestant on every landscape, in the order of the runs.

    Raises `ValueError` where a landscape has no run of the incumbent: there is no target then.
    """
    by_landscape: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        by_landscape.setdefault(run.landscape, {}).setdefault(run.contestant, []).append(run)
    found = []
    for landscape, contestants in by_landscape.items():
        if incumbent not in contestants:
            raise ValueError(f"`{landscape}` has no run of {incumbent}, so there is no target. Run it as well.")
        base, beside = contestants[incumbent], contestants.get(strong, ())
        found += [_of(own, base, beside) for own in contestants.values()]
    return found


def _of(own: Sequence[Run], incumbent: Sequence[Run], strong: Sequence[Run]) -> Figures:
    goal = target(incumbent)
    claims = [run.points[-1].claimed - run.points[-1].test for run in own if run.points[-1].claimed is not None]
    return Figures(
        landscape=own[0].landscape,
        contestant=own[0].contestant,
        seeds=len(own),
        target=goal,
        final=target(own),
        reached=tuple(_cost(own, goal + offset) for offset in OFFSETS),
        incumbent_over=tuple(ratio(own, incumbent, incumbent, offset) for offset in OFFSETS),
        strong_over=tuple(ratio(own, strong, incumbent, offset) for offset in OFFSETS) if strong else (),
        at=tuple(_score_at(own, efe) for efe in CHECKPOINTS if efe <= incumbent[0].budget),
        optimism=statistics.median(claims) if len(claims) == len(own) else None,
        seconds=statistics.median(run.seconds for run in own),
        processor_seconds=statistics.median(run.processor_seconds for run in own),
    )


def target(incumbent: Sequence[Run]) -> float:
    """The median over seeds of the test score at the end."""
    return statistics.median(run.points[-1].test for run in incumbent)


def ratio(own: Sequence[Run], other: Sequence[Run], incumbent: Sequence[Run], offset: float = 0.0) -> Ratio:
    """See the head of this file."""
    value, at_least = _ratio(own, other, target(incumbent) + offset)
    if len(own) < 2 or len(other) < 2 or len(incumbent) < 2:
        return Ratio(value, at_least, None, None)
    rng = np.random.default_rng(0)
    repeats = []
    for _ in range(REPEATS):
        drawn_incumbent = _drawn(rng, incumbent)
        drawn_other = drawn_incumbent if other is incumbent else _drawn(rng, other)
        drawn_own = drawn_incumbent if own is incumbent else drawn_other if own is other else _drawn(rng, own)
        repeats.append(_ratio(drawn_own, drawn_other, target(drawn_incumbent) + offset)[0])
    low, high = np.quantile(repeats, [0.025, 0.975], method="nearest").tolist()
    return Ratio(value, at_least, low, high)


def _ratio(own: Sequence[Run], other: Sequence[Run], score: float) -> tuple[float, bool]:
    mine, theirs = _cost(own, score), _cost(other, score)
    if math.isinf(mine):
        return 0.0, False
    if math.isinf(theirs):
        return max(run.budget for run in other) / mine, True
    return theirs / mine, False


def _drawn(rng: np.random.Generator, runs: Sequence[Run]) -> list[Run]:
    return [runs[place] for place in rng.integers(0, len(runs), len(runs))]


def _cost(runs: Sequence[Run], score: float) -> float:
    return statistics.median(reach(run, score) for run in runs)


def _score_at(runs: Sequence[Run], efe: float) -> float | None:
    found = [point.test for point in (run.at(efe) for run in runs) if point is not None]
    return statistics.median(found) if len(found) == len(runs) else None


def over_landscapes(found: Iterable[Figures]) -> Mapping[str, tuple[float, float]]:
    """For each contestant, median and least over landscapes of the incumbent's cost over its own, to the target."""
    values: dict[str, list[float]] = {}
    for one in found:
        values.setdefault(one.contestant, []).append(one.incumbent_over[OFFSETS.index(0.0)].value)
    return {name: (statistics.median(own), min(own)) for name, own in values.items()}
