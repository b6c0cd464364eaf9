"""The whole strategy on a landscape that is known in full, with a plain loop in place of trials and workers."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from quadratics import Log, Quadratics, answering, drive, landscape, problem_of, told

from evaluators.protocol import Outcome
from optimizer.auto.asks import Answer, Ask, Score, Scored, Slope, Sloped
from optimizer.auto.problem import Arm, Parts, Problem
from optimizer.auto.screen import least_examples
from optimizer.auto.values import Measure

Array = NDArray[np.float64]

NO_GRADIENT = "this test has none"


@cache
def undisturbed(tasks: int = 2, budget: int = 6000, seed: int = 1, gradient: bool = True) -> Log:
    return drive(posed(tasks, budget, seed, gradient), answering(landscape(tasks)))


def posed(tasks: int = 2, budget: int = 6000, seed: int = 1, gradient: bool = True) -> Problem:
    return replace(problem_of(landscape(tasks), budget, seed), no_gradient=None if gradient else NO_GRADIENT)


def best_arm(known: Quadratics, problem: Problem) -> float:
    return max(known.quality(arm.point) for arm in problem.arms if arm.point is not None)


def without(known: Quadratics, fails: Callable[[Ask], bool]) -> Callable[[Ask], Answer]:
    """Answers as the landscape has it, an error where `fails` says so."""
    answer = answering(known)

    def answer_or_fail(ask: Ask) -> Answer:
        if isinstance(ask, Score) and fails(ask):
            return Scored((), "the merge is not finite")
        if isinstance(ask, Slope) and fails(ask):
            return Sloped(ask.point * 0.0, (), "the loss is not finite")
        return answer(ask)

    return answer_or_fail


# ---- what it finds


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
def test_it_finds_a_clearly_better_merge_than_the_best_warm_start(tasks: int, gradient: bool) -> None:
    known, problem = landscape(tasks), posed(tasks, gradient=gradient)
    log = undisturbed(tasks, gradient=gradient)
    assert known.quality(log.answer) > best_arm(known, problem) + (0.2 if gradient else 0.05)
    assert log.verdict is not None
    assert log.verdict.claimed is not None
    assert log.verdict.claimed == pytest.approx(known.quality(log.answer), abs=0.1)


def test_the_gradient_is_worth_having() -> None:
    known = landscape(2)
    with_it, without_it = (known.quality(undisturbed(budget=3000, gradient=one).answer) for one in (True, False))
    assert with_it > without_it + 0.05


@pytest.mark.parametrize("parts", [Parts(race=False), Parts(growth=False), Parts(mean=False), Parts(gradient=False)])
def test_every_part_can_be_switched_off_and_the_rest_still_finds_something(parts: Parts) -> None:
    known, problem = landscape(2), posed()
    log = drive(problem, answering(known), parts)
    assert known.quality(log.answer) >= best_arm(known, problem)
    assert bool(log.slopes) == parts.gradient


def test_the_winner_is_one_of_the_finalists_and_they_stand_in_order() -> None:
    verdict = undisturbed().verdict
    assert verdict is not None
    numbers = [one.number for one in verdict.finalists]
    assert numbers == sorted(set(numbers))
    assert verdict.winner in verdict.finalists


@pytest.mark.parametrize("count", [1, 2, 6])
def test_no_more_finalists_than_asked_for_are_scored_on_select(count: int) -> None:
    log = drive(replace(posed(), finalists=count), answering(landscape(2)))
    assert log.verdict is not None
    assert 1 <= len(log.verdict.finalists) <= count
    selected = {score.candidate.number for score in log.scores if score.split == "select"}
    assert selected == ({one.number for one in log.verdict.finalists} if len(log.verdict.finalists) > 1 else set())


# ---- what it costs


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_it_never_spends_more_than_its_budget(tasks: int, gradient: bool) -> None:
    known = landscape(tasks)
    over = {}
    for budget in range(300, 4000, 230):
        spent = drive(posed(tasks, budget, gradient=gradient), answering(known)).spent
        if spent > budget:
            over[budget] = spent
    assert over == {}


def test_a_teacher_is_charged_once_for_every_example_it_is_asked_on() -> None:
    known = landscape(2)
    tasks = [replace(task, teacher="north") if task.name == "t0" else task for task in known.tasks]
    log = drive(replace(posed(), measure=Measure(tasks)), answering(known))
    asked = [name for slope in log.slopes for name in slope.ids if name.startswith("t0:")]
    assert len(asked) > len(set(asked)), "some came twice"
    assert sum(slope.taught for slope in log.slopes) == len(set(asked))
    assert log.spent <= posed().budget


def test_it_does_not_spend_more_than_its_budget_where_select_is_small_and_search_is_large() -> None:
    known = landscape(2)
    over = {}
    for budget in range(300, 9000, 470):
        problem = posed(budget=budget)
        examples = {**problem.examples, "search": known.ids["test"][:1000], "select": known.ids["select"][:20]}
        spent = drive(replace(problem, examples=examples), answering(known)).spent
        if spent > budget:
            over[budget] = spent
    assert over == {}


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
def test_it_uses_most_of_a_budget_that_is_worth_using(gradient: bool) -> None:
    assert undisturbed(budget=3000, gradient=gradient).spent > 0.6 * 3000


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_the_least_budget_that_is_accepted_still_gives_an_answer(tasks: int) -> None:
    known = landscape(tasks)
    problem = posed(tasks)
    least = least_examples(len(problem.arms))
    log = drive(replace(problem, budget=least), answering(known))
    assert log.spent <= least
    assert known.quality(log.answer) >= best_arm(known, problem) - 0.05
    for budget in (least, least + 1, least + 60, least + 200):
        assert drive(replace(problem, budget=budget), answering(known)).verdict.winner is not None  # type: ignore[union-attr]


def test_it_stops_where_the_minutes_are_over() -> None:
    problem = replace(posed(), time_is_up=lambda: True)
    log = drive(problem, answering(landscape(2)))
    assert not log.slopes
    assert log.verdict is not None
    assert log.verdict.winner is not None
    assert log.spent < 0.5 * problem.budget


def test_few_examples_are_enough_to_run() -> None:
    known = landscape(2)
    examples = {split: known.ids[split][:20] for split in ("gradient", "search", "select")}
    log = drive(replace(posed(), examples=examples), answering(known))  # type: ignore[arg-type]
    assert log.verdict is not None
    assert log.verdict.winner is not None


# ---- what it asks


def logs() -> list[Log]:
    return [undisturbed(), undisturbed(5), undisturbed(1, gradient=False), undisturbed(budget=700)]


@pytest.mark.parametrize("number", range(4))
def test_the_test_split_is_never_asked_for_and_every_split_serves_its_purpose(number: int) -> None:
    log = logs()[number]
    known = landscape(2)
    for score in log.scores:
        assert score.split in ("search", "select")
        assert {name.rpartition(":")[2].rstrip("0123456789") for name in score.ids} == {score.split}
    for slope in log.slopes:
        assert {name.rpartition(":")[2].rstrip("0123456789") for name in slope.ids} == {"gradient"}
    assert known.ids["test"]


@pytest.mark.parametrize("number", range(4))
def test_no_example_is_scored_twice_for_a_candidate(number: int) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    for score in logs()[number].scores:
        seen.update((score.candidate.number, name) for name in score.ids)
    assert max(seen.values()) == 1


@pytest.mark.parametrize("number", range(4))
def test_every_point_asked_about_is_within_the_bounds(number: int) -> None:
    frame = posed().frame
    log = logs()[number]
    points = [score.candidate.place for score in log.scores] + [slope.point for slope in log.slopes]
    assert all(frame.contains(point) for point in points)


@pytest.mark.parametrize("number", range(4))
def test_every_candidate_that_was_scored_is_closed_in_the_end(number: int) -> None:
    log = logs()[number]
    assert {score.candidate.number for score in log.scores} <= {close.candidate.number for close in log.closed}


@pytest.mark.parametrize("number", range(4))
def test_no_candidate_is_closed_twice(number: int) -> None:
    closed = Counter(close.candidate.number for close in logs()[number].closed)
    assert [one for one, count in closed.items() if count > 1] == []


@pytest.mark.parametrize("number", range(4))
def test_nothing_is_asked_of_a_candidate_after_it_was_closed(number: int) -> None:
    closed: set[int] = set()
    for asks, _ in logs()[number].rounds:
        assert not closed & {ask.candidate.number for ask in asks if isinstance(ask, Score)}
        closed |= {ask.candidate.number for ask in asks if not isinstance(ask, Score) and hasattr(ask, "candidate")}


@pytest.mark.parametrize("number", range(4))
def test_a_candidate_is_closed_with_what_it_scored(number: int) -> None:
    known = landscape({0: 2, 1: 5, 2: 1, 3: 2}[number])
    log = logs()[number]
    last = {close.candidate.number: close for close in log.closed}
    ids: dict[int, list[str]] = {}
    for score in log.scores:
        if score.split == "search":
            ids.setdefault(score.candidate.number, []).extend(score.ids)
    measure = posed().measure if number in (0, 3) else replace(posed().measure, tasks=known.tasks)
    for candidate, own in ids.items():
        close = last[candidate]
        assert close.examples == len(own)
        assert close.value == pytest.approx(measure.mean(known.score(close.candidate.place, own)))


# ---- the same again


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
def test_the_same_seed_asks_the_same_and_another_does_not(gradient: bool) -> None:
    again = drive(posed(gradient=gradient), answering(landscape(2)))
    assert list(told(again.asks)) == list(told(undisturbed(gradient=gradient).asks))
    assert list(told(undisturbed(seed=2, gradient=gradient).asks)) != list(told(again.asks))


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_a_search_that_hears_its_old_answers_goes_on_as_if_never_torn(gradient: bool, share: float) -> None:
    old = undisturbed(gradient=gradient)
    record = [answer for _, answers in old.rounds[: int(share * len(old.rounds))] for answer in answers]
    live, heard = answering(landscape(2)), iter(record)

    def answer(ask: Ask) -> Answer:
        return next(heard) if left_of(heard) else live(ask)

    def left_of(_: object) -> bool:
        left[0] -= 1
        return left[0] >= 0

    left = [len(record)]
    assert list(told(drive(posed(gradient=gradient), answer).asks)) == list(told(old.asks))


# ---- what fails


def test_a_warm_start_that_fails_is_left_out() -> None:
    known = landscape(2)
    log = drive(posed(), without(known, lambda ask: isinstance(ask, Score) and ask.candidate.number == 3))
    assert known.quality(log.answer) > best_arm(known, posed())
    assert all(close.value is None for close in log.closed if close.candidate.number == 3)
    assert sum(score.candidate.number == 3 for score in log.scores) == 1


def test_where_no_warm_start_can_be_scored_there_is_no_winner() -> None:
    log = drive(posed(), without(landscape(2), lambda ask: isinstance(ask, Score)))
    assert log.verdict is not None
    assert (log.verdict.winner, log.verdict.finalists) == (None, ())


def test_what_is_no_point_of_the_space_is_compared_but_not_started_from() -> None:
    known = landscape(2)
    answer = answering(known)

    def with_outsider(ask: Ask) -> Answer:
        if isinstance(ask, Score) and ask.candidate.point is None:
            return Scored([Outcome(name, 1.0, 1.0) for name in ask.ids])
        return answer(ask)

    problem = posed()
    log = drive(replace(problem, arms=[Arm("elsewhere", None), *problem.arms]), with_outsider)
    assert log.verdict is not None
    assert log.verdict.winner is not None
    assert log.verdict.winner.point is not None
    assert any(close.candidate.label == "elsewhere" and close.value == pytest.approx(1.0) for close in log.closed)


def test_baselines_that_were_scored_are_closed_also_where_there_is_nothing_to_start_from() -> None:
    def outsiders_only(ask: Ask) -> Answer:
        if isinstance(ask, Score):
            inside = ask.candidate.point is not None
            return Scored((), "broken") if inside else Scored([Outcome(name, 1.0, 1.0) for name in ask.ids])
        return None

    problem = posed()
    log = drive(replace(problem, arms=[Arm("elsewhere", None), *problem.arms]), outsiders_only)
    assert any(close.candidate.label == "elsewhere" for close in log.closed)


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
def test_members_that_fail_do_not_end_the_search(gradient: bool) -> None:
    known = landscape(2)

    def fails(ask: Ask) -> bool:
        return (
            isinstance(ask, Score) and ask.candidate.number > 7 and ask.candidate.number % (2 if gradient else 5) == 0
        )

    log = drive(posed(gradient=gradient), without(known, fails))
    assert known.quality(log.answer) > best_arm(known, posed()) + (0.2 if gradient else 0.03)
    failed = {close.candidate.number for close in log.closed if close.value is None}
    assert failed
    assert log.verdict is not None
    assert not failed & {one.number for one in log.verdict.finalists}


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
def test_the_winner_is_never_a_merge_that_failed(rate: float, gradient: bool) -> None:
    """A merge may fail at any ask, also one that was scored before: workers are lost on it, a text is too long."""
    for seed in range(12):
        rng, failed = random.Random(seed), set[int]()

        def fails(ask: Ask, rng: random.Random = rng, failed: set[int] = failed) -> bool:
            if not isinstance(ask, Score) or ask.candidate.number < 3:
                return False
            if ask.candidate.number not in failed and rng.random() < rate:
                failed.add(ask.candidate.number)
            return ask.candidate.number in failed

        log = drive(posed(budget=4000, seed=seed, gradient=gradient), without(landscape(2), fails))
        assert log.verdict is not None
        assert log.verdict.winner is not None
        assert log.verdict.winner.number not in failed


def test_where_a_leader_fails_on_select_another_finalist_wins() -> None:
    known = landscape(2)
    old = undisturbed(budget=2000).verdict
    assert old is not None
    assert old.winner is not None
    number = old.winner.number

    def fails(ask: Ask) -> bool:
        return isinstance(ask, Score) and ask.split == "select" and ask.candidate.number == number

    log = drive(posed(budget=2000), without(known, fails))
    assert log.verdict is not None
    assert log.verdict.winner is not None
    asked = {score.candidate.number for score in log.scores if score.split == "select"}
    assert number in asked
    assert log.verdict.winner.number != number


def test_where_every_finalist_fails_on_select_there_is_still_an_end() -> None:
    log = drive(posed(budget=4000), without(landscape(2), lambda ask: isinstance(ask, Score) and ask.split == "select"))
    assert any(score.split == "select" for score in log.scores)
    assert log.verdict is not None


# ---- gradients that fail, and that mislead


def test_gradients_that_fail_leave_the_rest_of_the_search() -> None:
    known = landscape(2)
    log = drive(posed(), without(known, lambda ask: isinstance(ask, Slope)))
    assert any("A descent ended after 0 steps: the loss is not finite" in note for note in log.notes)
    assert known.quality(log.answer) > best_arm(known, posed()) + 0.05


def test_gradients_that_always_fail_are_not_asked_for_again_and_again() -> None:
    log = drive(posed(), without(landscape(2), lambda ask: isinstance(ask, Slope)))
    assert len(log.slopes) <= 2


def test_no_merge_is_scored_under_two_numbers() -> None:
    """A descent that ends at its first step has found nothing: its answer is its start."""
    log = drive(posed(), without(landscape(2), lambda ask: isinstance(ask, Slope)))
    points = {score.candidate.number: score.candidate.place.tobytes() for score in log.scores}
    assert len(set(points.values())) == len(points)


def test_a_descent_that_breaks_half_way_keeps_what_it_found() -> None:
    known = landscape(2)
    count = [0]

    def fails(ask: Ask) -> bool:
        count[0] += isinstance(ask, Slope)
        return isinstance(ask, Slope) and count[0] > 9

    log = drive(posed(), without(known, fails))
    assert any("A descent ended after 9 steps" in note for note in log.notes)
    assert any(score.candidate.label == "gradient 1" for score in log.scores)
    assert known.quality(log.answer) > best_arm(known, posed()) + 0.1


def misled(known: Quadratics) -> Callable[[Ask], Answer]:
    """Every gradient points the other way."""
    answer = answering(known)

    def turned(ask: Ask) -> Answer:
        found = answer(ask)
        return Sloped(-found.gradient, found.losses) if isinstance(found, Sloped) else found

    return turned


def test_where_the_gradient_misleads_its_answer_is_left_and_the_report_says_so() -> None:
    known = landscape(2)
    log = drive(posed(), misled(known))
    assert any("no better than its start on search examples, and was left" in note for note in log.notes)
    assert known.quality(log.answer) > best_arm(known, posed()) + 0.05
    assert log.verdict is not None
    assert log.verdict.winner is not None
    assert log.verdict.winner.label != "gradient 1"


def test_after_a_gradient_that_misled_the_search_looks_as_widely_as_without_one() -> None:
    """Nothing was found near the warm start, so a search near it alone would miss the rest."""

    def width(log: Log) -> float:
        first = [
            score.candidate.place
            for score in log.scores
            if score.candidate.about.get("generation") == 0 and score.candidate.about.get("stage") == "scales"
        ]
        assert first
        return float(np.std(first, axis=0).mean())

    assert width(drive(posed(), misled(landscape(2)))) > 0.5 * width(undisturbed(gradient=False))


def test_a_loss_that_ranks_merges_the_wrong_way_round_is_not_followed() -> None:
    answer = answering(landscape(2))

    def contrary(ask: Ask) -> Answer:
        found = answer(ask)
        if isinstance(found, Scored):
            return Scored([Outcome(one.id, one.metric, 1 - (one.smooth or 0.0)) for one in found.outcomes])
        return found

    log = drive(posed(), contrary)
    assert not log.slopes
    assert any("does not rank merges like the metric" in note for note in log.notes)


def test_the_reason_for_no_gradient_is_told() -> None:
    log = undisturbed(gradient=False)
    assert not log.slopes
    assert f"The gradient of the coefficients was not used: {NO_GRADIENT}." in log.notes
