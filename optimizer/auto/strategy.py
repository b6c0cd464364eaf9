"""The strategy `auto`, from a screen of warm starts to the finalists and the winner.

A program in plain order. It asks, is answered, and decides from the answers alone, so that a search that was torn goes
on by hearing its old answers again.
"""

from collections.abc import Generator

from optimizer.auto.asks import Answer, Ask, Note
from optimizer.auto.climb import climb
from optimizer.auto.descend import STAGE, descend
from optimizer.auto.finals import finals
from optimizer.auto.gate import gate
from optimizer.auto.problem import WHOLE, Parts, Problem
from optimizer.auto.screen import screen
from optimizer.auto.state import State
from optimizer.auto.verdict import Verdict
from optimizer.auto.widen import widen


def search(problem: Problem, parts: Parts = WHOLE) -> Generator[list[Ask], list[Answer], Verdict]:
    """The whole search. The winner is None where nothing could be scored."""
    state = State(problem)
    leader = yield from screen(state, parts)
    if leader is None:
        yield state.closing(state.candidates)
        return Verdict((), None)
    if parts.virtual:
        leader = yield from widen(state, leader)
    reason = problem.no_gradient if parts.gradient else "it was not asked for"
    if reason is None:
        reason = gate(state)
    if reason is None:
        leader = yield from descend(state, leader, parts)
    else:
        yield [Note(f"The gradient of the coefficients was not used: {reason}.")]
    leader = yield from climb(state, leader, parts, refined=leader.about.get("stage") == STAGE)
    verdict: Verdict = yield from finals(state, leader, parts)
    return verdict
