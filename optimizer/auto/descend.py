"""The gradient stage: descent on fresh gradient examples, every group moved with its expert and on its own."""

import math

import numpy as np

from optimizer.auto.asks import Array, Candidate, Note, Recommend, Sloped
from optimizer.auto.descent import Descent
from optimizer.auto.problem import Parts
from optimizer.auto.state import Asking, State
from optimizer.efe import DIFFERENTIATED, SCORED
from search_spaces.nested import Frame

BATCH = 16
RATE = 0.03  # of a coefficient that moves with all others; measured on the zoos of benchmarks/search
OWN = {"scales": 1.0, "depth": 0.7, "full": 0.5}  # how fast each stage's own directions move
LEAST_STEPS, MOST_STEPS = 8, 160
ROUNDS = 8
STAGE = "gradient"
CHECK = 64  # examples that a round's answer is compared with its start on; more in later rounds


def descend(state: State, leader: Candidate, parts: Parts) -> Asking:
    """The leader after descent, in rounds: each is twice as long as the last, as long as it helps.

    The first is at most one pass over the gradient split. A round's answer takes over only where it is better than its
    start on search examples, which the gradient has not seen.
    """
    size = batch_size(state)
    steps = max(LEAST_STEPS, len(state.problem.examples["gradient"]) // size)
    taught = state.problem.measure.taught(state.problem.examples["gradient"])
    price = DIFFERENTIATED + (SCORED if taught else 0)  # at most, of an example
    for number in range(ROUNDS):
        look = state.size("search", CHECK * 2 ** min(number, 2))
        room = min(int((0.6 if number == 0 else 0.5) * state.left), state.left - state.reserve - 2 * look)
        steps = min(steps, room // (price * size), MOST_STEPS)
        if steps < LEAST_STEPS or state.over():
            break
        point = yield from _round(state, leader, steps, parts)
        if point is None:
            break
        found = state.candidate(point, "search", f"gradient {number + 1}", stage=STAGE, round=number)
        ids = state.fresh("search", look, "check")
        yield from state.score([(leader, ids), (found, ids)])
        if found.number in state.failed or state.paired(found, leader)[0] < 0:
            yield [Recommend(leader.place)]
            if number == 0:
                yield [Note("The gradient's answer was no better than its start on search examples, and was left.")]
            break
        leader, steps = found, steps * 2
    return leader


def batch_size(state: State) -> int:
    """The examples of a gradient batch: more where many workers would wait for few, up to four times as many."""
    return state.size("gradient", BATCH * min(4, max(1, state.problem.workers // 4)))


def _round(state: State, leader: Candidate, steps: int, parts: Parts) -> Asking:
    """The averaged iterate of one descent from the leader, with a rate that falls to a tenth (cosine).

    None where there was no step.
    """
    frame = state.frame
    descent = Descent(leader.place, directions(frame, parts.growth), frame.low, frame.high)
    for step in range(steps):
        if step in (steps // 8, steps // 4, steps // 2):
            descent.restart_average()
        ids = state.fresh("gradient", batch_size(state), "descent")
        answer = (yield [state.slope(descent.point, ids)])[0]
        assert isinstance(answer, Sloped)
        if answer.error is not None:
            yield [Note(f"A descent ended after {step} steps: {answer.error}")]
            break
        descent.step(answer.gradient, RATE * max(0.1, 0.5 * (1 + math.cos(math.pi * step / steps))))
        if step >= steps // 8:
            yield [Recommend(descent.average)]
    return descent.average if descent.steps else None


def directions(frame: Frame, growth: bool) -> Array:
    """What the descent moves along, `[parameters, directions]`: more than there are parameters.

    Scales, slopes over depth and every coefficient by itself, the wider a direction the faster. So what all groups of
    an expert have in common is found in a few steps, and a group leaves it only as far as its own gradient insists.
    """
    free = np.any(frame.stages[-1].basis != 0, axis=1)
    each = np.eye(len(free))[:, free]
    if not growth:
        return each
    columns, before = [OWN["full"] * each], 0
    for stage in frame.stages:
        if stage.name in ("scales", "depth"):
            columns.append(OWN[stage.name] * stage.basis[:, before:])
        before = stage.dimensions
    return np.concatenate(columns, axis=1)
