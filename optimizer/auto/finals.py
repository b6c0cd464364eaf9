"""The end: candidates race against the leader, finalists are chosen on examples that the search did not follow."""

from optimizer.auto.asks import Candidate, Recommend
from optimizer.auto.problem import Parts
from optimizer.auto.state import Asking, State
from optimizer.auto.verdict import Verdict

ALPHA = 0.05
BLOCK = 64
MOST = 3  # finalists


def finals(state: State, leader: Candidate, parts: Parts) -> Asking:
    """The finalists on select, and the winner: the best by search and select together, the simpler of equals."""
    chosen = _challengers(state, leader)
    if parts.race:
        chosen = yield from _race(state, leader, chosen)
    finalists = [leader, *chosen[: MOST - 1]]
    select = state.problem.examples["select"]
    affordable = state.left // len(finalists)
    if affordable >= len(select):
        yield from state.score([(one, select) for one in finalists], "select")
        winner = _choose(state, finalists)
    else:
        winner = leader
    yield [Recommend(winner.place)] if winner.point is not None else []
    ids = list(state.problem.examples["search"])
    claimed = None
    if parts.race and state.left >= len(ids):
        yield from state.score([(winner, ids)])
        claimed = state.mean(winner, ids)
    elif state.outcomes(winner):
        claimed = state.mean(winner, list(state.outcomes(winner)))
    ordered = sorted(finalists, key=lambda one: one.number)
    return Verdict(tuple(ordered), winner, claimed)


def _challengers(state: State, leader: Candidate) -> list[Candidate]:
    """The best of every way the search went: stage answers and warm starts, by what they scored so far."""
    answers = [
        one for one in state.candidates if one.about.get("look") is not None or one.about.get("round") is not None
    ]
    arms = [one for one in state.candidates if one.origin == "baseline" and one.number not in state.failed]
    scored = [one for one in answers if one.number not in state.failed and one is not leader]
    found = sorted(scored, key=lambda one: -state.paired(one, leader)[0])[:2]
    arms.sort(key=lambda one: -state.mean(one, list(state.outcomes(one))))
    return [*found, *[arm for arm in arms[:1] if arm is not leader]]


def _race(state: State, leader: Candidate, challengers: list[Candidate]) -> Asking:
    """Those of the challengers that could not be told to be worse than the leader on the whole search split."""
    ids = list(state.problem.examples["search"])
    if state.left < len(ids) * (2 + len(challengers)) or not challengers:
        return challengers
    yield from state.score([(leader, ids)])
    return challengers


def _choose(state: State, finalists: list[Candidate]) -> Candidate:
    """The finalist with the best precision-weighted mean of both splits, among those within one standard error of it
    the earliest."""

    def combined(one: Candidate) -> tuple[float, float]:
        ids = list(state.outcomes(one, "select"))
        mean = state.mean(one, ids, "select")
        return mean, state.problem.measure.standard_error(ids, state.values(one, ids, "select"))

    scores = {one.number: combined(one)[0] for one in finalists if one.number not in state.failed}
    return max((one for one in finalists if one.number in scores), key=lambda one: (scores[one.number], -one.number))
