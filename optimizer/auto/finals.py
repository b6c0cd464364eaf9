"""The end: candidates race against the leader, finalists are chosen on examples that the search did not follow."""

import random
from dataclasses import dataclass

import numpy as np

from optimizer.auto.asks import Candidate, Note, Recommend
from optimizer.auto.problem import Parts
from optimizer.auto.race import alpha_of, hopeless
from optimizer.auto.state import Asking, State
from optimizer.auto.verdict import Verdict
from optimizer.engines.seeds import seed_for

ALPHA = 0.05  # of giving up a candidate that is as good as the one it races against
BLOCK = 64
PRIOR = 0.05  # standard deviation of true differences between finalists, as a share of that of examples
LEAST_COMMON = 16  # examples that both were scored on, below which nothing can be said of a difference
AUDITED = 0.02  # share of the eliminated that is run to the end all the same, to see how often that was wrong


def finals(state: State, leader: Candidate, parts: Parts) -> Asking:
    """The finalists and the winner: the best by search and select together."""
    challengers = contenders(state, leader)
    if parts.race and challengers and _affordable(state, leader, len(challengers)):
        leader, challengers = yield from _race(state, leader, challengers)
    finalists = [leader, *challengers[: state.problem.finalists - 1]]
    select = state.problem.examples["select"]
    finalists = finalists[: max(1, state.left // max(1, len(select)))]
    winner: Candidate | None = leader
    if len(finalists) > 1 and state.left >= len(select) * len(finalists):
        yield from state.score([(one, select) for one in finalists], "select")
        winner = choose(state, leader, finalists) or _next(state, leader, finalists)
    winner = yield from _whole(state, winner, finalists)
    yield state.closing(state.candidates)
    if winner is None:
        return Verdict((), None)
    yield [Recommend(winner.place)]
    ordered = tuple(sorted(finalists, key=lambda one: one.number))
    return Verdict(ordered, winner, state.seen_mean(winner))


def _whole(state: State, winner: Candidate | None, finalists: list[Candidate]) -> Asking:
    """The winner with a score on the whole search split, where that can be paid; the next one where it fails."""
    whole = state.problem.examples["search"]
    while winner is not None:
        missing = len(whole) - len(state.outcomes(winner))
        if missing <= state.left:
            yield from state.score([(winner, whole)])
        if winner.number not in state.failed:
            return winner
        winner = _next(state, winner, finalists)
    return None


def _next(state: State, failed: Candidate, finalists: list[Candidate]) -> Candidate | None:
    """The best of those that are left, finalists first; None where none is."""
    left = choose(state, failed, finalists)
    others = [one for one in state.candidates if one.point is not None and one.number not in state.failed]
    return left or max((one for one in others if state.outcomes(one)), key=state.seen_mean, default=None)


def contenders(state: State, leader: Candidate) -> list[Candidate]:
    """Who else may be the best: the best answers of the search's stages, the best warm start, and the simplest of all
    within one standard error of the leader. Best first.
    """
    usable = [
        one
        for one in state.candidates
        if one is not leader and one.point is not None and one.number not in state.failed and "member" not in one.about
    ]
    gap = {one.number: state.paired(one, leader) for one in usable}
    answers = sorted((one for one in usable if one.origin != "baseline"), key=lambda one: -gap[one.number][0])
    arms = sorted((one for one in usable if one.origin == "baseline"), key=lambda one: -state.seen_mean(one))
    within = [one for one in usable if np.isfinite(gap[one.number][1]) and sum(gap[one.number]) >= 0]
    within = [one for one in within if len(state.common(one, leader)) >= LEAST_COMMON]
    simplest = sorted(within, key=lambda one: (one.origin != "baseline", one.number))[:1]
    return list(dict.fromkeys([*answers[: max(1, state.problem.finalists - 2)], *arms[:1], *simplest]))


def _affordable(state: State, leader: Candidate, count: int) -> bool:
    """Whether a race can be run: half of what is left must cover it were nobody eliminated, and scores be in [0, 1].

    Other scores have no largest difference that could be bet against.
    """
    whole = len(state.problem.examples["search"])
    seen = np.abs(state.values(leader, list(state.outcomes(leader))))
    return (
        not state.over()
        and bool(np.all(seen <= 1))
        and (whole - len(state.outcomes(leader))) + count * whole <= state.left // 2
    )


@dataclass
class _Runner:
    """A challenger on its own permutation of the search split, drawn after it was fixed."""

    candidate: Candidate
    order: list[str]
    seen: int = 0
    met: int = 1  # the how-manieth leader it faces
    given_up: bool = False
    audited: bool = False


def _race(state: State, leader: Candidate, challengers: list[Candidate]) -> Asking:
    """The best on the whole search split, and who could not be told to be worse."""
    whole = list(state.problem.examples["search"])
    yield from state.score([(leader, whole)])
    if leader.number in state.failed:
        return leader, challengers
    runners = [_runner(state, one, whole) for one in challengers]
    passed: list[Candidate] = []
    while any(not one.given_up and one.seen < len(whole) for one in runners):
        running = [one for one in runners if not one.given_up and one.seen < len(whole)]
        for one in running:
            one.seen = min(len(whole), one.seen + BLOCK)
        yield from state.score([(one.candidate, one.order[: one.seen]) for one in running])
        for one in running:
            failed = one.candidate.number in state.failed
            one.given_up = failed or _is_hopeless(state, one, leader, whole)
        finished = [one for one in running if one.seen == len(whole) and not one.given_up]
        better = [one for one in finished if state.mean(one.candidate, whole) > state.mean(leader, whole)]
        if better:
            passed.append(leader)
            leader = max(better, key=lambda one: state.mean(one.candidate, whole)).candidate
            for one in runners:
                one.met += 1
    yield from _audit(state, runners, leader, whole)
    survivors = [one.candidate for one in runners if not one.given_up and one.candidate is not leader] + passed
    return leader, sorted(survivors, key=lambda one: -state.mean(one, whole))


def _runner(state: State, candidate: Candidate, whole: list[str]) -> _Runner:
    rng = random.Random(seed_for(state.problem.seed, "race", candidate.number))
    order = list(whole)
    rng.shuffle(order)
    return _Runner(candidate, order, audited=rng.random() < AUDITED)


def _is_hopeless(state: State, runner: _Runner, leader: Candidate, whole: list[str]) -> bool:
    seen = runner.order[: runner.seen]
    measure = state.problem.measure
    weight = dict(zip(whole, measure.weights(whole), strict=True))
    differences = state.values(runner.candidate, seen) - state.values(leader, seen)
    if np.abs(differences).max() > 1:
        return False
    weights = np.array([weight[name] for name in seen])
    alpha = alpha_of(ALPHA, runner.met)
    return hopeless(differences, weights, len(whole), max(weight.values()), alpha)


def _audit(state: State, runners: list[_Runner], leader: Candidate, whole: list[str]) -> Asking:
    """Run some of the eliminated to the end and say whether giving them up was right."""
    audited = [
        one.candidate for one in runners if one.given_up and one.audited and one.candidate.number not in state.failed
    ]
    if audited and len(audited) * len(whole) <= state.left // 4:
        yield from state.score([(one, whole) for one in audited])
        wrong = sum(state.mean(one, whole) >= state.mean(leader, whole) for one in audited)
        yield [
            Note(f"Of {len(audited)} eliminated candidates run to the end as a check, {wrong} were eliminated wrongly.")
        ]


def choose(state: State, leader: Candidate, finalists: list[Candidate]) -> Candidate | None:
    """The finalist with the best mean difference from the leader over search and select, each weighed by its precision.

    The difference is shrunk towards none, as small samples exaggerate (`PRIOR`). Of equals the leader, then the
    earlier; None where all failed.
    """

    spread = float(np.std(state.values(leader, list(state.outcomes(leader))))) if state.outcomes(leader) else 0.0
    prior = PRIOR * (spread or 1.0)

    def difference(one: Candidate) -> float:
        if one is leader:
            return 0.0
        total, precision = 0.0, prior**-2
        for split in ("search", "select"):
            mean, error = state.paired(one, leader, split)
            seen = len(state.common(one, leader, split))
            if seen and np.isfinite(error):
                error = max(error, (spread or 1.0) / seen)  # equal differences are no proof that all are
                total, precision = total + mean / error**2, precision + error**-2
        return total / precision

    usable = [one for one in finalists if one.number not in state.failed]
    return None if not usable else max(usable, key=lambda one: (round(difference(one), 9), one is leader, -one.number))
