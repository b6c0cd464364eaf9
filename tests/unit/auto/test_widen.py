"""Closed-form merges join the experts, and lead where they are not clearly worse."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from quadratics import EXPERTS, GROUPS, landscape, problem_of, space_of

from evaluators.protocol import Outcome
from optimizer.auto.asks import Answer, Ask, Candidate, Made, Recommend, Score, Scored, Virtual
from optimizer.auto.state import State
from optimizer.auto.widen import widen
from optimizer.virtual import Virtual as Kind
from search_spaces.grown import GrownSpace
from search_spaces.nested import frame_of
from search_spaces.spec import bind

IDS = tuple(f"t0:search{number}" for number in range(48))
NAMES: tuple[Kind, ...] = ("ties", "iso")  # made from the weights alone


def state_of() -> State:
    """A search of two experts that two closed-form merges may join."""
    coefficients = (*EXPERTS, *NAMES)
    space = bind(GrownSpace(granularity="grown"), space_of().template, GROUPS, coefficients, dict.fromkeys(NAMES))
    return State(replace(problem_of(landscape(1)), virtual=NAMES, frame=frame_of(space, GROUPS)))


def right(count: int, others: bool = False) -> list[float]:
    """So many of `IDS` right; `others` than without."""
    found = [float(number < count) for number in range(len(IDS))]
    return found[::-1] if others else found


def led_by(scores: Mapping[str, list[float]], broken: str = "") -> tuple[Candidate, list[Ask]]:
    """Who leads after a warm start and closed-form merges had these scores, and what was asked; `broken` cannot be
    made."""
    state = state_of()
    leader = state.candidate(np.zeros(len(state.problem.frame.names)), "baseline", "warm start")
    asked: list[Ask] = []

    def answer(ask: Ask) -> Answer:
        asked.append(ask)
        if isinstance(ask, Virtual):
            return Made("its layers do not run" if ask.name == broken else None)
        if isinstance(ask, Score):
            known = dict(zip(IDS, scores[str(ask.candidate.label)], strict=True))
            return Scored([Outcome(name, known[name]) for name in ask.ids])
        return None

    for program in (state.score([(leader, IDS)]), widen(state, leader)):
        answers: list[Answer] | None = None
        while True:
            try:
                asks = program.send(answers)  # type: ignore[arg-type]
            except StopIteration as end:
                found = end.value
                break
            answers = [answer(ask) for ask in asks]
    return found, asked


def test_a_closed_form_merge_that_is_a_little_worse_than_the_luckiest_warm_start_leads() -> None:
    leader, asked = led_by({"warm start": right(25), "ties": right(23, others=True), "iso": right(0)})
    assert leader.label == "ties"
    assert [ask.point.tobytes() for ask in asked if isinstance(ask, Recommend)] == [leader.place.tobytes()]


def test_a_closed_form_merge_that_is_clearly_worse_only_joins() -> None:
    leader, asked = led_by({"warm start": right(25), "ties": right(20), "iso": right(0)})
    assert leader.label == "warm start"
    assert [ask.name for ask in asked if isinstance(ask, Virtual)] == list(NAMES)
    assert not any(isinstance(ask, Recommend) for ask in asked)


@pytest.mark.parametrize(("ties", "iso"), [(23, 24), (24, 23)])
def test_the_better_of_two_closed_form_merges_leads(ties: int, iso: int) -> None:
    """The benefit of the doubt is against warm starts only."""
    scores = {"warm start": right(25), "ties": right(ties, others=True), "iso": right(iso, others=True)}
    leader, _ = led_by(scores)
    assert leader.label == ("iso" if iso > ties else "ties")


def test_a_closed_form_merge_that_does_as_well_leads() -> None:
    leader, _ = led_by({"warm start": right(25), "ties": right(25), "iso": right(25)})
    assert leader.label == "ties"


def test_a_closed_form_merge_that_cannot_be_made_leaves_the_others() -> None:
    leader, _ = led_by({"warm start": right(25), "iso": right(26)}, broken="ties")
    assert leader.label == "iso"
