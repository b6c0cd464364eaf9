"""A job searched by the strategy `auto`: its trials, its money, and what a crash leaves of it."""

import math
from pathlib import Path

import pytest
from optuna.trial import TrialState

from evaluators.protocol import Outcome
from merging.recipe import Source
from optimizer.auto.conductor import NOTES
from optimizer.errors import JobFailed
from optimizer.gradients import read_gradients
from optimizer.outcomes import scored_count
from optimizer.pool import Answer, Unit
from optimizer.scorer import Finished, Interrupted, Round
from optimizer.starts import further_baselines
from optimizer.study import all_trials
from tests.integration.search.auto_bench import AutoBench, auto_job, collected, differentiated, let_go, pool_of
from tests.integration.search.bench import EXPERTS, GROUPS, dies_after, formula, job_file, plan_of, scored, told


def test_it_finds_a_better_merge_than_every_warm_start_and_says_which(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path)
    pool = pool_of()
    conductor = bench.conductor(pool)
    ending = conductor.search()
    trials = all_trials(conductor.study)
    tests = [f"{task}:test{number}" for task in ("north_task", "south_task") for number in range(60)]

    def quality(number: int) -> float:
        recipe = conductor.recipe(trials[number]).model_dump(mode="json")
        return math.fsum(formula(recipe, name) for name in tests) / len(tests)

    baselines = [trial.number for trial in trials if trial.user_attrs["origin"] == "baseline"]
    assert quality(ending.winner) > max(map(quality, baselines)) + 0.05
    assert ending.winner in ending.finalists


def test_every_candidate_is_a_trial_that_ends_with_an_estimate_its_examples_and_its_error(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path)
    conductor = bench.conductor(pool_of())
    conductor.search()
    for trial in all_trials(conductor.study):
        assert trial.state == TrialState.COMPLETE
        assert trial.user_attrs["examples"] >= 2
        assert "score" in trial.user_attrs["standard_error"]


def test_the_test_split_is_not_looked_at_and_the_budget_is_kept(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path)
    pool = pool_of()
    conductor = bench.conductor(pool)
    conductor.search()
    counts = scored_count(bench.database, conductor.evidence.job_id)
    assert set(counts) <= {"search", "select"}
    gradient = sum(len(row.positions) for row in read_gradients(bench.database, conductor.evidence.job_id))
    assert gradient > 0
    assert sum(counts.values()) + 3 * gradient <= 9000


@pytest.mark.parametrize("workers", [1, 5])
def test_a_search_torn_many_times_goes_the_way_of_an_undisturbed_one(tmp_path: Path, workers: int) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "torn").mkdir()
    calm = AutoBench(tmp_path / "calm")
    undisturbed = calm.conductor(pool_of(workers))
    expected = undisturbed.search()

    torn = AutoBench(tmp_path / "torn")
    for calls in (3, 9, 27, 40, 60):
        dying = torn.conductor(pool_of(workers), dies_after(calls))
        with pytest.raises(Interrupted):
            dying.search()
        let_go(dying)
    last = torn.conductor(pool_of(workers))
    assert last.search() == expected
    assert told(last.study) == told(undisturbed.study)
    assert scored_count(torn.database, last.evidence.job_id) == scored_count(calm.database, undisturbed.evidence.job_id)


def test_nothing_is_scored_again_when_a_finished_search_is_opened(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path)
    first = bench.conductor(pool_of())
    ending = first.search()
    let_go(first)
    pool = pool_of()
    assert bench.conductor(pool).search() == ending
    assert pool.asked == []


def test_one_ask_is_shared_among_the_workers_that_would_wait(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path)
    conductor = bench.conductor(pool_of(workers=4))
    conductor.search()
    shards = [row.shard for row in read_gradients(bench.database, conductor.evidence.job_id)]
    assert max(shards) >= 1


def test_without_a_gradient_the_reason_is_in_the_notes_and_the_search_goes_on(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path, no_gradient="`ties` is not linear in its coefficients")
    pool = pool_of()
    conductor = bench.conductor(pool)
    conductor.search()
    assert all(unit.scales is None for unit in pool.asked)
    assert "`ties` is not linear" in conductor.study.user_attrs[NOTES][0]


def test_a_merge_that_fails_is_told_so_and_the_search_goes_on(tmp_path: Path) -> None:
    def change(unit: Unit) -> Answer | None:
        return scored(unit, error="weights are NaN") if unit.key in ("2/search", "11/search") else None

    bench = AutoBench(tmp_path)
    conductor = bench.conductor(pool_of(change=change))
    conductor.search()
    failed = [trial for trial in all_trials(conductor.study) if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["error"] for trial in failed] == ["weights are NaN"] * 2


def test_a_gradient_that_fails_is_noted_and_the_search_goes_on_without(tmp_path: Path) -> None:
    def change(unit: Unit) -> Answer | None:
        return differentiated(unit, error="loss is NaN") if unit.scales is not None else None

    bench = AutoBench(tmp_path)
    conductor = bench.conductor(pool_of(change=change))
    conductor.search()
    assert any("loss is NaN" in note for note in conductor.study.user_attrs[NOTES])


@pytest.mark.parametrize("workers", [1, 5])
def test_a_torn_search_does_not_ask_again_for_a_gradient_that_failed(tmp_path: Path, workers: int) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "torn").mkdir()

    def failing(unit: Unit) -> Answer | None:
        return differentiated(unit, error="loss is NaN") if unit.key.startswith("12/gradient") else None

    undisturbed = AutoBench(tmp_path / "calm").conductor(pool_of(workers, failing))
    expected = undisturbed.search()
    assert any("ended after 12 steps: loss is NaN" in note for note in undisturbed.study.user_attrs[NOTES])

    torn = AutoBench(tmp_path / "torn")
    met: list[str] = []

    def dies() -> None:
        if met:
            raise Interrupted("interrupt")

    def fails_once(unit: Unit) -> Answer | None:
        answer = failing(unit)
        met.extend([unit.key] if answer is not None else [])
        return answer

    dying = torn.conductor(pool_of(workers, fails_once), dies)
    with pytest.raises(Interrupted):
        dying.search()
    let_go(dying)
    sound = pool_of(workers)  # would answer, were it asked
    last = torn.conductor(sound)
    assert last.search() == expected
    assert not [unit.key for unit in sound.asked if unit.key.startswith("12/gradient")]
    assert told(last.study) == told(undisturbed.study)
    assert last.study.user_attrs[NOTES] == undisturbed.study.user_attrs[NOTES]


def test_a_torn_search_does_not_ask_again_for_a_virtual_expert_that_failed(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path, virtual=("regmean",))
    asked: list[str] = []

    def failing(unit: Unit) -> Answer | None:
        if unit.statistics is None:
            return None
        asked.append(unit.statistics["expert"])
        return collected(unit, error="an input is NaN")

    dying = bench.conductor(pool_of(change=failing), dies_after(60), folder=tmp_path)
    with pytest.raises(Interrupted):
        dying.search()
    notes = dying.study.user_attrs[NOTES]
    assert any("regmean could not be made: an input is NaN" in note for note in notes)
    let_go(dying)
    last = bench.conductor(pool_of(change=failing), folder=tmp_path)
    last.search()
    assert asked == ["north", "south"]
    assert last.study.user_attrs[NOTES][: len(notes)] == notes


def test_a_virtual_expert_moves_by_its_own_gradient_where_another_could_not_be_made(tmp_path: Path) -> None:
    """The one that is there stands second in the space, and first in what the workers say."""
    bench = AutoBench(tmp_path, virtual=("ties", "regmean"))
    bench.plan = bench.plan.model_copy(update={"made": {"regmean": Source(path=str(tmp_path))}})
    conductor = bench.conductor(pool_of(), folder=tmp_path)
    conductor.search()
    assert any("ties could not be made" in note for note in conductor.study.user_attrs[NOTES])
    found = [one.params for one in all_trials(conductor.study) if one.user_attrs.get("stage") == "gradient"]
    assert any(value not in (0.0, 1.0) for params in found for name, value in params.items() if "regmean" in name)
    assert all(value == 0.0 for params in found for name, value in params.items() if "ties" in name)


def test_a_job_in_which_no_merge_can_be_scored_fails_with_the_reason(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path)
    conductor = bench.conductor(pool_of(change=lambda unit: scored(unit, error="weights are NaN")))
    with pytest.raises(JobFailed, match="weights are NaN"):
        conductor.search()


def test_a_budget_of_minutes_ends_the_search_and_stays_ended(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path, auto_job(budget={"minutes": 1e-9}))
    first = bench.conductor(pool_of())
    ending = first.search()
    trials = len(all_trials(first.study))
    let_go(first)
    again = bench.conductor(pool_of())
    assert again.search() == ending
    assert len(all_trials(again.study)) == trials


def test_a_budget_of_trials_is_kept_by_a_torn_search_as_well(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "torn").mkdir()
    calm = AutoBench(tmp_path / "calm", auto_job(budget={"trials": 20}))
    undisturbed = calm.conductor(pool_of())
    expected = undisturbed.search()
    torn = AutoBench(tmp_path / "torn", auto_job(budget={"trials": 20}))
    dying = torn.conductor(pool_of(), dies_after(40))
    with pytest.raises(Interrupted):
        dying.search()
    let_go(dying)
    last = torn.conductor(pool_of())
    assert last.search() == expected
    assert told(last.study) == told(undisturbed.study)


def test_a_closed_form_merge_has_to_win_the_screen_unless_it_needs_data_or_the_job_names_it() -> None:
    plan = plan_of(auto_job()).model_copy(update={"virtual": ("ties", "regmean")})
    assert plan.screened(auto_job()) == ("ties",)
    assert plan.screened(auto_job(virtual=["ties", "regmean"])) == ()


def test_a_search_by_another_method_begins_at_its_usual_scales() -> None:
    job = job_file(method={"name": "ties", "structure": {"density": 0.3}}, search={"budget": {"examples": 3000}})
    norms = {expert: {group.name: 1.0 for group in GROUPS} for expert in EXPERTS}
    found = further_baselines(job, plan_of(job), GROUPS, norms)
    rows = {
        one.label: (one.recipe.method, one.recipe.structure, set(one.recipe.coefficients.values())) for one in found
    }
    assert rows == {
        "ties 0.4": ("ties", {"density": 0.3}, {(0.4, 0.4)}),
        "ties 1": ("ties", {"density": 0.3}, {(1.0, 1.0)}),
    }
    assert all(one.parameters is not None for one in found)


def test_a_space_that_holds_no_baseline_is_searched_from_its_middle(tmp_path: Path) -> None:
    job = job_file(
        space={"granularity": "global", "bounds": [0.65, 0.95]},
        search={"engine": "auto", "budget": {"examples": 3000}},
    )
    bench = AutoBench(tmp_path, job)
    conductor = bench.conductor(pool_of())
    ending = conductor.search()
    assert all_trials(conductor.study)[ending.winner].params


def test_parts_of_a_round_may_end_in_any_order(tmp_path: Path) -> None:
    bench = AutoBench(tmp_path)
    conductor = bench.conductor(pool_of())
    conductor.search()
    evidence, recipe = conductor.evidence, conductor.recipe(all_trials(conductor.study)[0])
    names = evidence.ids("select")[:4]
    late, early = (Round(0, "select", recipe, tuple(names[at : at + 2]), at // 2) for at in (0, 2))
    for one in (early, late):
        evidence.record(Finished(one, [Outcome(name, 1.0) for name in one.ids or ()], {"forward": 0.0}), "worker-1")
    assert {outcome.id for outcome in evidence.outcomes(0, "select") or ()} >= set(names)
