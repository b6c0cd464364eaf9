"""The choice at the end: nobody is dropped without evidence, nobody is chosen without it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from quadratics import landscape, problem_of, tasks_of

from evaluators.protocol import Outcome, Split, Task
from optimizer.auto.asks import Answer, Ask, Candidate, Close, Score, Scored
from optimizer.auto.finals import choose, contenders, finals
from optimizer.auto.problem import Parts
from optimizer.auto.state import State
from optimizer.auto.values import Measure
from optimizer.auto.verdict import Verdict

SEARCH = tuple(f"t0:search{number}" for number in range(240))
SELECT = tuple(f"t0:select{number}" for number in range(60))
Values = Mapping[str, float]


def state_of(budget: int = 100_000, tasks: Sequence[Task] | None = None, seed: int = 1) -> State:
    about = tasks or tasks_of(1)
    examples: dict[Split, tuple[str, ...]] = {"gradient": (), "search": SEARCH, "select": SELECT}
    posed = problem_of(landscape(1), budget, seed)
    return State(replace(posed, measure=Measure(about), examples=examples))


def add(state: State, kind: str, known: Values, ids: Sequence[str]) -> Candidate:
    """A candidate that was scored on these examples: an `arm`, or an answer of the search."""
    point = np.full(len(state.problem.frame.names), 0.1 * len(state.candidates))
    one = state.candidate(point, "baseline" if kind == "arm" else "search", kind)
    program = state.score([(one, ids)])
    next(program)
    with pytest.raises(StopIteration):
        program.send([Scored([Outcome(name, known[name]) for name in ids])])
    return one


def ended(state: State, leader: Candidate, known: Mapping[int, Values]) -> tuple[Verdict, list[Ask]]:
    """The finals, each candidate's values known beforehand."""
    program = finals(state, leader, Parts())
    asked: list[Ask] = []
    answers: list[Answer] | None = None
    while True:
        try:
            asks = program.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            return end.value, asked
        asked += asks
        answers = [
            Scored([Outcome(name, known[ask.candidate.number][name]) for name in ask.ids])
            if isinstance(ask, Score)
            else None
            for ask in asks
        ]


def right(share: float, seed: int) -> dict[str, float]:
    """0/1 scores: this share of each split, drawn."""
    rng = np.random.default_rng(seed)
    found: dict[str, float] = {}
    for ids in (SEARCH, SELECT):
        scores = np.zeros(len(ids))
        scores[: round(share * len(ids))] = 1.0
        found |= dict(zip(ids, rng.permutation(scores).tolist(), strict=True))
    return found


def test_the_better_of_two_wins_though_the_other_leads() -> None:
    state = state_of()
    known = {0: right(0.3, 0), 1: right(0.5, 1), 2: right(0.8, 2)}
    arm, leader, better = (
        add(state, "arm", known[0], SEARCH[:60]),
        *(add(state, "answer", known[number], SEARCH[:60]) for number in (1, 2)),
    )
    verdict, asked = ended(state, leader, known)
    assert verdict.winner is better
    assert verdict.claimed == pytest.approx(0.8)
    assert arm not in verdict.finalists, "it is clearly worse, and was given up in the race"
    assert {ask.candidate.number for ask in asked if isinstance(ask, Close)} == {0, 1, 2}


def test_a_clearly_worse_challenger_is_not_scored_to_the_end() -> None:
    state = state_of()
    known = {0: right(0.2, 0), 1: right(0.9, 1)}
    add(state, "arm", known[0], SEARCH[:60])
    leader = add(state, "answer", known[1], SEARCH[:60])
    verdict, asked = ended(state, leader, known)
    assert verdict.winner is leader
    assert 60 + sum(len(ask.ids) for ask in asked if isinstance(ask, Score) and ask.candidate.number == 0) < 240


def test_a_leader_that_is_passed_by_a_hair_is_still_a_finalist() -> None:
    """On all search examples the other has one right answer more: no reason to drop what led so far."""
    state = state_of()
    led, passed = right(0.6, 1), dict(right(0.6, 1))
    passed[next(name for name in SEARCH if led[name] == 0.0)] = 1.0
    for name in SELECT:
        led[name], passed[name] = 1.0, 0.0
    known = {0: led, 1: passed}
    leader, other = add(state, "answer", led, SEARCH[:60]), add(state, "answer", passed, SEARCH[:60])
    verdict, _ = ended(state, leader, known)
    assert {leader, other} <= set(verdict.finalists)
    assert verdict.winner is leader, "on select it is right everywhere, the other nowhere"


def test_among_equals_the_leader_wins() -> None:
    state = state_of()
    known = {0: right(0.6, 1), 1: right(0.6, 1)}
    add(state, "arm", known[0], SEARCH[:60])
    leader = add(state, "answer", known[1], SEARCH[:60])
    assert ended(state, leader, known)[0].winner is leader


def test_a_warm_start_is_no_contender_for_want_of_evidence_against_it() -> None:
    """The base is far behind on the screen; that no example of the leader is among its own says nothing for it."""
    state = state_of()
    base = add(state, "arm", right(0.0, 0), SEARCH[:24])
    good = add(state, "arm", right(0.7, 1), SEARCH[:72])
    leader = add(state, "answer", right(0.9, 2), SEARCH[100:200])
    found = contenders(state, leader)
    assert good in found
    assert base not in found


def test_members_of_generations_and_failures_are_no_contenders() -> None:
    state = state_of()
    arm = add(state, "arm", right(0.7, 1), SEARCH[:60])
    leader = add(state, "answer", right(0.9, 2), SEARCH[:60])
    state.candidate(np.zeros(len(arm.place)), "search", None, stage="scales", generation=0, member=0)
    broken = state.candidate(np.zeros(len(arm.place)), "search", "broken")
    state.failed[broken.number] = "not finite"
    state.candidate(None, "baseline", "no point of the space")
    assert contenders(state, leader) == [arm]


def test_select_weighs_with_search_by_precision() -> None:
    state = state_of()
    leader, other = right(0.6, 1), right(0.6, 2)
    one, two = add(state, "answer", leader, SEARCH), add(state, "answer", other, SEARCH)
    for name in SELECT:
        leader[name], other[name] = 0.0, 1.0
    for name in SELECT[:10]:
        leader[name], other[name] = 1.0, 0.0
    program = state.score([(one, SELECT), (two, SELECT)], "select")
    next(program)
    with pytest.raises(StopIteration):
        program.send([Scored([Outcome(name, known[name]) for name in SELECT]) for known in (leader, other)])
    assert choose(state, one, [one, two]) is two


def test_a_score_beyond_one_does_not_make_the_race_give_up_what_is_as_good() -> None:
    """Bits per byte, perplexities and users' own scores are not in [0, 1]; the race bets as if they were."""
    given_up = 0
    for seed in range(10):
        tasks = [Task("t0", "perplexity", False, 1.0, "score")]
        state = state_of(tasks=tasks, seed=seed)
        rng = np.random.default_rng(seed)
        first, second = (
            {name: float(value) for name, value in zip(SEARCH, row, strict=True)}
            for row in np.exp(rng.normal(2.5, 0.5, (2, len(SEARCH))))
        )
        change = float(np.mean(list(second.values())) - np.mean(list(first.values())))
        second = {name: value - change for name, value in second.items()}  # equal on the whole
        second[SEARCH[0]] -= 0.01
        for known in (first, second):
            known.update(dict.fromkeys(SELECT, 10.0))
        leader, other = add(state, "answer", first, SEARCH[:60]), add(state, "answer", second, SEARCH[:60])
        verdict, _ = ended(state, leader, {0: first, 1: second})
        given_up += other not in verdict.finalists
    assert given_up <= 2
