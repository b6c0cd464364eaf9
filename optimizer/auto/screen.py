"""The screen: every warm start on a few shared examples, the best of them on more."""

import numpy as np

from optimizer.auto.asks import Candidate, Recommend
from optimizer.auto.closed_forms import made
from optimizer.auto.problem import Parts
from optimizer.auto.state import Asking, State

FIRST, SECOND = 16, 32  # examples that each arm is scored on, and that the best of them are scored on besides
BEST = 3


def least_examples(arms: int) -> int:
    """What a screen of so many arms takes, in EFE: less is no search."""
    return arms * FIRST + BEST * SECOND


def screen(state: State, parts: Parts) -> Asking:
    """The best arm that is a point of the space, None where none could be scored.

    Closed-form merges that need no data are arms like all others; those that the best arm has in it join the search.
    """
    arms = [state.candidate(arm.point, "baseline", arm.label) for arm in state.problem.arms]
    if parts.virtual:
        arms += yield from _closed_forms(state)
    ids = state.fresh("search", FIRST, "screen")
    yield from state.score([(arm, ids) for arm in arms])
    ranked = _ranked(state, arms, ids)
    more = tuple(dict.fromkeys((*ids, *state.fresh("search", SECOND, "screen"))))
    best = ranked[: min(BEST, state.left // max(1, len(more) - len(ids)))] or ranked[:1]
    if state.left < len(best) * (len(more) - len(ids)):
        more = ids
    yield from state.score([(arm, more) for arm in best])
    best = _ranked(state, best, more)
    if not best:
        return None
    state.joined += _mixed_in(state, best[0])
    yield [Recommend(best[0].place)]
    return best[0]


def _closed_forms(state: State) -> Asking:
    """Those of the virtual experts that are warm starts, as far as they can be made."""
    found = []
    for name in state.problem.screened:
        there = yield from made(state, name, {}, scored=FIRST + SECOND)
        found += [state.candidate(state.problem.frame.one_hot(name), "baseline", name)] if there else []
    return found


def _ranked(state: State, arms: list[Candidate], ids: tuple[str, ...]) -> list[Candidate]:
    """Points of the space that were scored, best first; of equals the earlier."""
    usable = [arm for arm in arms if arm.point is not None and arm.number not in state.failed]
    return sorted(usable, key=lambda arm: (-state.mean(arm, ids), arm.number))


def _mixed_in(state: State, best: Candidate) -> list[str]:
    """Those of the screened virtual experts that have a say in the best arm: an earlier job's winner may have them."""
    names = state.problem.frame.coefficients
    has_a_say = np.any(best.place.reshape(-1, len(names)) != 0, axis=0)
    return [name for name, says in zip(names, has_a_say, strict=True) if says and name in state.problem.screened]
