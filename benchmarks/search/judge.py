"""One contestant on one landscape with one seed: what it recommended, and what that is worth on test."""

import json
import os
import re
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.landscape import Coefficients, Contestant, Landscape, Step
from benchmarks.search.meter import Meter
from evaluators.aggregate import objectives

CHECKPOINTS = (1_000, 3_000, 10_000, 30_000, 100_000)
LOOKS, FIRST_LOOK = 28, 100  # how often, and from what EFE on, test is looked at


@dataclass(frozen=True)
class Point:
    """What was recommended from `efe` on: its test score, and the search score claimed for it, None where none was."""

    efe: int
    test: float
    claimed: float | None


@dataclass(frozen=True)
class Run:
    """`seconds` and `processor_seconds` are the contestant's with the scoring it asked for, without that of test."""

    landscape: str
    contestant: str
    seed: int
    budget: int
    points: tuple[Point, ...]
    seconds: float
    processor_seconds: float

    def at(self, efe: float) -> Point | None:
        """What was recommended at this cost, None where there was nothing yet."""
        place = bisect_right([point.efe for point in self.points], efe)
        return self.points[place - 1] if place else None


def judged(name: str, contestant: Contestant, landscape: Landscape, budget: int, seed: int) -> Run:
    """Run it. Raises `Refused` where it asks for what it may not have, and `ValueError` where it miscounts."""
    meter = Meter(landscape, budget)
    began, began_processor = time.perf_counter(), time.process_time()
    steps = []
    for step in contestant(meter, budget, seed):
        if step.efe != meter.spent:
            raise ValueError(
                f"a step must have the EFE spent so far, but {name} says {step.efe} where {meter.spent} were charged."
            )
        steps.append(step)
    seconds, processor = time.perf_counter() - began, time.process_time() - began_processor
    if not steps:
        raise ValueError(f"{name} answered nothing within {budget} EFE. Give it a larger budget.")
    points = _on_test(landscape, looked_at(steps, budget))
    return Run(landscape.name, name, seed, budget, points, round(seconds, 3), round(processor, 3))


def looked_at(steps: Sequence[Step], budget: int) -> list[Step]:
    """The steps that stand at some 28 costs, evenly spread over the logarithm, at the checkpoints, and at the end.

    What was recommended and replaced between two looks is not seen: a target counts as reached up to 30 % later
    than it was.
    """
    grid = np.geomspace(min(FIRST_LOOK, budget), budget, LOOKS).tolist()
    costs = [step.efe for step in steps]
    standing = {bisect_right(costs, efe) - 1 for efe in (*grid, *CHECKPOINTS)} | {len(steps) - 1}
    return [steps[place] for place in sorted(standing) if place >= 0]


def _on_test(landscape: Landscape, steps: Sequence[Step]) -> tuple[Point, ...]:
    known: dict[bytes, float] = {}
    found = []
    for step in steps:
        key = np.ascontiguousarray(step.recommended).tobytes()
        if key not in known:
            known[key] = _test_score(landscape, step.recommended)
        found.append(Point(step.efe, known[key], step.claimed))
    return tuple(found)


def _test_score(landscape: Landscape, coefficients: Coefficients) -> float:
    return next(iter(objectives(landscape.score(coefficients, landscape.ids["test"]), landscape.tasks).values()))


def path_of(folder: Path, landscape: str, contestant: str, budget: int, seed: int) -> Path:
    """Where a run is kept."""
    slug = re.sub(r"[^a-z0-9]+", "-", contestant.lower()).strip("-")
    return folder / landscape / slug / f"budget-{budget}-seed-{seed}.json"


def written(run: Run, folder: Path) -> Path:
    """Keep a run: complete or absent."""
    path = path_of(folder, run.landscape, run.contestant, run.budget, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(json.dumps(asdict(run)) + "\n")
    beside.rename(path)
    return path


def read(path: Path) -> Run:
    """A run that was kept."""
    kept: Mapping[str, Any] = json.loads(path.read_text())
    return Run(**{**kept, "points": tuple(Point(**point) for point in kept["points"])})
