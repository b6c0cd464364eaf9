"""The gradient stage: one pass over fresh gradient examples, in few dimensions first."""

import math

import numpy as np

from optimizer.auto.asks import Candidate, Note, Recommend, Slope, Sloped
from optimizer.auto.descent import Descent
from optimizer.auto.problem import Parts
from optimizer.auto.state import DIFFERENTIATED, Asking, State
from optimizer.auto.values import loss_scales, task_of

BATCH = 16
RATES = {"scales": 0.04, "depth": 0.03, "smooth": 0.02, "full": 0.02}
SHARE = {"scales": 0.2, "depth": 0.15, "smooth": 0.25, "full": 0.4}  # of the steps
CHECK = 64  # examples that start and answer are compared on


def descend(state: State, leader: Candidate, parts: Parts) -> Asking:
    """The leader after descent: the answer of the descent where it is better than the start on fresh examples."""
    problem, frame = state.problem, state.problem.frame
    steps = min(len(problem.examples["gradient"]) // BATCH, int(0.5 * state.left) // (BATCH * DIFFERENTIATED))
    stages = frame.stages if parts.growth else frame.stages[-1:]
    point, scales = leader.point, None
    whole = sum(SHARE[stage.name] for stage in stages)
    for stage in stages:
        descent = Descent(point, stage.basis, frame.low, frame.high)
        count = max(1, round(steps * SHARE[stage.name] / whole))
        for step in range(count):
            if step == count // 3:
                descent.restart_average()
            ids = state.fresh("gradient", BATCH, "descent")
            scales = scales or dict(problem.measure.counted())
            state.spent += DIFFERENTIATED * len(ids)
            answer = (yield [Slope(descent.point, ids, scales)])[0]
            assert isinstance(answer, Sloped)
            if answer.error is not None:
                yield [Note(f"The descent ended early: {answer.error}")]
                break
            rate = RATES[stage.name] * 0.5 * (1 + math.cos(math.pi * step / count))
            descent.step(answer.gradient, max(rate, 0.1 * RATES[stage.name]))
            if step > count // 3:
                yield [Recommend(descent.average)]
        point = descent.average
        yield [Recommend(point)]
    found = state.candidate(point, "search", "the gradient's answer", stage=stages[-1].name)
    ids = state.fresh("search", CHECK, "check")
    yield from state.score([(leader, ids), (found, ids)])
    difference, error = state.paired(found, leader)
    yield [state.close(found)]
    if found.number in state.failed or difference < 0:
        yield [Recommend(leader.point), Note("The gradient's answer is no better than its start, and was left.")]
        return leader
    return found
