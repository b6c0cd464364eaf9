"""The screen: every warm start on a few shared examples, the best of them on more."""

from optimizer.auto.asks import Candidate, Recommend
from optimizer.auto.state import Asking, State

FIRST, SECOND = 16, 32  # examples that each arm is scored on, and that the best of them are scored on besides
BEST = 3


def least_examples(arms: int) -> int:
    """What a screen of so many arms takes, in EFE: less is no search."""
    return arms * FIRST + BEST * SECOND


def screen(state: State) -> Asking:
    """The best arm that is a point of the space, None where none could be scored."""
    arms = [state.candidate(arm.point, "baseline", arm.label) for arm in state.problem.arms]
    ids = state.fresh("search", FIRST, "screen")
    yield from state.score([(arm, ids) for arm in arms])
    ranked = _ranked(state, arms, ids)
    more = tuple(dict.fromkeys((*ids, *state.fresh("search", SECOND, "screen"))))
    best = ranked[: min(BEST, state.left // max(1, len(more) - len(ids)))] or ranked[:1]
    if state.left < len(best) * (len(more) - len(ids)):
        more = ids
    yield from state.score([(arm, more) for arm in best])
    best = _ranked(state, best, more)
    if best:
        yield [Recommend(best[0].place)]
    return best[0] if best else None


def _ranked(state: State, arms: list[Candidate], ids: tuple[str, ...]) -> list[Candidate]:
    """Points of the space that were scored, best first; of equals the earlier."""
    usable = [arm for arm in arms if arm.point is not None and arm.number not in state.failed]
    return sorted(usable, key=lambda arm: (-state.mean(arm, ids), arm.number))
