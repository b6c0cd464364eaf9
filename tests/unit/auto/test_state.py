"""What the strategy remembers: every example asked for once, and every one paid for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from quadratics import landscape, problem_of, tasks_of

from evaluators.protocol import Outcome, Task
from optimizer.auto.asks import Answer, Ask, Candidate, Score, Scored
from optimizer.auto.state import State
from optimizer.auto.values import Measure
from optimizer.batches import shares


def state_of(tasks: int = 2, seed: int = 1) -> State:
    return State(problem_of(landscape(tasks), seed=seed))


def scored(
    state: State, wanted: Sequence[tuple[Candidate, Sequence[str]]], values: dict[int, float | None]
) -> list[Ask]:
    """Let candidates be scored, each with one value everywhere, None for a failure; what was asked."""
    asked: list[Ask] = []
    program = state.score(wanted)
    try:
        asks = next(program)
        while True:
            asked += asks
            answers: list[Answer] = [_answered(ask, values) for ask in asks]
            asks = program.send(answers)
    except StopIteration:
        return asked


def _answered(ask: Ask, values: dict[int, float | None]) -> Scored:
    assert isinstance(ask, Score)
    value = values[ask.candidate.number]
    return Scored((), "broken") if value is None else Scored([Outcome(name, value, value) for name in ask.ids])


# ---- drawing examples


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_no_example_comes_twice_before_all_have_come_once(tasks: int) -> None:
    state = state_of(tasks)
    whole = state.problem.examples["search"]
    drawn = [name for _ in range(len(whole) // 40) for name in state.fresh("search", 40, "a")]
    assert Counter(drawn) == Counter(whole)


def test_a_second_pass_has_an_order_of_its_own_and_everything_again() -> None:
    state = state_of(1)
    whole = state.problem.examples["search"]
    first, second = state.fresh("search", len(whole), "a"), state.fresh("search", len(whole), "a")
    assert Counter(first) == Counter(second) == Counter(whole)
    assert first != second


def test_a_batch_over_the_end_of_a_pass_has_no_example_twice() -> None:
    state = state_of(2)
    for _ in range(60):
        ids = state.fresh("search", 70, "a")
        assert len(ids) == 70
        assert max(Counter(ids).values()) == 1


def test_more_than_there_are_is_all_there_are() -> None:
    state = state_of(2)
    assert sorted(state.fresh("select", 1000, "a")) == sorted(state.problem.examples["select"])


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("count", [10, 16, 24, 64])
def test_every_batch_has_examples_of_every_task(tasks: int, count: int) -> None:
    state = state_of(tasks)
    for _ in range(10):
        ids = state.fresh("gradient", count, "a")
        found = Counter(name.rpartition(":")[0] for name in ids)
        assert set(found) == {f"t{number}" for number in range(tasks)}
        assert min(found.values()) >= 2
        assert len(ids) == count


def test_batches_follow_from_the_seed_and_streams_do_not_disturb_one_another() -> None:
    one, same, other = state_of(), state_of(), state_of(seed=2)
    same.fresh("search", 30, "b")
    assert one.fresh("search", 30, "a") == same.fresh("search", 30, "a")
    assert one.fresh("search", 30, "a") == same.fresh("search", 30, "a")
    assert state_of().fresh("search", 30, "a") != other.fresh("search", 30, "a")
    assert state_of().fresh("search", 30, "a") != state_of().fresh("search", 30, "b")


def test_tasks_share_a_batch_by_their_sizes() -> None:
    by_task = {"small": ["s"] * 20, "large": ["l"] * 180, "tiny": ["t"]}
    assert shares(by_task, 40) == {"small": 4, "large": 35, "tiny": 1}
    assert shares(by_task, 1000) == {"small": 20, "large": 180, "tiny": 1}


# ---- money


def test_every_example_of_a_candidate_is_paid_for_once() -> None:
    state = state_of()
    one, other = state.candidate(None), state.candidate(None)
    ids = state.problem.examples["search"]
    scored(state, [(one, ids[:10]), (other, ids[:5])], {0: 1.0, 1: 0.0})
    assert state.spent == 15
    asked = scored(state, [(one, ids[:20]), (other, ids[:5])], {0: 1.0, 1: 0.0})
    assert [ask.ids for ask in asked if isinstance(ask, Score)] == [ids[10:20]]
    assert (state.spent, state.left) == (25, state.problem.budget - 25)
    assert scored(state, [(one, ids[:20])], {}) == []


def test_splits_are_paid_for_one_by_one() -> None:
    state = state_of()
    one = state.candidate(None)
    scored(state, [(one, state.problem.examples["search"][:3])], {0: 1.0})
    program = state.score([(one, state.problem.examples["select"])], "select")
    (ask,) = next(program)
    assert isinstance(ask, Score)
    assert (ask.split, ask.ids) == ("select", state.problem.examples["select"])
    assert state.spent == 3 + len(state.problem.examples["select"])


def test_a_candidate_that_failed_is_not_asked_about_again() -> None:
    state = state_of()
    bad, good = state.candidate(None), state.candidate(None)
    ids = state.problem.examples["search"]
    scored(state, [(bad, ids[:10]), (good, ids[:10])], {0: None, 1: 1.0})
    assert state.failed == {0: "broken"}
    assert state.mean(bad, ids[:10]) == state.rank_value(bad, list(ids[:10])) == -np.inf
    asked = scored(state, [(bad, ids), (good, ids[:20])], {1: 1.0})
    assert [ask.candidate.number for ask in asked if isinstance(ask, Score)] == [1]


# ---- comparing


def two_scored(tasks: list[Task], values: tuple[dict[str, float], dict[str, float]]) -> tuple[State, list[Candidate]]:
    state = State(replace(problem_of(landscape(2)), measure=Measure(tasks)))
    candidates = [state.candidate(None), state.candidate(None)]
    program = state.score([(one, list(known)) for one, known in zip(candidates, values, strict=True)])
    asks = next(program)
    answers: list[Answer] = [
        Scored([Outcome(name, known[name]) for name in ask.ids])  # type: ignore[union-attr]
        for ask, known in zip(asks, values, strict=True)
    ]
    with pytest.raises(StopIteration):
        program.send(answers)
    return state, candidates


def test_two_candidates_are_compared_on_the_examples_both_have() -> None:
    ones = {"t0:a": 1.0, "t0:b": 1.0, "t0:c": 0.0, "t0:only": 0.0}
    others = {"t0:b": 0.0, "t0:a": 1.0, "t0:c": 1.0, "t0:other": 1.0}
    state, (one, other) = two_scored(tasks_of(1), (ones, others))
    mean, error = state.paired(one, other)
    assert mean == pytest.approx(0.0)
    assert error == pytest.approx(np.std([0, 1, -1], ddof=1) / np.sqrt(3))
    assert state.paired(other, one) == pytest.approx((-mean, error))


def test_a_comparison_weighs_tasks_and_turns_those_where_less_is_better() -> None:
    tasks = [Task("up", "acc", True, 1.0, "score"), Task("down", "bits", False, 3.0, "score")]
    ones = {"up:a": 1.0, "up:b": 0.0, "down:a": 0.2, "down:b": 0.4}
    others = {"up:a": 0.0, "up:b": 0.0, "down:a": 0.3, "down:b": 0.7}
    state, (one, other) = two_scored(tasks, (ones, others))
    mean, error = state.paired(one, other)
    assert mean == pytest.approx(0.25 * 0.5 + 0.75 * 0.2)
    assert error == pytest.approx(np.sqrt(0.25**2 * 0.5 / 2 + 0.75**2 * 0.02 / 2))
    assert state.seen_mean(one) == pytest.approx(0.25 * 0.5 - 0.75 * 0.3)


def test_without_a_common_example_nothing_is_known_of_the_difference() -> None:
    state, (one, other) = two_scored(tasks_of(1), ({"t0:a": 1.0}, {"t0:b": 0.0}))
    assert state.paired(one, other) == (0.0, np.inf)


def test_a_generation_is_ranked_by_the_metric_and_half_of_the_smooth_score() -> None:
    state = state_of(1)
    one = state.candidate(None)
    program = state.score([(one, ["t0:a", "t0:b"])])
    next(program)
    with pytest.raises(StopIteration):
        program.send([Scored([Outcome("t0:a", 1.0, 0.6), Outcome("t0:b", 0.0, 0.2)])])
    assert state.mean(one, ["t0:a", "t0:b"]) == pytest.approx(0.5)
    assert state.rank_value(one, ["t0:a", "t0:b"]) == pytest.approx(0.5 + 0.5 * 0.4)


def test_where_there_is_no_smooth_score_the_metric_ranks_alone() -> None:
    state, (one, _) = two_scored(tasks_of(1), ({"t0:a": 1.0, "t0:b": 0.0}, {"t0:a": 0.0}))
    assert state.rank_value(one, ["t0:a", "t0:b"]) == pytest.approx(0.5)


# ---- closing


def test_a_candidate_is_closed_with_its_mean_its_error_and_its_examples() -> None:
    values = {"t0:a": 1.0, "t0:b": 0.0, "t0:c": 1.0}
    state, (one, other) = two_scored(tasks_of(1), (values, {"t0:a": 1.0}))
    closed = state.close(one)
    assert (closed.candidate, closed.examples) == (one, 3)
    assert closed.value == pytest.approx(2 / 3)
    assert closed.standard_error == pytest.approx(np.std([1, 0, 1], ddof=1) / np.sqrt(3))
    alone = state.close(other)
    assert (alone.value, alone.standard_error, alone.examples) == (1.0, None, 1)


def test_what_failed_or_was_never_scored_is_closed_without_a_value() -> None:
    state = state_of()
    unseen, failed = state.candidate(None), state.candidate(None)
    scored(state, [(failed, ["t0:a"])], {1: None})
    for one in (unseen, failed):
        closed = state.close(one)
        assert (closed.value, closed.standard_error, closed.examples) == (None, None, 0)


def test_candidates_are_numbered_as_they_come() -> None:
    state = state_of()
    made = [state.candidate(np.zeros(2), "search", None, stage="x", member=number) for number in range(3)]
    assert [one.number for one in made] == [0, 1, 2]
    assert state.candidates == made
    assert made[1].about == {"stage": "x", "member": 1}
