"""CMA-ES by rounds: a first answer soon where the way is long, whole rounds near an answer."""

from collections.abc import Callable

import numpy as np
import pytest
from quadratics import landscape, problem_of

from evaluators.protocol import Outcome
from optimizer.auto.asks import Answer, Ask, Candidate, Recommend, Score, Scored
from optimizer.auto.climb import BATCH, LOOK, ROUND, climb
from optimizer.auto.problem import WHOLE
from optimizer.auto.state import State

Scoring = Callable[[Score], float]


def climbed(refined: bool, scoring: Scoring, budget: int = 20_000) -> tuple[State, Candidate, list[Ask]]:
    """The state, the leader and what was asked, of a climb from the middle where every example has these scores."""
    state = State(problem_of(landscape(1), budget))
    leader = state.candidate(np.full(len(state.frame.names), 0.3), "baseline", "warm start")
    program = climb(state, leader, WHOLE, refined)
    asked: list[Ask] = []
    answers: list[Answer] | None = None
    while True:
        try:
            asks: list[Ask] = program.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            return state, end.value, asked
        asked += asks
        answers = [
            Scored([Outcome(name, scoring(ask)) for name in ask.ids]) if isinstance(ask, Score) else None
            for ask in asks
        ]


def upwards(ask: Score) -> float:
    """The larger the coefficients, the better."""
    return float(ask.candidate.place.mean())


def nowhere(ask: Score) -> float:
    """Nothing is better than the warm start."""
    return float(ask.candidate.label == "warm start")


def spent_before_the_first_answer(asked: list[Ask]) -> int:
    first = next(number for number, ask in enumerate(asked) if isinstance(ask, Recommend))
    return sum(len(ask.ids) for ask in asked[:first] if isinstance(ask, Score))


def test_far_from_an_answer_the_first_one_comes_for_few_examples() -> None:
    far, near = (spent_before_the_first_answer(climbed(refined, upwards)[2]) for refined in (False, True))
    assert far < near / 4


def generations(asked: list[Ask], stage: str = "scales") -> set[int]:
    return {
        ask.candidate.about["generation"]
        for ask in asked
        if isinstance(ask, Score) and ask.candidate.about.get("stage") == stage and "member" in ask.candidate.about
    }


@pytest.mark.parametrize("refined", [True, False])
def test_a_stage_that_finds_nothing_ends_after_a_whole_round_and_not_before(refined: bool) -> None:
    state, leader, asked = climbed(refined, nowhere)
    assert generations(asked) == set(range(ROUND))
    assert leader is state.candidates[0]


def test_what_is_recommended_before_a_whole_round_was_compared_with_its_start() -> None:
    state, _, asked = climbed(False, upwards)
    checked = {one.place.tobytes() for one in state.candidates if "member" not in one.about}
    recommended = [ask.point.tobytes() for ask in asked if isinstance(ask, Recommend)]
    assert set(recommended[:2]) <= checked


@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("budget", [800, 1500, 3000])
def test_a_climb_leaves_what_the_end_needs(refined: bool, budget: int) -> None:
    state, _, _ = climbed(refined, upwards, budget)
    assert state.left >= state.reserve


def test_early_rounds_take_half_the_examples() -> None:
    _, _, asked = climbed(False, upwards)
    sizes = {
        ask.candidate.about["generation"]: len(ask.ids)
        for ask in asked
        if isinstance(ask, Score) and ask.candidate.about.get("stage") == "scales" and "member" in ask.candidate.about
    }
    assert sizes[0] == sizes[1] == BATCH // 2
    assert set(list(sizes.values())[2:]) == {BATCH}
    looks = [len(ask.ids) for ask in asked if isinstance(ask, Score) and "look" in ask.candidate.about]
    assert looks[0] == LOOK // 2
