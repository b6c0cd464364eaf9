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
LOOK = 128  # examples of a look at whether a round of generations helped
ROUND = 6
ROUNDS = ((ROUND, 1),) * 6  # every round's generations, and what batch and look are divided by
WIDE = ((2, 2), (4, 1), *ROUNDS[1:])  # far from an answer, few generations on few examples bring a better one
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
        wide = not refined and position == 0
        leader = yield from _climb_in(state, leader, stage, wide, parts)
    return leader


def _climb_in(state: State, leader: Candidate, stage: Stage, wide: bool, parts: Parts) -> Asking:
    frame, members = state.frame, population(stage.dimensions)
    evolution = Evolution(
        leader.place,
        stage.basis,
        frame.low,
        frame.high,
        sigma=SIGMA_FIRST if wide else SIGMA_REFINED,
        members=members,
        seed=seed_for(state.problem.seed, "climb", stage.name, leader.number),
    )
    start, since = leader, 0  # the generation that the leader is of
    for look, (generations, divisor) in enumerate(WIDE if wide else ROUNDS):
        batch, look_size = state.size("search", BATCH // divisor), state.size("search", LOOK // divisor)
        best: tuple[float, Candidate | None] = (-np.inf, None)
        for _ in range(generations):
            if state.left < state.reserve + 2 * look_size + members * batch or state.over():
                break
            best = max(best, (yield from _generation(state, evolution, stage, batch)), key=lambda pair: pair[0])
            if parts.mean and leader is not start and evolution.generation > ROUND:
                yield [Recommend(evolution.mean)]
        if best[1] is None:
            break
        point = evolution.mean if parts.mean else best[1].place
        found = state.candidate(point, "search", f"mean of {stage.name}", stage=stage.name, look=look)
        ids = state.fresh("search", look_size, "look")
        yield from state.score([(leader, ids), (found, ids)])
        difference, error = state.paired(found, leader)
        better = found.number not in state.failed and difference > 0
        converged = evolution.generation - since >= ROUND and (not better or difference < 0.2 * error)
        if better:
            leader, since = found, evolution.generation
        yield [Recommend(leader.place)]
        if converged:
            break
    return leader


def _generation(state: State, evolution: Evolution, stage: Stage, batch: int) -> Asking:
    """Score a generation on one fresh minibatch and tell it; the best member and its value."""
    ids = state.fresh("search", batch, "generations")
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
