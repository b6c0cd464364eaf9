"""CMA-ES on fresh minibatches, in few dimensions first: its answer is the distribution's mean."""

import numpy as np

from optimizer.auto.asks import Candidate, Recommend
from optimizer.auto.evolution import Evolution
from optimizer.auto.problem import Parts
from optimizer.auto.state import Asking, State
from optimizer.engines.cma_es import population
from optimizer.engines.seeds import seed_for
from search_spaces.nested import Stage

BATCH = 64  # examples that every member of a generation is scored on, fresh ones for each
ROUND = 6  # generations between two looks at whether they help
LOOK = 128  # examples of a look
ROUNDS = 6
SIGMA_FIRST, SIGMA_REFINED = 0.15, 0.04
EXAMPLES_PER_DIMENSION = 30  # fewer distinct examples would be fitted, not learned from


def climb(state: State, leader: Candidate, parts: Parts, refined: bool) -> Asking:
    """The leader after CMA-ES in one stage after the other, as far as examples and budget allow.

    `refined` says that the leader was found by the gradient, so the search begins near it.
    """
    frame = state.frame
    unique = len(state.problem.examples["search"])
    stages = frame.stages if parts.growth else frame.stages[-1:]
    allowed = [stage for stage in stages if stage.dimensions * EXAMPLES_PER_DIMENSION <= unique] or [stages[0]]
    for position, stage in enumerate(allowed):
        sigma = SIGMA_REFINED if refined or position > 0 else SIGMA_FIRST
        leader = yield from _climb_in(state, leader, stage, sigma, parts)
    return leader


def _climb_in(state: State, leader: Candidate, stage: Stage, sigma: float, parts: Parts) -> Asking:
    frame = state.frame
    evolution = Evolution(
        leader.place,
        stage.basis,
        frame.low,
        frame.high,
        sigma=sigma,
        members=population(stage.dimensions),
        seed=seed_for(state.problem.seed, "climb", stage.name, leader.number),
    )
    look_size = state.size("search", LOOK)
    generation = population(stage.dimensions) * state.size("search", BATCH)
    for look in range(ROUNDS):
        best: tuple[float, Candidate | None] = (-np.inf, None)
        for _ in range(ROUND):
            if state.left < state.reserve + 2 * look_size + generation or state.over():
                break
            best = max(best, (yield from _generation(state, evolution, stage)), key=lambda pair: pair[0])
            if parts.mean and look > 0:
                yield [Recommend(evolution.mean)]
        if best[1] is None:
            break
        point = evolution.mean if parts.mean else best[1].place
        found = state.candidate(point, "search", f"mean of {stage.name}", stage=stage.name, look=look)
        ids = state.fresh("search", LOOK, "look")
        yield from state.score([(leader, ids), (found, ids)])
        difference, error = state.paired(found, leader)
        if found.number in state.failed or difference <= 0:
            yield [Recommend(leader.place)]
            break
        yield [Recommend(found.place)]
        leader = found
        if difference < 0.2 * error:
            break
    return leader


def _generation(state: State, evolution: Evolution, stage: Stage) -> Asking:
    """Score a generation on one fresh minibatch and tell it; the best member and its value."""
    ids = state.fresh("search", BATCH, "generations")
    members = [
        state.candidate(point, "search", None, stage=stage.name, generation=evolution.generation, member=number)
        for number, point in enumerate(evolution.ask())
    ]
    yield from state.score([(member, ids) for member in members])
    values = [state.rank_value(member, ids) for member in members]
    evolution.tell(values)
    yield state.closing(members)
    place = int(np.argmax(values))
    return state.mean(members[place], ids), members[place]
