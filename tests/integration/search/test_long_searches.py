"""A search of many trials asks no more of the database, and holds no more in memory, than one of few."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import Engine, event

from benchmarks.service.coordinator import measured
from benchmarks.service.filling import fill, told_by
from benchmarks.service.job import SimulatedJob, job_file
from benchmarks.service.simulated import SimulatedPool, Skipping, lasting
from benchmarks.service.workers import busy_share
from optimizer import evidence
from optimizer.study import all_trials, known, open_storage


class Statements:
    """Counts what an engine is asked, and the rows that are written."""

    def __init__(self, engine: Engine) -> None:
        self.asked: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.asked.append(" ".join(re.split(r"\s+", statement)[:3]))


@pytest.mark.parametrize("engine", ["cma-es", "random"])
def test_a_late_trial_asks_the_database_as_little_as_an_early_one(database_url: str, engine: str) -> None:
    job = SimulatedJob(database_url, job_file(engine, trials=260), parameters=8, examples=20)
    attempt = job.attempt(SimulatedPool(1, lasting(1.0), Skipping()), 1)
    statements = Statements(attempt.study._storage._backend.engine)  # type: ignore[attr-defined]
    counts: list[int] = []
    record = attempt.scorer.record

    def counting(*arguments: Any) -> None:
        counts.append(len(statements.asked))
        record(*arguments)

    attempt.scorer.record = counting
    attempt.coordinator.search()
    each = [after - before for before, after in pairwise(counts)]
    # once a second it looks for trials that somebody else has queued; the very last is the engine's answer
    assert max(each[-101:-1]) <= min(each[10:110]) + 2
    assert max(each) < 20


def test_a_study_that_was_filled_is_one_that_its_engine_goes_on_from(database_url: str) -> None:
    walked = SimulatedJob(database_url, job_file("cma-es", trials=30, name="walked"), parameters=8)
    distributions: Any = walked.plan.space(walked.file).distributions()
    assert walked.plan.start is not None
    past = list(told_by("cma-es", distributions, walked.plan.start, walked.file.search.seed, 25))
    storage = open_storage(database_url)
    study = walked.study(storage)
    fill(storage, study, distributions, past, attributes=True)
    assert [trial.params for trial in all_trials(study)] == [one.parameters for one in past]

    attempt = walked.attempt(SimulatedPool(1, lasting(1.0), Skipping()), 1)
    following = attempt.engine.ask()
    assert following is not None
    further = list(told_by("cma-es", distributions, walked.plan.start, walked.file.search.seed, 26))[-1]
    assert following.params == pytest.approx(further.parameters)
    assert following.user_attrs == dict(further.attributes)
    assert [trial.number for trial in known(attempt.study)] == list(range(26))


def test_outcomes_that_no_longer_fit_in_memory_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "HELD", 50)
    job = SimulatedJob(f"sqlite:///{tmp_path}/a.db", job_file("random", trials=15), parameters=8, examples=20)
    attempt = job.attempt(SimulatedPool(3, lasting(1.0), Skipping()), 3)
    attempt.coordinator.search()
    assert sum(map(len, attempt.evidence._known.values())) <= 50
    attempt.end()
    other = job.attempt(SimulatedPool(1, lasting(1.0)), 1).evidence  # another process reads all of it
    for trial in all_trials(attempt.study):
        assert attempt.evidence.outcomes(trial.number, "search") == other.outcomes(trial.number, "search")
        assert len(other.outcomes(trial.number, "search") or ()) == 20


def test_the_benchmarks_measure_both_contestants_on_equal_studies(tmp_path: Path) -> None:
    row = measured(f"sqlite:///{tmp_path}/a.db", "random", told=30, parameters=8, trials=5, rounds=1)
    assert row.ours > 0
    assert row.optuna > 0
    storage = f"sqlite:///{tmp_path}/a.db"
    ours, theirs = (optuna.load_study(study_name=name, storage=storage).trials for name in ("service", "theirs"))
    assert [trial.params for trial in ours[:30]] == [trial.params for trial in theirs[:30]]


def test_workers_are_busy_where_the_coordinator_keeps_up(tmp_path: Path) -> None:
    pool = SimulatedPool(8, lasting(30.0), Skipping())
    job = SimulatedJob(f"sqlite:///{tmp_path}/a.db", job_file("random", trials=40), parameters=8, examples=20)
    job.attempt(pool, 8).coordinator.search()
    assert len(pool.asked) == 40
    assert busy_share(pool) > 0.5
