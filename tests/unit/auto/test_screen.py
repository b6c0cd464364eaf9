"""What a search starts from: a closed-form merge is a warm start like any other, and joins where it is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from quadratics import EXPERTS, GROUPS, landscape, problem_of, space_of

from evaluators.protocol import Outcome
from optimizer.auto.asks import Answer, Ask, Candidate, Made, Note, Recommend, Score, Scored, Virtual
from optimizer.auto.problem import Arm, Parts, Problem
from optimizer.auto.screen import FIRST, SECOND, screen
from optimizer.auto.state import Asking, State
from optimizer.auto.widen import widen
from search_spaces.grown import GrownSpace
from search_spaces.nested import frame_of
from search_spaces.spec import bind

ARMS = {"base": (0.0, 0.0), "uniform average": (0.5, 0.5)}


def posed(budget: int = 6000, arms: Mapping[str, Sequence[float]] = ARMS) -> Problem:
    """A search of two experts whose closed-form merges are TIES, a warm start, and RegMean, which joins in any case."""
    names = ("ties", "regmean")
    space = bind(GrownSpace(granularity="grown"), space_of().template, GROUPS, (*EXPERTS, *names), dict.fromkeys(names))
    frame = frame_of(space, GROUPS)
    width = len(frame.coefficients)
    points = {
        label: np.tile([*row, *[0.0] * (width - len(row))], len(frame.names) // width) for label, row in arms.items()
    }
    known = problem_of(landscape(1), budget)
    return replace(
        known,
        frame=frame,
        arms=[Arm(label, point) for label, point in points.items()],
        virtual=names,
        screened=names[:1],
        parents=dict.fromkeys(EXPERTS, "base"),
    )


def run(program: Asking, right: Mapping[str, float], broken: str = "") -> tuple[Candidate, list[Ask]]:
    """What the program answers where each merge has this share of the examples right; `broken` cannot be made."""
    asked: list[Ask] = []

    def answer(ask: Ask) -> Answer:
        asked.append(ask)
        if isinstance(ask, Virtual):
            return Made("a tensor is missing" if ask.name == broken else None)
        if isinstance(ask, Score):
            number = {name: int(name.rpartition("search")[2]) for name in ask.ids}
            share = right[str(ask.candidate.label)]
            return Scored([Outcome(name, float(number[name] % 100 < 100 * share)) for name in ask.ids])
        return None

    answers: list[Answer] | None = None
    while True:
        try:
            asks = program.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            return end.value, asked
        answers = [answer(ask) for ask in asks]


def test_a_merge_by_ties_that_wins_leads_and_its_coefficients_may_move() -> None:
    state = State(posed())
    leader, asked = run(screen(state, Parts()), {"base": 0.3, "uniform average": 0.5, "ties": 0.9})
    assert leader.label == "ties"
    assert leader.place.tobytes() == state.problem.frame.one_hot("ties").tobytes()
    assert state.joined == ["ties"]
    assert np.any(state.frame.stages[-1].basis[state.problem.frame.one_hot("ties") == 1])
    assert [ask.point.tobytes() for ask in asked if isinstance(ask, Recommend)] == [leader.place.tobytes()]


def test_a_merge_by_ties_that_loses_is_a_baseline_and_the_search_does_not_grow() -> None:
    state = State(posed())
    leader, asked = run(screen(state, Parts()), {"base": 0.3, "uniform average": 0.5, "ties": 0.1})
    assert leader.label == "uniform average"
    assert state.joined == []
    assert not np.any(state.frame.stages[-1].basis[state.problem.frame.one_hot("ties") == 1])
    assert {ask.candidate.label: ask.candidate.origin for ask in asked if isinstance(ask, Score)} == dict.fromkeys(
        ("base", "uniform average", "ties"), "baseline"
    )


def test_a_merge_by_ties_takes_what_any_warm_start_takes() -> None:
    state, without = State(posed()), State(replace(posed(), screened=()))
    run(screen(state, Parts()), {"base": 0.3, "uniform average": 0.5, "ties": 0.1})
    run(screen(without, Parts()), {"base": 0.3, "uniform average": 0.5})
    assert state.spent - without.spent == FIRST + SECOND


def test_a_merge_by_ties_that_cannot_be_made_is_noted_and_the_others_are_compared() -> None:
    state = State(posed())
    leader, asked = run(screen(state, Parts()), {"base": 0.3, "uniform average": 0.5}, broken="ties")
    assert leader.label == "uniform average"
    assert [ask.text for ask in asked if isinstance(ask, Note)] == [
        "The virtual expert ties could not be made: a tensor is missing"
    ]


@pytest.mark.parametrize(("budget", "parts"), [(10 * (FIRST + SECOND) - 10, Parts()), (6000, Parts(virtual=False))])
def test_no_closed_form_merge_is_made_for_a_small_budget_or_where_none_is_wanted(budget: int, parts: Parts) -> None:
    state = State(posed(budget))
    leader, asked = run(screen(state, parts), {"base": 0.3, "uniform average": 0.5})
    assert leader.label == "uniform average"
    assert not any(isinstance(ask, Virtual) for ask in asked)


def test_an_earlier_winner_brings_the_closed_form_merge_that_it_mixes_in() -> None:
    state = State(posed(arms={**ARMS, "winner of before": (0.2, 0.1, 0.7)}))
    right = {"base": 0.3, "uniform average": 0.5, "ties": 0.6, "winner of before": 0.9}
    leader, _ = run(screen(state, Parts()), right)
    assert leader.label == "winner of before"
    assert state.joined == ["ties"]


def test_a_warm_start_is_not_made_and_scored_again_when_the_others_join() -> None:
    state = State(posed())
    right = {"base": 0.3, "uniform average": 0.5, "ties": 0.6, "regmean": 0.9}
    leader, _ = run(screen(state, Parts()), right)
    leader, asked = run(widen(state, leader), right)
    assert leader.label == "regmean"
    assert [ask.name for ask in asked if isinstance(ask, Virtual)] == ["regmean"]
    assert state.joined == ["ties", "regmean"]


@pytest.mark.parametrize(("regmean", "leads", "recommended"), [(0.9, 1, 1), (0.8, 1, 0), (0.2, 0, 0)])
def test_a_search_goes_on_from_the_calibrated_merge_unless_that_is_surely_worse(
    regmean: float, leads: int, recommended: int
) -> None:
    """What is worse, but not surely, is gone on from and not yet recommended."""
    state = State(posed())
    right = {"base": 0.3, "uniform average": 0.5, "ties": 0.9, "regmean": regmean}
    leader, _ = run(screen(state, Parts()), right)
    leader, asked = run(widen(state, leader), right)
    assert leader.label == ("regmean" if leads else "ties")
    assert sum(isinstance(ask, Recommend) for ask in asked) == recommended
