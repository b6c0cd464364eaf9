"""What a report is told of a search: its cost from what was recorded, its errors, its notes, its front."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from optimizer.events import log_event
from optimizer.evidence import Evidence
from optimizer.examples import read_ledger
from optimizer.finish import Finish
from optimizer.gradients import read_gradients
from optimizer.headline import headline
from optimizer.jobs import get_job
from optimizer.ledger import CALIBRATED, job_ledger
from optimizer.outcomes import scored_count
from optimizer.progress import PlainLines
from optimizer.results import Results, from_json, to_json
from optimizer.study import all_trials
from optimizer.summary import Summary
from tests.integration.search.auto_bench import AutoBench, pool_of
from tests.integration.search.bench import Bench, FormulaPool, finish_of, job_file


def _by_auto(folder: Path, **options: Any) -> tuple[AutoBench, Results]:
    bench = AutoBench(folder, **options)
    conductor = bench.conductor(pool_of())
    searched = conductor.search()
    ending = Finish(
        study=conductor.study,
        tasks=bench.plan.tasks,
        scorer=conductor.scorer,
        recipe=lambda number: conductor.recipe(all_trials(conductor.study)[number]),
        recorded=conductor.evidence.outcomes,
        open_test=lambda: None,
        progress=PlainLines(),
        count=3,
        whole=bench.plan.examples["search"],
    ).run(searched)
    job = get_job(bench.database, "bench")
    return bench, Summary(job, bench.job, bench.plan, conductor.study, conductor.evidence).results(
        ending, "done", 1.0, 1
    )


def test_the_cost_is_what_is_recorded_and_the_ledger_tells_the_same(tmp_path: Path) -> None:
    bench, results = _by_auto(tmp_path)
    job = get_job(bench.database, "bench")
    scored = scored_count(bench.database, job.id)
    gradient = sum(len(row.positions) for row in read_gradients(bench.database, job.id))
    assert gradient > 0
    assert results.efe == {"gradient": 3 * gradient, "search": scored["search"], "select": scored.get("select", 0)}
    assert sum(results.efe.values()) <= 9000
    assert results.tested == scored["test"] == 120 * len(results.test)
    looked = {one.split: one.scored for one in job_ledger(bench.database, job).splits}
    assert looked == {"gradient": gradient, **{split: scored.get(split, 0) for split in ("search", "select", "test")}}
    assert sum(row.examples for row in results.trials) == results.efe["search"]


def test_trials_have_the_errors_and_the_report_the_notes_that_the_strategy_left(tmp_path: Path) -> None:
    _, results = _by_auto(tmp_path, no_gradient="`ties` is not linear in its coefficients")
    assert any("`ties` is not linear" in note for note in results.notes)
    assert results.efe["gradient"] == 0
    winner = next(row for row in results.trials if row.number == results.winner)
    assert winner.standard_error is not None
    assert 0 < winner.standard_error < 0.1
    assert results.engine == "auto"
    assert from_json(to_json(results)) == results


def test_what_virtual_experts_were_calibrated_with_is_charged(tmp_path: Path) -> None:
    bench, before = _by_auto(tmp_path)
    job = get_job(bench.database, "bench")
    log_event(bench.database, job.id, CALIBRATED, {"virtual": "regmean", "examples": 64, "efe": 66})
    evidence = Evidence(bench.database, job.id, job.attempt, read_ledger(bench.database, job.id))
    after = Summary(job, bench.job, bench.plan, bench.study(), evidence).results(None, "running", 1.0, 0)
    assert after.efe == {**before.efe, "gradient": before.efe["gradient"] + 66}


def test_a_search_for_several_objectives_ends_with_its_front(tmp_path: Path) -> None:
    tasks = [{"task": "north_task", "objective": "north"}, {"task": "south_task", "objective": "south"}]
    bench = Bench(tmp_path, job_file(evaluate={"tasks": tasks}, search={"engine": "nsga2", "budget": {"trials": 40}}))
    attempt = bench.attempt(FormulaPool(1))
    attempt.coordinator.search()
    ending = finish_of(bench, attempt).run()
    job = get_job(bench.database, "bench")
    results = Summary(job, bench.job, bench.plan, attempt.study, attempt.evidence).results(ending, "done", 1.0, 1)
    front = results.front
    assert front is not None
    trials = [one for one in all_trials(attempt.study) if one.state == TrialState.COMPLETE]
    for one in trials:
        beaten = any(
            all(a >= b for a, b in zip(other.values, one.values, strict=True)) and other.values != one.values
            for other in trials
        )
        assert (one.number in front.trials) is not beaten
    base = next(row for row in results.trials if row.label == "base")
    assert front.reference == pytest.approx({name: value - 0.01 for name, value in base.values.items()})
    assert front.hypervolume > 0
    assert any("covers a hypervolume" in sentence for sentence in headline(results))
    assert from_json(to_json(results)) == results
