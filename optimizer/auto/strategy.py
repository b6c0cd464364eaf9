"""The strategy `auto`, from a screen of warm starts to the finalists and the winner.

A program in plain order. It asks, is answered, and decides from the answers alone, so that a search that was torn goes
on by hearing its old answers again.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

from optimizer.auto.asks import Answer, Ask, Candidate, Note, Recommend
from optimizer.auto.climb import climb
from optimizer.auto.descend import descend
from optimizer.auto.finals import finals
from optimizer.auto.gate import gate
from optimizer.auto.problem import Parts, Problem
from optimizer.auto.screen import screen
from optimizer.auto.state import State


@dataclass(frozen=True, eq=False)
class Verdict:
    """How a search ends: the finalists in order of their numbers, and the one that goes to the test split."""

    finalists: tuple[Candidate, ...]
    winner: Candidate | None


def search(problem: Problem, parts: Parts = Parts()) -> Generator[list[Ask], list[Answer], Verdict]:
    """The whole search. The winner is None where nothing could be scored."""
    state = State(problem)
    leader = yield from screen(state)
    if leader is None:
        return Verdict((), None)
    reason = problem.no_gradient if parts.gradient else "it was not asked for"
    if reason is None:
        reason = gate(state)
    if reason is None:
        leader = yield from descend(state, leader, parts)
    else:
        yield [Note(f"The gradient of the coefficients was not used: {reason}.")]
    leader = yield from climb(state, leader, parts)
    return (yield from finals(state, leader, parts))
